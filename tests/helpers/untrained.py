"""Run folders of models with random weights, as far as whoever uses a trained model looks at them."""

from pathlib import Path
from typing import Any

import torch

from coadvise.checkpoints.build import build_student
from coadvise.checkpoints.model_file import save_model
from helpers.recipes import tiny

CLASSES = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")


def untrained_run(
    folder: Path, student: dict[str, Any], classes: tuple[str, ...] = CLASSES, noise: float = 0.3, **changes: Any
) -> Path:
    """A run's folder with a `best.safetensors` whose classes differ from image to image.

    Args:
        student: that part of the recipe.
        noise: standard deviation that is added to all weights.
        changes: settings of the recipe, `data__image_size=24`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recipe = tiny(folder, {key.replace("__", "."): value for key, value in changes.items()}, student=student)
    torch.manual_seed(0)
    size, add = recipe.data.image_size, recipe.adds_tokens
    model = build_student(recipe.student, recipe.tokens(), len(classes), size, add=add)
    for parameter in model.parameters():
        parameter.data += noise * torch.randn_like(parameter)
    save_model(
        folder / "best.safetensors", model, recipe, classes, weights="ema", epoch=3, metrics={"accuracy/class": 0.5}
    )
    return folder
