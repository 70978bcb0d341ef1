"""The smallest run that still has everything: digits at 8 px, a two-block student, tiny teachers."""

import copy
from pathlib import Path
from typing import Any

from coadvise.recipe.reading import recipe_from
from coadvise.recipe.schema import Recipe

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {
        "source": "digits", "train_size": 100, "val_size": 101, "image_size": 8, "eval_crop": 1.0, "workers": 0,
        "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
        "augment": {"policy": "light", "hflip": 0.0, "pad": 1, "erasing": 0.0, "mixup": 0.4, "cutmix": 0.4},
    },
    "student": {
        "model": "cit_tiny",
        "options": {"patch_size": 2, "embed_dim": 24, "depth": 2, "num_heads": 2, "drop_path_rate": 0.1},
    },
    "optim": {"batch_size": 20, "lr": 1e-3, "lr_batch": None, "clip": 5.0},
    "schedule": {"epochs": 4, "warmup_epochs": 1},
    "run": {"precision": "fp32", "tensorboard": False, "log_every": 2, "eval_batch_size": 50, "allow_weak": True},
}  # fmt: skip
CNN = {"model": "resnet10", "options": {"channels": [8, 8, 16, 16]}, "small_stem": True, "train": {"epochs": 1}}
INN = {
    "model": "rednet26",
    "options": {"layers": [1, 1], "width": 16, "stem": "small"},
    "train": {"epochs": 1},
}


def tiny(output: Path, changes: dict[str, Any] | None = None, **parts: Any) -> Recipe:
    """The tiny recipe, with parts replaced (`teachers=…`) and single settings changed (`{"optim.lr": 1}`)."""
    content = copy.deepcopy(TINY | parts)
    content["run"] = content["run"] | {"output": str(output)}
    for key, value in (changes or {}).items():
        *path, last = key.split(".")
        place = content
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return recipe_from(content)


def with_weights(folder: Path) -> dict[str, Any]:
    """The teachers of a finished run, by their checkpoints."""
    return {
        name: {k: v for k, v in settings.items() if k != "train"}
        | {"checkpoint": str(folder / "teachers" / name / "best.safetensors")}
        for name, settings in (("conv", CNN), ("inv", INN))
    }
