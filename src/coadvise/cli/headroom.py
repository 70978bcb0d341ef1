"""`coadvise headroom`: whether students of pairs of teachers can differ, before any of them is trained."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..system.imports import importing
from ..system.progress import Display
from ..system.screen import Table
from .arguments import AsJson, Quiet, Settings, next_steps, out

if TYPE_CHECKING:
    from ..recipe.schema import Recipe
    from ..run.headroom import HeadroomResult


def headroom(
    recipe: Annotated[str, typer.Argument(help="a recipe, or a folder of `coadvise reproduce` with its teachers")],
    settings: Settings = None,
    views: Annotated[int, typer.Option(min=1, max=1000, help="training views of each image")] = 4,
    images: Annotated[int, typer.Option(min=20, help="validation images at most, classes in balance")] = 5000,
    train: Annotated[bool, typer.Option("--train", help="train teachers first that the recipe trains first")] = False,
    seed: Annotated[int, typer.Option(min=0, help="of the resamples of the intervals")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="folder for headroom.json, report and figure; RUN-headroom")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """See whether a comparison of students can show anything: ask what pairs of a recipe's teachers know together.

    It takes validation images as the student's augmentation and mixing show them, and plain ones: accuracy of each
    teacher and of the mean of each pair, κ of their errors, and Δ, what two kinds know together beyond two of one kind.
    Only teachers are asked. Give three or more, two of them of one kind; those whose trainings differ by seeds alone
    count as seeds of one model.

    Examples:

        coadvise headroom my.yaml

        coadvise headroom my.yaml teachers.second.model=run:runs/resnet18-s1 --views 8

        coadvise headroom runs/reproduce-cifar
    """
    from ..system.files import atomic_folder, require_absent, write_json

    loaded, folder = _recipe_and_folder(recipe, settings or [])
    if output is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
    folder = output or folder
    require_absent(folder)
    with importing():
        from ..reports.headroom import headroom_page
        from ..reports.page import write_page
        from ..run.headroom import NAME, verdicts
        from ..training.headroom import Asking, measure_headroom

    main = os.environ.get("RANK", "0") == "0"
    asking = Asking(images=images, views=views, seed=seed, train=train)
    result = measure_headroom(loaded, asking, Display(quiet=quiet or as_json or not main))
    if not main:
        return
    with atomic_folder(folder) as temporary:
        write_json(temporary / NAME, result.content())
        write_page(headroom_page(result), temporary, with_markdown=False)
    if as_json:
        print(json.dumps(result.content(), indent=1))
        return
    _print_teachers(result)
    _print_pairs(result)
    for one in verdicts(result.student):
        out.print(one.sentence)
        for note in one.notes:
            out.print(f"  {note}")
    next_steps(f"look at {folder / 'report.html'}; the numbers are in {folder / NAME}")


def _recipe_and_folder(recipe: str, settings: list[str]) -> tuple[Recipe, Path]:
    """The recipe whose teachers are asked, and where the answer goes by default."""
    from ..recipe.reading import load_recipe

    if (Path(recipe) / "reproduce.json").is_file():
        with importing():
            from ..reproduce.teaching import recipe_of_teachers
            from ..run.headroom import HEADROOM

        return recipe_of_teachers(Path(recipe), settings), Path(recipe) / HEADROOM
    loaded = load_recipe(recipe, settings)
    return loaded, Path(f"{loaded.run.output or f'runs/{loaded.name}'}-headroom")


def _print_teachers(result: HeadroomResult) -> None:
    table = Table("teacher", "bias", "model", title=f"{result.plain.images:,} validation images", title_justify="left")
    for column in ("plain", "as the student sees them"):
        table.add_column(column, justify="right")
    for seen, plain in zip(result.student.teachers, result.plain.teachers, strict=True):
        table.add_row(
            seen.name, seen.bias or "", seen.model, f"{plain.accuracy.value:.1%}", f"{seen.accuracy.value:.1%}"
        )
    out.print(table)


def _print_pairs(result: HeadroomResult) -> None:
    from ..reports.headroom import title

    what = "pairs of models, means over their seeds" if result.student.models else "in pairs"
    table = Table("mean of", "kinds", title=f"{what}, as the student sees images", title_justify="left")
    for column in ("right", "gain", "κ of errors", "Δ"):
        table.add_column(column, justify="right")
    signed = lambda one: "" if one is None or one.value is None else f"{100 * one.value:+.1f}".replace("-", "−")
    for two in result.student.shown[:20]:
        kappa = "" if two.kappa.value is None else f"{two.kappa.value:.2f}"
        table.add_row(
            title(two), two.kinds or "", f"{two.accuracy.value:.1%}", signed(two.gain), kappa, signed(two.delta)
        )
    out.print(table)
    out.print("gain: points over the mean accuracy of both; Δ: gain of two kinds less that of two of one kind")
