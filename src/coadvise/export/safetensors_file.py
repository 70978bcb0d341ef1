"""Our own model file, to pass on: its header names no folder of the machine that it was trained on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoints.model_file import read_header, save_model
from ..checkpoints.trained import load_trained
from ..errors import CheckpointError
from ..models.students import classifier_of
from ..recipe.reading import recipe_from
from ..recipe.schema import Recipe
from .job import Job, Target, Written
from .parity import require_parity


def public(recipe: Recipe) -> Recipe:
    """A recipe in which files and folders are named without the folders that they are in."""
    return recipe_from(_without_folders(recipe.content()), where="the recipe")


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_folders(one) for one in value]
    if isinstance(value, str) and (os.path.isabs(value) or value.startswith("~")):
        return os.path.basename(value.rstrip("/\\")) or "images"
    return value


def _write(job: Job, path: Path) -> Written:
    trained = job.trained
    header = read_header(trained.path)
    assert header is not None, "load_trained reads files with a header alone"
    recipe = public(trained.recipe)
    save_model(
        path, trained.model, recipe, trained.classes, weights=header.weights, epoch=header.epoch, metrics=header.metrics
    )
    again = load_trained(path)
    before, after = (classifier_of(one.model).state_dict() for one in (trained, again))
    if before.keys() != after.keys() or any(not value.equal(after[key]) for key, value in before.items()):
        raise CheckpointError(f"{path} was not written as it should be; try again")

    @torch.no_grad()
    def logits(images: np.ndarray) -> np.ndarray:
        return np.asarray(again.model(torch.from_numpy(images)))

    parity = require_parity(job, logits, "the file")
    return Written((f"coadvise: {parity.line} ({parity.images})",), {"parity": parity})


SAFETENSORS = Target(
    "safetensors",
    "model.safetensors",
    "our own file, for coadvise.load and --model; names no folder of this machine",
    _write,
)
