"""The folder in which blocks and commands of pages are run: small photographs, recipes, weights and a finished run.

Pages may name these files; what a reader has of his own is here as a small one of the same form.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from coadvise.export.exporting import export
from coadvise.export.targets import TARGETS
from coadvise.recipe.reading import dump_recipe
from coadvise.recipe.schema import Recipe
from coadvise.system.progress import Display
from coadvise.training.train import train
from helpers.recipes import CNN, INN, TINY, tiny

CLASSES = ("cat", "dog", "horse")
RUNS = ("photographs", "pets", "labels-only", "co-advised", "one", "both", "resnet18-s1")
RECIPES = ("my", "photographs", "pets")
SMALL = {
    "cit_small": ("cit_small", {"img_size": 32, "patch_size": 8, "depth": 1}),
    "regnety_040": ("resnet10", {}),
    "rednet101": ("rednet26", {"layers": (1,), "width": 32}),
    "vit_small_patch16_224": ("vit_tiny_patch16_224", {"img_size": 32, "depth": 1}),
}
"""What stands for the large models of pages."""


def lay_out(folder: Path) -> Path:
    """Fill an empty folder."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for name, colour in zip(CLASSES, (40, 128, 215), strict=True):
            (folder / "photographs" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(rng.normal(colour, 25, size=(24, 28, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / "photographs" / split / name / f"{number}.jpg")
    shutil.copytree(folder / "photographs" / "val", folder / "more-photographs")
    for name in ("cat.jpg", "dog.jpg", "dog.png"):
        Image.open(folder / "photographs" / "val" / name[:3] / "0.jpg").save(folder / name)
    torch.manual_seed(0)
    for name, model in (("cnn", "regnety_040"), ("inn", "rednet101"), ("vit", "vit_small_patch16_224")):
        save_file(create_small(timm.create_model)(model, num_classes=37).state_dict(), folder / f"{name}.safetensors")
    for name in RECIPES:
        (folder / f"{name}.yaml").write_text(dump_recipe(_recipe(name)), encoding="utf-8")
    return folder


def finished() -> None:
    """Add finished runs to the folder, which is the current one."""
    train_one(RUNS[0])
    for name in RUNS[1:]:
        shutil.copytree(f"runs/{RUNS[0]}", f"runs/{name}")
    export(Path("runs/pets"), TARGETS["timm"])


def train_one(name: str) -> None:
    """Train the recipe of that name."""
    train(_recipe(name), display=Display(quiet=True))


def create_small(create: Callable[..., Any]) -> Callable[..., Any]:
    """`timm.create_model` that makes a small model where a large one is asked for."""

    def created(name: str, **options: Any) -> Any:
        small, changes = SMALL.get(name, (name, {}))
        return create(small, **{**changes, **options})

    return created


GIVEN: dict[str, Callable[[], Any]] = {
    "x": lambda: torch.randn(2, 3, 32, 32),
    "y": lambda: torch.tensor([0, 36]),
    "mean": lambda: (0.5, 0.5, 0.5),
    "std": lambda: (0.25, 0.25, 0.25),
    "my_cnn": lambda: timm.create_model("resnet10", num_classes=len(CLASSES), channels=(8, 8, 16, 16)),
}
"""Python names that a block may be given, as a reader has them from his own code."""


def _recipe(name: str) -> Recipe:
    data = {key: value for key, value in TINY["data"].items() if key not in ("train_size", "val_size")}
    data |= {"source": "photographs", "augment": {"policy": "light", "mixup": 0, "cutmix": 0, "erasing": 0}}
    changes = {"schedule.epochs": 2, "schedule.warmup_epochs": 0, "optim.batch_size": 12, "run.output": None}
    return tiny(Path(), {**changes, "name": name}, data=data, teachers={"conv": CNN, "inv": INN})
