"""Files of trained models: weights, and in the header all that is needed to rebuild the model and to feed it images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from ..errors import CheckpointError
from ..models.students import classifier_of
from ..recipe.schema import Recipe
from .writing import save_safetensors_atomic

FORMAT = "coadvise-model-1"


def save_model(
    path: Path,
    student: nn.Module,
    recipe: Recipe,
    class_names: tuple[str, ...],
    *,
    weights: str,
    epoch: int,
    metrics: Mapping[str, float],
    given: str | None = None,
) -> None:
    """Write a model for inference, atomically; for the record which weights it has, after which epoch, how good.

    Args:
        weights: `student` or `ema`.
        given: class of a student that was given from Python; the recipe does not say how to build it.
    """
    header = {
        "recipe": recipe.content(),
        "classes": list(class_names),
        "weights": weights,
        "epoch": epoch,
        "metrics": dict(metrics),
        "given": given,
    }
    save_safetensors_atomic(
        path, classifier_of(student).state_dict(), {"format": FORMAT, "coadvise": json.dumps(header)}
    )


def read_header(path: str | Path) -> dict[str, Any]:
    """What `save_model` recorded: recipe, classes, weights, epoch, metrics; empty for a file of another kind.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist: check the path")
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
        return dict(json.loads(metadata["coadvise"])) if metadata.get("format") == FORMAT else {}
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
