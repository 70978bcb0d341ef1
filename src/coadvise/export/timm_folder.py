"""A folder that timm makes the model from: `timm.create_model("local-dir:FOLDER", pretrained=True)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors import SafetensorError
from timm.models import save_for_hf
from torch import nn

from ..errors import ModelError, WriteError, one_line
from ..models.cit import CiT
from ..models.described import describe
from ..models.portable import portable
from .engines import SECTION
from .job import Job, Target, Written
from .parity import require_parity


def timm_model(folder: Path) -> nn.Module:
    """The model of a folder as timm makes it, in evaluation mode.

    Raises:
        ModelError: timm cannot make it.
    """
    try:
        return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    except Exception as error:  # timm and the model's own code fail in many ways
        raise ModelError(f"timm cannot make the model of {folder}: {one_line(error)[:300]}") from error


def _write(job: Job, path: Path) -> Written:
    trained = job.trained
    made = portable(trained.model, trained.recipe.student)
    describe(made.model, trained.data)
    if isinstance(made.model, CiT):  # timm replaces what stands here when another number of classes is asked for
        heads = ["head", *(f"advised_heads.{name}" for name in made.model.advised_heads)]
        cfg: Any = made.model.pretrained_cfg
        made.model.pretrained_cfg = cfg | {"classifier": heads}
    try:
        save_for_hf(
            made.model, str(path), safe_serialization=True, model_args=dict(made.arguments),
            model_config={
                "architecture": made.architecture, "label_names": list(trained.classes), SECTION: job.card.metadata(),
            },
        )  # fmt: skip
    except SafetensorError as error:
        raise WriteError(
            f"cannot write to {path.parent}: {one_line(error)}; check the folder and free space"
        ) from error
    except (ValueError, TypeError) as error:
        name = trained.recipe.student.model
        raise ModelError(f"timm cannot write {name} down: {one_line(error)}; use another target") from error
    again = timm_model(path)

    @torch.no_grad()
    def logits(images: np.ndarray) -> np.ndarray:
        return np.asarray(again(torch.from_numpy(images)))

    parity = require_parity(job, logits, "timm")
    needs = "after `import coadvise`" if made.ours else "without coadvise"
    how = f'timm.create_model("local-dir:FOLDER", pretrained=True), {needs}'
    return Written(
        (f"timm: {parity.line} ({parity.images})", f"load it by {how}"), {"parity": parity, "ours": made.ours}
    )


TIMM = Target(
    "timm",
    "timm",
    "a folder for timm: config.json and model.safetensors, for training on and for the Hub",
    _write,
    folder=True,
)
