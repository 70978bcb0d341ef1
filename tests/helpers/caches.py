"""Caches of advice so small that tests see many blocks and shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from coadvise.advice import claims, layout, writer
from coadvise.advice.cache import AdviceCache
from coadvise.advice.request import CacheRequest
from coadvise.data.sources.opening import open_sources
from coadvise.errors import RunError
from coadvise.recipe.schema import Recipe
from coadvise.run.folder import read_metrics
from coadvise.system.progress import Display
from coadvise.training.caching import cache_advice
from coadvise.training.train import train
from helpers.recipes import CNN, INN, tiny


def shrink(replace: Callable[[Any, str, int], None] = setattr) -> None:
    """Batches of 7 images, blocks of 14, shards of 1,000 bytes.

    Args:
        replace: sets an attribute of a module: `monkeypatch.setattr` in a test, `setattr` in a process of its own.
    """
    for module in (claims, layout, writer):
        replace(module, "BATCH", 7)
    replace(layout, "BLOCK_BATCHES", 2)
    replace(layout, "SHARD_BYTES", 1000)


QUIET = Display(quiet=True)


def logits(images: int, classes: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(images, classes, generator=torch.Generator().manual_seed(seed)) + 7


def recipe_with(trained: Path, output: Path, changes: dict[str, Any] | None = None, **parts: Any) -> Recipe:
    advisers = {
        name: {**settings, "train": None, "checkpoint": str(trained / name / "best.safetensors")}
        for name, settings in {"conv": CNN, "inv": INN}.items()
    }
    base = {"advice.folder": str(output / "cache"), "run.log_every": 1, "data.augment.cutmix": 1.0}
    return tiny(output / "run", base | (changes or {}), **({"teachers": advisers} | parts))


def write(recipe: Recipe) -> Path:
    return cache_advice(recipe, display=QUIET)[0]


def losses(folder: Path) -> list[dict[str, float]]:
    return [line["terms"] for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "train"]


def opened(recipe: Recipe) -> tuple[AdviceCache, Any, Any]:
    from coadvise.checkpoints.teachers import build_teacher
    from coadvise.data.loader import TrainLoader

    write(recipe)
    source = open_sources(recipe.data)[0]
    teachers = {
        name: build_teacher(name, settings, source.class_names).eval() for name, settings in recipe.teachers.items()
    }
    return (
        AdviceCache(CacheRequest.of(recipe), source, teachers),
        TrainLoader(source, recipe.data, 20),
        teachers,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(recipe: Recipe, words: str, action: Any = train) -> None:
    """One clear message, and nothing is overwritten."""
    folder = CacheRequest.of(recipe).folder
    before = contents(folder)
    with pytest.raises(RunError, match=words):
        action(recipe, display=QUIET)
    assert contents(folder) == before


def verify(recipe: Recipe, **options: Any) -> None:
    cache_advice(recipe, verify=True, **options)
