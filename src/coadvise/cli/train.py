"""`coadvise train`, `cache` and `plan`: training, storing the teachers' advice, and what both cost."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from ..system.extras import command_for, installed
from ..system.imports import importing
from ..system.progress import Display
from ..system.screen import Table
from .arguments import Quiet, RecipeName, Settings, accuracy_table, next_steps, out


def _on_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _display(quiet: bool) -> Display:
    return Display(quiet=quiet or not _on_main_process())


def train(
    recipe: RecipeName,
    settings: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue an unfinished run")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a student (and, where the recipe says so, its teachers first).

    Examples:

        coadvise train cit-s data.source=/data/imagenet

        coadvise train my.yaml schedule.epochs=50 optim.lr=1e-3

        torchrun --nproc-per-node 4 -m coadvise train my.yaml --resume
    """
    from ..recipe.reading import load_recipe

    loaded = load_recipe(recipe, settings or [])  # before PyTorch is imported: a mistake is told at once
    with importing():
        from ..run.standing import verdict_of
        from ..training.train import train as run

    result = run(loaded, resume=resume, display=_display(quiet))
    if _on_main_process():
        out.print(accuracy_table(f"{result.name}: validation after {result.weights}", result.metrics))
        folder = Path(loaded.run.output or f"runs/{loaded.name}")
        said = verdict_of(result, folder)
        if said is not None:
            for sentence in said.sentences:
                out.print(sentence)
            next_steps(*said.advice)
        if not installed("matplotlib"):
            shown = shlex.join(["coadvise", "report", str(folder)])
            next_steps(f"its report, with curves and pictures of mistakes: {command_for('matplotlib')}, then {shown}")


def cache(
    recipe: RecipeName,
    settings: Settings = None,
    verify: Annotated[bool, typer.Option("--verify", help="check a cache that is there")] = False,
    quiet: Quiet = False,
) -> None:
    """Store the teachers' advice, so that any number of students can be trained at the price of no teacher.

    The same command goes on with a cache that was cut off, and may run several times at once.

    Examples:

        coadvise cache cit-s data.source=/data/imagenet data.views=50

        coadvise train cit-s data.source=/data/imagenet data.views=50 advice=cache

        coadvise cache cit-s data.source=/data/imagenet data.views=50 --verify
    """
    from ..recipe.reading import load_recipe

    loaded = load_recipe(recipe, settings or [])
    with importing():
        from ..training.caching import cache_advice

    folder, size = cache_advice(loaded, verify=verify, display=_display(quiet))
    if _on_main_process():
        done = "is sound" if verify else "is complete"
        out.print(f"{folder} {done} ({size / 1e6:,.1f} MB)")
        words = ["coadvise", "train", recipe, *(settings or []), "advice=cache"]
        next_steps(f"train any student from it: {shlex.join(words)}")


def plan(
    recipe: RecipeName,
    settings: Settings = None,
    rounds: Annotated[int, typer.Option(min=1, help="steps that are measured, of which the median counts")] = 3,
) -> None:
    """Say what a run will cost, with live teachers and with stored advice, from a few measured steps.

    Example:

        coadvise plan cit-s data.source=/data/imagenet
    """
    from ..recipe.reading import load_recipe

    loaded = load_recipe(recipe, settings or [])
    from ..cost.plan import plan_run
    from ..system.clock import short_bytes, short_time

    found = plan_run(loaded, rounds=rounds, display=Display())
    steps = f"{found.steps:,} steps of {loaded.optim.batch_size} images"
    start = f"start it: {shlex.join(['coadvise', 'train', recipe, *(settings or [])])}"
    if not loaded.teachers:
        out.print(f"{steps}: {short_time(found.live_s)} (no teachers: labels alone)")
        next_steps(start)
        return
    out.print(
        f"{steps}: {short_time(found.live_s)} with live teachers, {short_time(found.cached_s)} with stored advice"
    )
    if found.teachers:
        each = ", ".join(f"{name} {short_time(one.seconds)}" for name, one in found.teachers.items())
        whole = found.live_s + sum(one.seconds for one in found.teachers.values())
        out.print(f"before that its teachers are trained: {each}; in all {short_time(whole)} with live teachers")
    columns = ("views", "cache", "to write", "first student", "pays from")
    table = Table(*columns, title="advice cache", title_justify="left")
    for way in found.ways:
        students = "never" if way.students == float("inf") else f"{way.students:.2g} students"
        first = short_time(way.write_s + found.cached_s)
        table.add_row(str(way.views), short_bytes(way.bytes), short_time(way.write_s), first, students)
    out.print(table)
    if found.cosines:
        kept = ", ".join(f"{cosine:.4f} at k = {top}" for top, cosine in found.cosines.items())
        out.print(f"cosine of the advice's gradients to those from all logits: {kept}")
    if found.recommended == "all":
        out.print(f"advice.top_k=null stores all logits: loss.advice={loaded.loss.advice} needs them")
    elif found.recommended is not None:
        out.print(f"recommended: advice.top_k={found.recommended}")
    else:
        out.print("k is recommended once the teachers are trained (`coadvise cache` trains them)")
    next_steps(start)
