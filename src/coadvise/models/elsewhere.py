"""Classifiers of other libraries as teachers: Transformers, ONNX files, torchvision.

Each gives images (b, 3, h, w) → logits (b, k) and what its library says of it: how it sees images, and its classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from .stated import Size


@dataclass(frozen=True)
class Found:
    """A classifier of another place in evaluation mode, and what that place says of it.

    Attributes:
        mean, std: per channel, of pixels in [0, 1]; None where it does not say.
        size: height and width of the images that it is made for, or is shown there; None where it does not say.
        classes: their names, in the order of the logits; None where they have none.
    """

    model: nn.Module
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: Size | None = None
    classes: tuple[str, ...] | None = None


def names_of(labels: Mapping[int, str]) -> tuple[str, ...] | None:
    """Names of classes as Transformers keeps them; None where they only count: `LABEL_0`, `LABEL_1`."""
    names = tuple(str(labels.get(index, "")) for index in range(len(labels)))
    counted = all(name.upper().removeprefix("LABEL_") == str(index) for index, name in enumerate(names))
    return None if counted or len(set(names)) < len(names) else names
