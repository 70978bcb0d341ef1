"""A training step with stored advice against the step of the same student, with the same heads, on labels alone.

Both steps take their batch from the same loader (images in memory, mixed), and run forward, loss, backward and AdamW.
The cache is written before by two small untrained teachers, k = 10 of 100 classes: what they say does not matter here.

python benchmarks/bench_cache.py
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from side_by_side import arguments, claim, interleaved, report

from coadvise.advice.cache import AdviceCache
from coadvise.advice.request import CacheRequest
from coadvise.advice.writer import write_cache
from coadvise.checkpoints.build import build_student
from coadvise.data.loader import TrainLoader
from coadvise.losses import co_advise_loss
from coadvise.models.factory import build_model
from coadvise.models.teachers import FrozenTeacher
from coadvise.recipe.reading import recipe_from
from coadvise.system.progress import Display
from coadvise.training.optimizer import make_optimizer
from coadvise.training.teachers import on_device

CLASSES, COUNT, STEPS = 100, 2000, 5
SETTINGS = {
    "32 px, width 96, 6 layers": (32, {"patch_size": 8, "embed_dim": 96, "depth": 6, "num_heads": 3}, 100),
    "64 px, CiT-Ti with patches of 8": (64, {"patch_size": 8}, 32),
}


class Pictures:
    """Random pictures in memory."""

    class_names = tuple(map(str, range(CLASSES)))

    def __init__(self, size: int, count: int = COUNT) -> None:
        self.images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        self.labels = np.arange(count, dtype=np.int64) % CLASSES

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index])

    def describe(self, index: int) -> str:
        return f"picture {index}"


def measure(size: int, student_options: dict[str, object], batch: int, rounds: int, folder: Path) -> dict[str, float]:
    """Seconds of a step, from stored advice and on labels."""
    teacher = {"model": "resnet10", "options": {"channels": [8, 8, 8, 8]}, "small_stem": True, "pretrained": True}
    recipe = recipe_from(
        {
            "name": "bench",
            "data": {"source": "-", "image_size": size, "workers": 0, "augment": {"policy": "light"}, "views": 2},
            "student": {"model": "cit_tiny", "options": student_options},
            "teachers": {"conv": teacher, "inv": {**teacher, "bias": "inv"}},
            "advice": {"source": "cache", "folder": str(folder)},
        }
    )
    source, accelerator = Pictures(size), Accelerator(cpu=not torch.cuda.is_available())
    members = {
        name: FrozenTeacher(build_model("resnet10", CLASSES, image_size=size, small=True, options=settings.options))
        for name, settings in recipe.teachers.items()
    }
    quiet = Display(quiet=True)
    advisers = on_device(members, recipe.data, True, accelerator, quiet)
    write_cache(CacheRequest.of(recipe), source, members, advisers, accelerator, quiet)
    cache = AdviceCache(CacheRequest.of(recipe), source, members)
    sides = {}
    for name in ("stored advice", "labels"):
        torch.manual_seed(0)
        student = build_student(recipe.student, recipe.tokens(), CLASSES, recipe.data.image_size)
        student = student.to(accelerator.device).train()
        optimizer = make_optimizer(student, recipe.optim)
        loader = TrainLoader(source, recipe.data, batch, device=accelerator.device)
        batches = itertools.chain.from_iterable(map(loader.epoch, itertools.count()))

        def step(student=student, optimizer=optimizer, batches=batches, stored=name == "stored advice") -> None:
            for made in itertools.islice(batches, STEPS):
                advice = cache.read(made.view, made.position, accelerator.device) if stored else {}
                co_advise_loss(student.forward_tokens(made.images), advice, made.target).total.backward()
                optimizer.step()
                optimizer.zero_grad()

        sides[name] = step
    return {name: seconds / STEPS for name, seconds in interleaved(sides, rounds, str(accelerator.device)).items()}


def main() -> None:
    options = arguments(__doc__ or "")
    claims, details = [], {}
    for name, (size, student, batch) in SETTINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            seconds = measure(size, student, batch, 3 * options.rounds, Path(folder) / "cache")
        details[name] = seconds
        ratio = seconds["stored advice"] / seconds["labels"]
        claims.append(claim(f"step with stored advice over labels alone, {name}", ratio, "≤ 1.03×"))
    report("cache", options, claims, {"seconds": details})


if __name__ == "__main__":
    main()
