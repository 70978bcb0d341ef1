"""`coadvise predict`: what is in images, as any trained or exported model sees it."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.cells import cell_len

from ..errors import DataError
from ..system.imports import importing
from ..system.progress import Display
from ..system.screen import printable
from .arguments import out

if TYPE_CHECKING:
    from ..evaluation.prediction import Prediction
    from ..export.opening import Told

FOREIGN = "Of a model that others have exported"


def predict(
    images: Annotated[
        list[str], typer.Argument(help="image files, folders of images, or patterns such as 'trip/*.jpg'")
    ],
    model: Annotated[
        Path,
        typer.Option("--model", "-m", help="a run's folder, its best.safetensors, or what `coadvise export` wrote"),
    ],
    top: Annotated[int, typer.Option(min=1, help="classes to print")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, one image a line")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="print CSV: image, rank, class, probability")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="images that the model sees at once")] = 16,
    classes: Annotated[Path | None, typer.Option(help="its classes, one a line", rich_help_panel=FOREIGN)] = None,
    image_size: Annotated[int | None, typer.Option(min=1, help="pixels of a side", rich_help_panel=FOREIGN)] = None,
    crop: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=1,
            help="images are resized (bicubic) so that image-size is this share of the shorter side, and the middle is "
            "seen; 0.875 by default, 1 for all of that side",
            rich_help_panel=FOREIGN,
        ),
    ] = None,
    mean: Annotated[str | None, typer.Option(help="0.485,0.456,0.406 by default", rich_help_panel=FOREIGN)] = None,
    std: Annotated[str | None, typer.Option(help="0.229,0.224,0.225 by default", rich_help_panel=FOREIGN)] = None,
) -> None:
    """Name what is in images: the likeliest classes with their probabilities.

    Of a model that gives an image any number of classes, those that are likelier than not.

    Examples:

        coadvise predict cat.jpg dog.png --model runs/pets

        coadvise predict photographs --model runs/pets/export/model.onnx --top 1 --csv > classes.csv
    """
    if as_json and as_csv:
        raise DataError("--json and --csv exclude each other; give one of them")
    with importing():
        from ..evaluation.prediction import image_files
        from ..evaluation.prediction import predict as run

    display = Display()
    files, problems = image_files(images, display.say)
    given = len(files) + len(problems)
    if files:
        from ..export.opening import load

        told = _told(classes, image_size, crop, mean, std)
        seen = run(load(model, None, told=told), files, top, batch_size)
        show = _print_json if as_json else _print_csv if as_csv else _print_plain
        # On a terminal, rows that appear are all the progress that is needed.
        quiet = len(files) <= batch_size or ((as_json or as_csv) and sys.stdout.isatty())
        show(_readable(_with_bar(seen, len(files), Display(quiet=quiet)), problems))
        sys.stdout.flush()
        if show is _print_plain:  # not among the answers, which another program may read
            display.say("next: --csv writes a table for other programs, --top 1 the likeliest class alone")
    if len(problems) > 1:
        listed = "".join(f"\n  {printable(problem)}" for problem in problems)
        raise DataError(f"{len(problems)} of {given} cannot be used:{listed}")
    if problems:
        raise DataError(printable(problems[0]))


def _told(
    classes: Path | None, image_size: int | None, crop: float | None, mean: str | None, std: str | None
) -> Told | None:
    """What is said of a foreign model; None where nothing is."""
    if classes is image_size is crop is mean is std is None:
        return None
    from ..export.opening import Told, read_classes

    names = None if classes is None else read_classes(classes)
    return Told(names, image_size, _numbers("--mean", mean), _numbers("--std", std), crop)


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3:
        raise DataError(f"{option} is '{text}', must be three numbers, as 0.485,0.456,0.406")
    return numbers


def _with_bar(seen: Iterable[Prediction], total: int, display: Display) -> Iterator[Prediction]:
    with display.bar("predicting", total) as bar:
        for one in seen:
            bar.advance()
            yield one


def _readable(seen: Iterable[Prediction], problems: list[str]) -> Iterator[Prediction]:
    """The images that can be read; what is wrong with the others joins `problems`."""
    for one in seen:
        if one.problem is None:
            yield one
        else:
            problems.append(one.problem)


def _print_plain(seen: Iterable[Prediction]) -> None:
    """The classes of one image as a list; of several, a line for each image."""
    found = list(seen)
    if len(found) == 1:
        out.print(str(found[0].path), style="bold")
        for name, probability in found[0].classes:
            out.print(f"  {probability:6.1%}  {name}")
        if found[0].present is not None:
            out.print(f"  more than half: {', '.join(found[0].present) or 'none'}")
        return
    paths = [printable(str(one.path)) for one in found]
    width = max(map(cell_len, paths), default=0)
    for path, one in zip(paths, found, strict=True):
        space = " " * (width - cell_len(path))
        if one.present is not None:
            sure = ", ".join(f"{name} {odds:.1%}" for name, odds in one.classes if name in one.present)
            more = f" and {n} more" if (n := len(one.present) - len(one.classes)) > 0 else ""
            out.print(f"{path}{space}  {sure + more if sure else f'none (most: {one.name} {one.probability:.1%})'}")
            continue
        rest = "".join(f", {name} {probability:.1%}" for name, probability in one.classes[1:])
        out.print(f"{path}{space}  {one.probability:6.1%}  {one.name}{rest}")


def _print_json(seen: Iterable[Prediction]) -> None:
    for one in seen:
        present = {} if one.present is None else {"present": list(one.present)}
        print(json.dumps({"image": str(one.path), "classes": dict(one.classes), **present}))


def _print_csv(seen: Iterable[Prediction]) -> None:
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(("image", "rank", "class", "probability"))
    for one in seen:
        for rank, (name, probability) in enumerate(one.classes, start=1):
            table.writerow((printable(str(one.path)), rank, printable(name), f"{probability:.6f}"))
