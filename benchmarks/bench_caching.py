"""`coadvise cache` against the bare inference of the same teachers on the same batches, which are in memory already.

The teachers are those of the built-in recipes for CIFAR-10, untrained: what they say does not matter here. Writing
begins with images that are still encoded, and ends when the cache is complete: reading, augmentation, records, files.

python benchmarks/bench_caching.py
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

import torch
from accelerate import Accelerator
from side_by_side import arguments, claim, interleaved, report

from coadvise.advice.layout import BATCH
from coadvise.advice.request import CacheRequest
from coadvise.advice.writer import write_cache
from coadvise.data.loader import TrainLoader
from coadvise.data.sources.base import ImageSource
from coadvise.data.sources.opening import open_source
from coadvise.data.sources.subsets import Subset
from coadvise.models.teachers import Teachers
from coadvise.recipe.reading import load_recipe
from coadvise.system.progress import Display
from coadvise.training.teachers import on_device, teachers_to_time

CIFAR = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10"
# Recipe → images, and views of each.
SETTINGS = {"cifar10": (256, 1), "cifar10-cpu": (2048, 2)}
VIEWS_ON_A_GPU = 25


def measure(name: str, source: ImageSource, views: int, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of writing a cache, and of the teachers alone."""
    recipe = load_recipe(name, [f"data.views={views}", "data.train_size=null"])
    accelerator, quiet = Accelerator(cpu=options.device == "cpu"), Display(quiet=True)
    loaded = teachers_to_time(recipe, source.class_names)
    ready = on_device(loaded, recipe.data, True, accelerator, quiet)
    numbers = itertools.count()
    with tempfile.TemporaryDirectory() as folder:

        def write() -> None:
            request = CacheRequest.of(recipe.model_copy(update={"advice": recipe.advice.model_copy(
                update={"folder": str(Path(folder, str(next(numbers))))})}))  # fmt: skip
            write_cache(request, source, loaded, ready, accelerator, quiet)

        batches = _batches(source, recipe.data, views, accelerator.device)
        sides = {"cache": write, "inference": lambda: _infer(ready, batches, accelerator)}
        return interleaved(sides, options.rounds, options.device)


def _batches(source: ImageSource, data: object, views: int, device: torch.device) -> list[torch.Tensor]:
    loader = TrainLoader(source, data, BATCH, device=device, compiled=False)  # type: ignore[arg-type]
    keys = [
        loader.keys(view, at, min(at + BATCH, len(source)))
        for view in range(views)
        for at in range(0, len(source), BATCH)
    ]
    made = [batch.images for batch in loader.batches(keys)]
    loader.close()
    return made


def _infer(teachers: Teachers, batches: list[torch.Tensor], accelerator: Accelerator) -> None:
    with accelerator.autocast():
        for images in batches:
            teachers(images)


def main() -> None:
    options = arguments(__doc__ or "")
    claims, details = [], {}
    whole = open_source(str(CIFAR), "train")
    for name, (images, views) in SETTINGS.items():
        on_gpu = options.device != "cpu"
        source = whole if on_gpu else Subset(whole, list(range(images)))
        seconds = measure(name, source, VIEWS_ON_A_GPU if on_gpu else views, options)
        details[name] = seconds
        claims.append(
            claim(f"writing advice over bare inference, {name}", seconds["cache"] / seconds["inference"], "≤ 1.1×")
        )
    report("caching", options, claims, {"seconds": details})


if __name__ == "__main__":
    main()
