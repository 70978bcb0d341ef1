"""The commands that are killed: training, writing a cache and `reproduce`, in one process and in two."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from helpers.experiments import SHORT
from helpers.recipes import CNN, INN, tiny, with_weights
from helpers.runs import photographs

from coadvise.advice.cache import written_blocks
from coadvise.recipe.reading import dump_recipe
from coadvise.recipe.schema import Recipe
from coadvise.run.folder import read_metrics

from . import compare, launch
from .kills import Case
from .launch import Launched

EPOCH = 50
"""Steps of an epoch: enough for several kills in one."""
LONG: dict[str, Any] = {
    "data.train_size": 500, "optim.batch_size": 10, "schedule.epochs": 4, "optim.ema": 0.9, "run.log_every": 1,
    "student.options.proj_drop_rate": 0.1, "run.checkpoint_every": 4,
}  # fmt: skip
TEACHERS = {"conv": {**CNN, "train": {"epochs": 1}}, "inv": {**INN, "train": {"epochs": 1}}}
STORED: dict[str, Any] = {"advice.top_k": 2, "data.views": 2}
Start = Callable[..., Launched]


def kill_cases(folder: Path) -> list[Case]:
    """All cases; together they are killed a hundred times. `folder` gets what they share."""
    few = {**LONG, **loaded(photographs(folder / "photos", 100)), "data.train_size": 300, "schedule.epochs": 3}
    given = lambda: with_weights(_teachers(folder))
    stored = lambda: {"advice.source": "cache", "advice.folder": str(_stored(folder)), **STORED}
    return [
        training("train", 25, launch.alone, lambda output: tiny(output, LONG, teachers=TEACHERS)),
        training("train, loader processes", 10, launch.alone, lambda output: tiny(output, few), epoch=30),
        training(
            "train, stored advice", 10, launch.alone,
            lambda output: tiny(output, {**LONG, **stored()}, teachers=given()),
        ),
        training("train, two processes", 15, launch.pair, lambda output: tiny(output, LONG, teachers=given())),
        training("train, torchrun", 5, launch.torchrun, lambda output: tiny(output, LONG, teachers=given())),
        training("train, accelerate launch", 5, launch.accelerate, lambda output: tiny(output, LONG, teachers=given())),
        caching("cache", 12, launch.alone, given),
        caching("cache, two processes", 8, launch.pair, given),
        reproduction("reproduce", 10),
    ]  # fmt: skip


def loaded(photos: str) -> dict[str, Any]:
    """Settings for images that loader processes read and augment in every epoch."""
    return {"data.source": photos, "data.val_size": 100, "data.workers": 2, "data.augment.policy": "deit"}


@lru_cache(maxsize=1)
def _teachers(folder: Path) -> Path:
    """Folder of a run whose teachers are trained."""
    return _done(
        launch.alone(*_train(tiny(folder / "teachers", teachers=TEACHERS), folder / "teachers")), folder / "teachers"
    )


@lru_cache(maxsize=1)
def _stored(folder: Path) -> Path:
    """A complete cache for LONG."""
    recipe = _cached(folder / "stored", with_weights(_teachers(folder)))
    return _done(launch.alone(*command("cache", recipe, folder / "stored")), folder / "stored" / "cache")


def _done(started: Launched, folder: Path) -> Path:
    done = started.wait()
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def command(what: str, recipe: Recipe, output: Path) -> list[str]:
    path = output.parent / f"{output.name}.yaml"
    path.write_text(dump_recipe(recipe))
    return ["coadvise", what, str(path), "--quiet"]


def _train(recipe: Recipe, output: Path) -> list[str]:
    return command("train", recipe, output) + (["--resume"] if output.exists() else [])


def training(name: str, kills: int, start: Start, recipe: Callable[[Path], Recipe], epoch: int = EPOCH) -> Case:
    """`coadvise train`, with --resume where there is a folder."""

    def progress(output: Path) -> int:
        return sum(1 for path in output.rglob("metrics.jsonl") for _ in read_metrics(path))  # of the teachers, too

    begin = lambda output: start(*_train(recipe(output), output))
    return Case(name, kills, begin, compare.runs, progress, steps, epoch)


def steps(output: Path) -> int:
    """Steps of the student that were logged."""
    return max((line["step"] for line in read_metrics(output / "metrics.jsonl")), default=0)


def _cached(output: Path, teachers: dict[str, Any]) -> Recipe:
    return tiny(output / "run", {**LONG, **STORED, "advice.folder": str(output / "cache")}, teachers=teachers)


def caching(name: str, kills: int, start: Start, teachers: Callable[[], dict[str, Any]]) -> Case:
    """`coadvise cache`, of more views than the cache for training, so that it takes seconds."""

    def begin(output: Path) -> Launched:
        output.mkdir(exist_ok=True)
        changes = {"advice.folder": str(output / "cache"), "advice.top_k": 2, "data.views": 20, "schedule.epochs": 20}
        recipe = tiny(output / "run", {**LONG, **changes}, teachers=teachers())
        return start(*command("cache", recipe, output))

    return Case(
        name, kills, begin, lambda a, b: compare.caches(a / "cache", b / "cache"),
        lambda output: written_blocks(output / "cache", "inv"),
    )  # fmt: skip


def reproduction(name: str, kills: int) -> Case:
    """`coadvise reproduce table7`: five runs in workers of its own."""

    def begin(output: Path) -> Launched:
        words = ("reproduce", "table7", "--output", str(output), "--jobs", "2", *SHORT, "schedule.epochs=3")
        return launch.alone("coadvise", *words)

    def progress(output: Path) -> int:
        return sum(1 for path in output.glob("runs/*/metrics.jsonl") for _ in read_metrics(path))

    return Case(name, kills, begin, compare.experiments, progress)
