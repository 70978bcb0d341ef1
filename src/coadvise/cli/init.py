"""`coadvise init`: a look at a data set, and a recipe for it."""

from __future__ import annotations

import csv
import io
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..system.files import require_absent, write_new
from ..system.progress import Display
from ..system.screen import Table, printable
from .arguments import Settings, next_steps, out

if TYPE_CHECKING:
    from ..data.survey import Duplicates, Survey

_SHOWN = 8  # findings of a kind that are printed


def init(
    source: Annotated[str, typer.Argument(help="an image folder, or whatever data.source takes")],
    settings: Settings = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="the recipe; by default NAME.yaml")] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="from now to the end of the training")] = 10.0,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="weights of a pretrained teacher: FILE, MODEL=FILE or the folder of a run"),
    ] = None,
    student_checkpoint: Annotated[
        str | None, typer.Option(help="weights that the student starts from, a ViT's: FILE, MODEL=FILE or a run")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="images of each split that are looked at, at most")] = 100_000,
    findings: Annotated[Path | None, typer.Option("--findings", help="write every finding to a CSV file")] = None,
) -> None:
    """Look at a data set (classes, sizes, damage, duplicates) and write a commented recipe that fits it and the time.

    Examples:

        coadvise init photographs

        coadvise init photographs --output pets.yaml --minutes 30 --checkpoint tf_efficientnet_lite0.safetensors

        coadvise init photographs data.val_source=more-photographs --findings findings.csv
    """
    started = time.monotonic()
    from ..cost.starting import look_at, name_of, propose_recipe, require_sound  # slow to import, so not at the top

    target = output or Path(f"{name_of(source)}.yaml")
    weights = target.with_name(f"{target.stem}-conv.safetensors")
    require_absent(target, weights, *([] if findings is None else [findings]))
    require_sound(settings or [], source, checkpoint, student_checkpoint)
    display = Display()
    looked = look_at(source, settings or [], images, display)
    _print_survey(looked.surveys, looked.duplicates)
    if findings is not None:
        write_new(findings, _as_csv(looked.surveys, looked.duplicates))
    proposal = propose_recipe(
        looked, target, weights, settings or [], checkpoint, student_checkpoint, started, minutes, display
    )
    write_new(target, proposal.text)
    for line in proposal.notes:
        out.print(line)
    out.print(f"wrote {target}")
    steps = (["train", str(target)], ["report", str(proposal.run)])
    next_steps(*(shlex.join(["coadvise", *words]) for words in steps))


def _print_survey(surveys: Sequence[Survey], duplicates: Duplicates) -> None:
    """What was seen, then the first findings of every kind."""
    from ..data.findings import counted, findings

    table = Table("images", *(one.word for one in surveys), title_justify="left")
    for row in counted(surveys, duplicates):
        table.add_row(*row)
    out.print(table)
    shown: Counter[str] = Counter()
    for found in findings(surveys, duplicates):
        shown[found.finding] += 1
        if shown[found.finding] <= _SHOWN:
            out.print(f"{found.finding}: {found.said}")
        elif shown[found.finding] == _SHOWN + 1:
            out.print(f"{found.finding}: … (all of them with --findings FILE.csv)")


def _as_csv(surveys: Sequence[Survey], duplicates: Duplicates) -> str:
    from ..data.findings import Finding, findings

    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(Finding._fields)
    for found in findings(surveys, duplicates):
        table.writerow([printable(part) for part in found])
    return text.getvalue()
