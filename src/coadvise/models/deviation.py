"""How far the logits of one form of a model are from those of another."""

from __future__ import annotations

import torch
from torch import Tensor

_FILLER = -1e3
"""At and below it a logit is no answer but stands for a class that was never seen: a linear probe gives it −10,000."""


def deviation(found: Tensor, expected: Tensor) -> float:
    """Largest difference of logits of the same shape, as a part of the largest logit, at least of 1; NaN where one is.

    What stands for classes never seen is compared by its own size: as part of that, others could differ by anything.
    """
    found, expected = found.detach().double(), expected.detach().double()
    filler = expected <= _FILLER
    largest = torch.where(filler, 0.0, expected.abs()).max().clamp_min(1.0)
    size = torch.where(filler, expected.abs(), largest)
    return float(((found - expected).abs() / size).max())
