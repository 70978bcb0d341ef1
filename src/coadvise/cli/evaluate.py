"""`coadvise evaluate` and `report`: accuracy and the page of a trained model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DataError
from ..system.imports import importing
from ..system.progress import Display
from ..system.screen import Table
from .arguments import AsJson, accuracy_table, next_steps, out

if TYPE_CHECKING:
    from ..data.sources.base import ImageSource
    from ..evaluation.robustness import CorruptionErrors


def evaluate(
    model: Annotated[Path, typer.Argument(help="a run's folder, or its best.safetensors")],
    data: Annotated[
        str | None,
        typer.Option(help="another source; by default the run's validation set", rich_help_panel="On which images"),
    ] = None,
    split: Annotated[str | None, typer.Option(help="split of that source", rich_help_panel="On which images")] = None,
    skip_unreadable: Annotated[
        bool,
        typer.Option(
            "--skip-unreadable", help="leave out images that cannot be read", rich_help_panel="On which images"
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="images that the model sees at once")] = 64,
    workers: Annotated[int | None, typer.Option(min=0, help="processes that read images")] = None,
    corruptions: Annotated[
        bool,
        typer.Option(
            "--corruptions", help="on 15 corruptions at 5 severities, too", rich_help_panel="What is measured"
        ),
    ] = False,
    only: Annotated[
        bool,
        typer.Option(
            "--only-its-classes", help="count among the source's own classes", rich_help_panel="On which images"
        ),
    ] = False,
    per_class: Annotated[
        bool,
        typer.Option(
            "--per-class", help="recall, precision and F1 of each class, too", rich_help_panel="What is measured"
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure the accuracy of every token, or its mAP where images have any number of classes.

    Examples:

        coadvise evaluate runs/pets

        coadvise evaluate runs/pets --per-class

        coadvise evaluate runs/pets --data /data/pets-sketches

        coadvise evaluate runs/pets --corruptions

        coadvise evaluate runs/cit-s --data /data/imagenet-r --only-its-classes
    """
    if only and corruptions:
        raise DataError("--corruptions and --only-its-classes exclude each other; give one of them")
    if only and per_class:
        raise DataError("--only-its-classes and --per-class exclude each other; give one of them")
    with importing():
        from ..checkpoints.trained import load_trained
        from ..data.sources.opening import open_source, open_sources
        from ..evaluation.inference import evaluate_trained, with_classes
        from ..evaluation.robustness import corruption_errors, subset_accuracy
        from ..evaluation.tasks import TASKS
        from ..models.students import answering_output
        from ..system.devices import choose_device
        from .classes import classes_as_json, print_classes

    trained = load_trained(model, choose_device(), several=not (corruptions or only)).with_workers(workers)
    trained = trained.without_unreadable() if skip_unreadable else trained
    display, whole, labels = Display(quiet=as_json), data is None and split is None, trained.data.labels
    if whole:
        source = open_sources(trained.data, several=True)[1]
    else:
        source = open_source(data or trained.data.source, split, display.say, labels=labels)
        if data in (None, trained.data.source) and trained.data.classes is not None:
            source = _known(source, trained.classes, display)
    if only:
        shares, seen = subset_accuracy(trained, source, batch_size=batch_size, display=display)
        metrics = {f"accuracy/{token}": share for token, share in shares.items()}
        metrics |= {"samples": float(seen), "skipped": float(len(source) - seen)}
        title = f"{seen:,} images, counted among {len(source.class_names)} classes"
    else:
        collected = TASKS[labels].collect() if per_class else None
        metrics = evaluate_trained(trained, source, batch_size=batch_size, display=display, collected=collected)
        title = f"{trained.path}: {metrics['samples']:,.0f} images"
    errors = None
    if corruptions:
        matched = with_classes(source, trained.classes)
        errors = corruption_errors(trained, matched, limit=None, batch_size=batch_size, display=display)
    found = None if only or collected is None else collected.answers("", trained.classes)
    if found is not None:
        found = replace(found, answering=answering_output(trained.model, found.outputs))
    if as_json:
        corrupted = {} if errors is None else {"corruptions": {"mean": errors.mean, **asdict(errors)}}
        classes = {} if found is None else {"classes": classes_as_json(found)}
        print(json.dumps(metrics | corrupted | classes, indent=1))
        return
    out.print(accuracy_table(title, metrics))
    if metrics.get("skipped"):
        out.print(f"{metrics['skipped']:,.0f} unreadable images were left out")
    if errors is not None:
        _print_corruptions(errors)
    if found is not None:
        print_classes(found)
    asked = [*([] if data is None else ["--data", data]), *([] if split is None else ["--split", split])]
    asked += ["--skip-unreadable"] if skip_unreadable else []
    more = ["coadvise", "evaluate", str(model), *asked, "--per-class"]
    use = ["coadvise", "predict", "IMAGE", "--model", str(model)]
    ways = [] if per_class or only else [f"which classes it mistakes: {shlex.join(more)}"]
    next_steps(*ways, f"name what is in your images: {shlex.join(use)}")


def _known(source: ImageSource, classes: Sequence[str], display: Display) -> ImageSource:
    """The images of classes that a run took of its data (`data.classes`); all where none is of such a class."""
    from ..data.sources.opening import only_classes

    names = [name for name in classes if name in source.class_names]
    if not names or len(names) == len(source.class_names):
        return source
    known = only_classes(source, names)
    display.say(f"{len(known):,} images of the run's classes (data.classes)")
    return known


def _print_corruptions(errors: CorruptionErrors) -> None:
    tokens = list(errors.mean)
    table = Table("corruption", *tokens, title="mean top-1 error over five severities", title_justify="left")
    for kind in errors.kinds[tokens[0]]:
        table.add_row(kind, *(f"{errors.of_kind(token, kind):.1%}" for token in tokens))
    table.add_row("mean", *(f"{errors.mean[token]:.1%}" for token in tokens), style="bold")
    out.print(table)


def report(folder: Annotated[Path, typer.Argument(help="a run's folder")]) -> None:
    """Write report.html for a run: how good it is and against what, single classes and images, curves.

    Example:

        coadvise report runs/pets
    """
    from ..reports.run import run_report
    from ..run.reading import read_run

    out.print(f"wrote {run_report(folder)}")
    result = read_run(folder).result
    compare = f", or compare the run with another: {shlex.join(['coadvise', 'compare', str(folder), 'RUN'])}"
    several = result is not None and result.several is not None  # which are not compared
    next_steps(f"open it in a browser{'' if several else compare}")
