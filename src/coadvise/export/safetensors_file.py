"""Our own model file, to pass on: its header names no folder of the machine that it was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..checkpoints.model_file import read_header, save_model
from ..checkpoints.trained import load_trained
from ..errors import CheckpointError
from ..models.students import classifier_of
from .job import Job, Target, Written
from .parity import require_parity
from .public import public


def _write(job: Job, path: Path) -> Written:
    trained = job.trained
    header = read_header(trained.path)
    assert header is not None, "load_trained reads files with a header alone"
    recipe = public(trained.recipe)
    save_model(
        path, trained.model, recipe, trained.classes, weights=header.weights, epoch=header.epoch, metrics=header.metrics
    )
    again = load_trained(path, several=True)
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
