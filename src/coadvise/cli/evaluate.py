"""`coadvise evaluate`, `predict` and `report`: accuracy, predictions and the page of a trained model."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DataError
from ..system.progress import Display
from ..system.screen import Table, printable
from .arguments import AsJson, accuracy_table, out

if TYPE_CHECKING:
    from ..evaluation.prediction import Prediction
    from ..evaluation.robustness import CorruptionErrors


def evaluate(
    model: Annotated[Path, typer.Argument(help="a run's folder, or its best.safetensors")],
    data: Annotated[str | None, typer.Option(help="another source; by default the run's validation set")] = None,
    split: Annotated[str | None, typer.Option(help="split of that source")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    workers: Annotated[int | None, typer.Option(min=0)] = None,
    corruptions: Annotated[bool, typer.Option("--corruptions", help="on 15 corruptions at 5 severities, too")] = False,
    only: Annotated[bool, typer.Option("--only-its-classes", help="count among the source's own classes")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure the accuracy of every token.

    Examples:

        coadvise evaluate runs/pets

        coadvise evaluate runs/pets --data /data/pets-sketches

        coadvise evaluate runs/pets --corruptions

        coadvise evaluate runs/cit-s --data /data/imagenet-r --only-its-classes
    """
    if only and corruptions:
        raise DataError("--corruptions and --only-its-classes exclude each other; give one of them")
    from ..checkpoints.trained import load_trained
    from ..data.sources.opening import open_source, open_sources
    from ..evaluation.inference import evaluate_trained, with_classes
    from ..evaluation.robustness import corruption_errors, subset_accuracy
    from ..system.devices import choose_device

    trained, display = load_trained(model, choose_device()).with_workers(workers), Display(quiet=as_json)
    whole = data is None and split is None
    source = open_sources(trained.data)[1] if whole else open_source(data or trained.data.source, split, display.say)
    if only:
        shares = subset_accuracy(trained, source, batch_size=batch_size, display=display)
        metrics = {f"accuracy/{token}": share for token, share in shares.items()}
        title = f"{len(source)} images, counted among {len(source.class_names)} classes"
    else:
        metrics = evaluate_trained(trained, source, batch_size=batch_size, display=display)
        title = f"{trained.path}: {metrics['samples']:.0f} images"
    errors = None
    if corruptions:
        matched = with_classes(source, trained.classes)
        errors = corruption_errors(trained, matched, limit=None, batch_size=batch_size, display=display)
    if as_json:
        corrupted = {} if errors is None else {"corruptions": {"mean": errors.mean, **asdict(errors)}}
        print(json.dumps(metrics | corrupted, indent=1))
        return
    out.print(accuracy_table(title, metrics))
    if metrics.get("skipped"):
        out.print(f"{metrics['skipped']:.0f} unreadable images were left out")
    if errors is not None:
        _print_corruptions(errors)


def predict(
    images: Annotated[
        list[str], typer.Argument(help="image files, folders of images, or patterns such as 'trip/*.jpg'")
    ],
    model: Annotated[Path, typer.Option("--model", "-m", help="a run's folder, or its best.safetensors")],
    top: Annotated[int, typer.Option(min=1, help="classes to print")] = 5,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="print CSV: image, rank, class, probability")] = False,
) -> None:
    """Name what is in images: the likeliest classes with their probabilities.

    Examples:

        coadvise predict cat.jpg dog.png --model runs/pets

        coadvise predict photographs --model runs/pets --top 1 --csv > classes.csv
    """
    if as_json and as_csv:
        raise DataError("--json and --csv exclude each other; give one of them")
    from ..evaluation.prediction import image_files
    from ..evaluation.prediction import predict as run

    files, problems = image_files(images, Display().say)
    given = len(files) + len(problems)
    if files:
        from ..evaluation.inference import load
        from ..system.devices import choose_device

        show = _print_json if as_json else _print_csv if as_csv else _print_plain
        show(_readable(run(load(model, choose_device()), files, top), problems))
        sys.stdout.flush()
    if len(problems) > 1:
        listed = "".join(f"\n  {printable(problem)}" for problem in problems)
        raise DataError(f"{len(problems)} of {given} cannot be used:{listed}")
    if problems:
        raise DataError(printable(problems[0]))


def _readable(seen: Iterable[Prediction], problems: list[str]) -> Iterator[Prediction]:
    """The images that can be read; what is wrong with the others joins `problems`."""
    for one in seen:
        if one.problem is None:
            yield one
        else:
            problems.append(one.problem)


def _print_plain(seen: Iterable[Prediction]) -> None:
    for one in seen:
        out.print(str(one.path), style="bold")
        for name, probability in one.classes:
            out.print(f"  {probability:6.1%}  {name}")


def _print_json(seen: Iterable[Prediction]) -> None:
    print(json.dumps([{"image": str(one.path), "classes": dict(one.classes)} for one in seen], indent=1))


def _print_csv(seen: Iterable[Prediction]) -> None:
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(("image", "rank", "class", "probability"))
    for one in seen:
        for rank, (name, probability) in enumerate(one.classes, start=1):
            table.writerow((printable(str(one.path)), rank, printable(name), f"{probability:.6f}"))


def _print_corruptions(errors: CorruptionErrors) -> None:
    tokens = list(errors.mean)
    table = Table("corruption", *tokens, title="mean top-1 error over five severities", title_justify="left")
    for kind in errors.kinds[tokens[0]]:
        table.add_row(kind, *(f"{errors.of_kind(token, kind):.1%}" for token in tokens))
    table.add_row("mean", *(f"{errors.mean[token]:.1%}" for token in tokens), style="bold")
    out.print(table)


def report(folder: Annotated[Path, typer.Argument(help="a run's folder")]) -> None:
    """Write report.html for a run: tables, curves, similarity to the teachers.

    Example:

        coadvise report runs/pets
    """
    from ..reports.run import run_report

    out.print(f"wrote {run_report(folder)}")
