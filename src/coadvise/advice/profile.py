"""Teacher profiles in an advice cache: how a teacher spreads the probability outside the logits that are kept."""

from __future__ import annotations

import torch
from torch import Tensor

from ..shapes import Float, Float16
from .record import half


class ProfileSums:
    """Sums of a teacher's logits by its first class."""

    def __init__(self, classes: int) -> None:
        # On the CPU and in float64: the same bytes on every run.
        self._sums = torch.zeros(classes, classes, dtype=torch.float64)
        self._counts = torch.zeros(classes, dtype=torch.float64)

    def add(self, logits: Float[Tensor, "b k"]) -> None:
        """Add the logits of some views."""
        z = logits.detach().cpu().double()
        first = z.argmax(dim=1)
        self._sums.index_add_(0, first, z - z.max(dim=1, keepdim=True).values)
        self._counts += torch.bincount(first, minlength=len(self._counts))

    def profile(self) -> Float16[Tensor, "k k"]:
        """Mean logits by first class; one average view is added to each, so that a rare class has some, too."""
        average = self._sums.sum(dim=0) / self._counts.sum().clamp_min(1)
        return half((self._sums + average) / (self._counts[:, None] + 1))
