"""What answers for a teacher: a module or any function, and the names of its classes where it keeps them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ModelError, require
from ..system.digests import digest
from .elsewhere import names_of

# Attribute under which a model keeps the names of the classes of the file that it was loaded from.
CLASSES_OF_FILE = "coadvise_classes"
Answer = Callable[[Tensor], Any]
"""A function that answers for a teacher: images (b, 3, h, w) → logits (b, classes), a tensor or an array."""


class Answering(nn.Module):
    """A function as a module.

    Args:
        digest: a text that changes when its answers do. By default the function's own attribute `digest`; one that has
            none cannot be told from another that answers otherwise, by a cache or a resume.
    """

    stated_digest: Tensor | None

    def __init__(self, function: Answer, digest: str | None = None) -> None:
        super().__init__()
        self.function = function
        self.name: str = getattr(function, "__qualname__", type(function).__name__)
        own = getattr(function, "digest", None) if digest is None else digest
        stated = hashlib.sha256(own.encode()).digest() if isinstance(own, str) and own else None
        kept = None if stated is None else torch.tensor(list(stated), dtype=torch.uint8)
        self.register_buffer("stated_digest", kept)

    def forward(self, x: Tensor) -> Any:
        z = self.function(x)
        return torch.as_tensor(z, device=x.device) if isinstance(z, np.ndarray) else z

    def __deepcopy__(self, memo: Any) -> Answering:
        return self  # whatever is behind a function may not be copied


def as_module(model: object, what: str) -> nn.Module:
    """A teacher's model as a module, where it is one, a function, or a program of `torch.export`.

    Raises:
        ModelError: it is neither.
    """
    if isinstance(model, torch.export.ExportedProgram):
        weights = digest([*model.state_dict.values(), *model.constants.values()])
        return Answering(model.module().__call__, weights)  # its module refuses `eval`, and so all that hold it
    if callable(model) and not isinstance(model, (nn.Module, type)):
        return Answering(model)
    how = "give a classifier, as timm.create_model makes one, or a function: images → logits"
    require(model, nn.Module, what, how, ModelError)
    assert isinstance(model, nn.Module)
    return model


def kind_of(model: nn.Module) -> str:
    """A model's class, or the name of a function."""
    return model.name if isinstance(model, Answering) else type(model).__name__


def unstated(model: nn.Module) -> bool:
    """Whether a model is a function that says nothing by which other answers of it could be noticed."""
    return isinstance(model, Answering) and model.stated_digest is None


def named_classes(model: nn.Module) -> tuple[str, ...] | None:
    """Names of a model's classes, as `load_checkpoint` found them in its file, or as Transformers keeps them; None
    where they are not known."""
    for module in model.modules():
        labels = getattr(vars(module).get("config"), "id2label", None)
        if isinstance(labels, dict):
            return names_of(labels)
        names = vars(module).get(CLASSES_OF_FILE)
        if isinstance(names, tuple) and getattr(module, "num_classes", len(names)) == len(names):
            return names
    return None
