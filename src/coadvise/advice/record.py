"""The format of one record of stored advice: a teacher's logits for one image, in a few bytes.

A record holds the k largest logits relative to the maximum (float16, best first), their classes (16-bit unsigned, 32
where there are more than 65,535 classes), and the log-sum-exp of all other logits, relative to the maximum too. So the
distribution can be had at any temperature. Where that takes no more room, all logits are stored in the order of the
classes instead, without indices.

What lies outside the k classes is spread as the teacher usually spreads it when its first class is this one: a profile,
one table for each teacher, holds the mean logits of some thousand views by their first class. None of these logits may
exceed the last of the k: what would is cut there, and the others take its mass. Spread evenly, the rest would turn the
gradients far more (docs/log.md).

Relative to the maximum, because softmax does not see it, and float16 is finest around 0, where the mass is. The
outside part is summed by itself: taken as a difference from the whole sum it would cancel.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..shapes import Bool, Float, Float16, UInt8, UInt16

LOWEST = float(torch.finfo(torch.float16).min)
# A profile takes 2·K² bytes; beyond so many classes the outside is spread evenly.
PROFILED_CLASSES = 4096
# Rounds of cutting the spread logits at the last of the k and giving their mass to the others.
ROUNDS = 3
TINY = float(torch.finfo(torch.float32).tiny)


@dataclasses.dataclass(frozen=True)
class RecordFormat:
    """Layout of the records of one teacher: of the logits of all `classes` the `top` largest are kept."""

    classes: int
    top: int

    @property
    def dense(self) -> bool:
        """Whether all logits are stored, in the order of the classes."""
        return 2 * self.classes <= self._sparse_bytes

    @property
    def _index(self) -> torch.dtype:
        return torch.uint16 if self.classes <= 2**16 - 1 else torch.uint32

    @property
    def _sparse_bytes(self) -> int:
        return self.top * (2 + self._index.itemsize) + 2

    @property
    def bytes(self) -> int:
        """Size of a record."""
        return 2 * self.classes if self.dense else self._sparse_bytes

    @property
    def profile_bytes(self) -> int:
        """Size of a teacher's profile; 0 where there is none."""
        return 0 if self.dense or self.classes > PROFILED_CLASSES else 2 * self.classes**2

    def encode(self, logits: Float[Tensor, "b k"]) -> UInt8[Tensor, "b r"]:
        """Logits to records, on any device."""
        relative = logits.float() - logits.float().max(dim=1, keepdim=True).values
        if self.dense:
            return half(relative).view(torch.uint8)
        # Sorted, and equal logits by class: the same bytes whatever the library's order of ties.
        order = torch.sort(relative, dim=1, descending=True, stable=True)
        kept, index = order.values[:, : self.top], order.indices[:, : self.top]
        outside = torch.logsumexp(order.values[:, self.top :], dim=1, keepdim=True)
        parts = [
            half(kept).view(torch.uint8),
            index.to(torch.int64).to(self._index).contiguous().view(torch.uint8),
            half(outside).view(torch.uint8),
        ]
        return torch.cat(parts, dim=1)

    def damaged(self, records: UInt8[np.ndarray, "b r"]) -> Bool[np.ndarray, " b"]:
        """Which records `encode` cannot have made: not finite, above the maximum, of a class that there is not.

        What it can have made may be wrong, too; only the checksums of whole files tell (`coadvise cache --verify`).
        """
        if self.dense:
            return np.any(_no_logits(records.view(np.uint16)), axis=1)
        index_type = np.uint16 if self._index is torch.uint16 else np.uint32
        first, second = 2 * self.top, (2 + self._index.itemsize) * self.top
        index: NDArray[np.integer] = records[:, first:second].view(index_type)
        outside: NDArray[np.float16] = records[:, second:].view(np.float16)[:, 0]
        bad = np.any(_no_logits(records[:, :first].view(np.uint16)), axis=1) | np.any(index >= self.classes, axis=1)
        if self.top > 1:  # bytes that were lost are read as zeros: one class, again and again
            bad |= index[:, 0] == index[:, 1]
        # None of the others is above the last that is kept; a little room for rounding.
        last = records[:, first - 2 : first].view(np.float16)[:, 0].astype(np.float32)
        most = math.log(self.classes - self.top) + last + 0.1 + 0.002 * np.abs(last)
        return bad | ~((outside >= LOWEST) & (outside <= most))

    def decode(
        self, records: UInt8[Tensor, "b r"], profile: Float16[Tensor, "k k"] | None = None
    ) -> Float[Tensor, "b k"]:
        """Records to logits in float32, up to a constant for each image.

        Args:
            profile: of the teacher, on the same device; without it the outside is spread evenly.
        """
        if self.dense:
            return _as(records, torch.float16).float()
        first, second = 2 * self.top, (2 + self._index.itemsize) * self.top
        kept = _as(records[:, :first], torch.float16).float()
        index = _as(records[:, first:second], self._index).to(torch.int64)
        outside = _as(records[:, second:], torch.float16).float()
        if profile is None:
            even = outside - math.log(self.classes - self.top)
            return even.expand(-1, self.classes).scatter(1, index, kept)
        # As probabilities: a logarithm at the end is cheaper than a log-sum-exp in each round.
        mass, last = outside.exp(), kept[:, -1:].exp()
        spread = profile[index[:, 0]].float().exp().scatter(1, index, 0.0)
        for _ in range(ROUNDS):
            spread = torch.minimum(spread * (mass / spread.sum(dim=1, keepdim=True).clamp_min(TINY)), last)
        return spread.clamp_min(TINY).log().scatter(1, index, kept)


def _as(part: Tensor, dtype: torch.dtype) -> Tensor:
    """View bytes as another type, after a copy: a slice may start at any address, a number may not."""
    return part.clone(memory_format=torch.contiguous_format).view(-1).view(dtype).view(len(part), -1)


def _no_logits(bits: UInt16[np.ndarray, "b k"]) -> Bool[np.ndarray, "b k"]:
    """Which float16 numbers are not in [LOWEST, 0], by their bits, which is faster than by their values."""
    return (bits - np.uint16(0x8000) > np.uint16(0x7BFF)) & (bits != 0)


def half(values: Tensor) -> Tensor:
    """Values in float16, cut at the lowest that it holds."""
    return values.clamp_min(LOWEST).half().contiguous()
