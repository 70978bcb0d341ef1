"""`coadvise evaluate` and `predict`: the accuracy of a trained model, also on shifted data, and its predictions."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..system.progress import Display
from .arguments import AsJson, out

if TYPE_CHECKING:
    from ..checkpoints.trained import TrainedModel
    from ..data.sources.base import ImageSource
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
    from ..checkpoints.trained import load_trained
    from ..evaluation.inference import evaluate_trained
    from ..system.devices import choose_device

    trained = load_trained(model, choose_device())
    if only:
        _among_its_classes(trained, data, split, as_json)
        return
    metrics: dict[str, Any] = evaluate_trained(
        trained, data, split, batch_size=batch_size, workers=workers, display=Display(quiet=as_json)
    )
    errors = _corrupted(trained, data, split, Display(quiet=as_json)) if corruptions else None
    if as_json:
        corrupted = {} if errors is None else {"corruptions": {"mean": errors.mean, **asdict(errors)}}
        print(json.dumps(metrics | corrupted, indent=1))
        return
    table = Table(title=f"{trained.path}: {metrics['samples']:.0f} images", title_justify="left")
    for column in ("token", "accuracy", "cross entropy"):
        table.add_column(column, justify="left" if column == "token" else "right")
    for name, value in metrics.items():
        if name.startswith("accuracy/"):
            token = name.removeprefix("accuracy/")
            loss = metrics.get(f"loss/{token}")
            table.add_row(token, f"{value:.2%}", "" if loss is None else f"{loss:.3f}")
    out.print(table)
    if metrics["skipped"]:
        out.print(f"{metrics['skipped']:.0f} unreadable images were left out")
    if errors is not None:
        _print_corruptions(errors)


def predict(
    images: Annotated[list[Path], typer.Argument(help="image files")],
    model: Annotated[Path, typer.Option("--model", "-m", help="a run's folder, or its best.safetensors")],
    top: Annotated[int, typer.Option(min=1, help="classes to print")] = 5,
    as_json: AsJson = False,
) -> None:
    """Name what is in images: the likeliest classes with their probabilities.

    Example:

        coadvise predict cat.jpg dog.png --model runs/pets
    """
    from ..checkpoints.trained import load_trained
    from ..evaluation.inference import predict as run
    from ..system.devices import choose_device

    results = run(load_trained(model, choose_device()), images, top)
    if as_json:
        print(json.dumps([{"image": str(path), "classes": dict(named)} for path, named in results], indent=1))
        return
    for path, named in results:
        out.print(str(path), markup=False, style="bold")
        for name, probability in named:
            out.print(f"  {probability:6.1%}  {name}", markup=False)


def _source(trained: TrainedModel, data: str | None, split: str | None) -> ImageSource:
    from ..data.sources.opening import open_source, open_sources

    settings = trained.recipe.data
    return open_sources(settings)[1] if data is None and split is None else open_source(data or settings.source, split)


def _corrupted(trained: TrainedModel, data: str | None, split: str | None, display: Display) -> CorruptionErrors:
    from ..evaluation.inference import with_classes
    from ..evaluation.robustness import corruption_errors

    source = with_classes(_source(trained, data, split), trained.classes)
    return corruption_errors(trained, source, limit=None, display=display)


def _print_corruptions(errors: CorruptionErrors) -> None:
    tokens = list(errors.mean)
    table = Table("corruption", *tokens, title="mean top-1 error over five severities", title_justify="left")
    for kind in errors.kinds[tokens[0]]:
        table.add_row(kind, *(f"{errors.of_kind(token, kind):.1%}" for token in tokens))
    table.add_row("mean", *(f"{errors.mean[token]:.1%}" for token in tokens), style="bold")
    out.print(table)


def _among_its_classes(trained: TrainedModel, data: str | None, split: str | None, as_json: bool) -> None:
    from ..evaluation.robustness import subset_accuracy

    source = _source(trained, data, split)
    found = subset_accuracy(trained, source, display=Display(quiet=as_json))
    if as_json:
        print(json.dumps({f"accuracy/{token}": value for token, value in found.items()}, indent=1))
        return
    title = f"{len(source)} images, counted among {len(source.class_names)} classes"
    table = Table("token", "accuracy", title=title, title_justify="left")
    for token, value in found.items():
        table.add_row(token, f"{value:.2%}")
    out.print(table)
