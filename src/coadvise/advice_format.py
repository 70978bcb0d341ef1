"""One record of stored advice: what a teacher says of one image, in a few bytes.

A record holds the k largest logits relative to the maximum (float16, best first), their classes (16-bit unsigned, 32
where there are more than 65,535 classes), and the log-sum-exp of all other logits, relative to the maximum too. So the
distribution can be had at any temperature; what lies outside the k classes is spread evenly over them. Where that takes
no more room, all logits are stored in the order of the classes instead, without indices.

Relative to the maximum, because softmax does not see it, and float16 is finest around 0, where the mass is. The
outside part is summed by itself: taken as a difference from the whole sum it would cancel.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

LOWEST = float(torch.finfo(torch.float16).min)


@dataclasses.dataclass(frozen=True)
class RecordFormat:
    """Layout of the records of one teacher.

    Attributes:
        classes: number of classes K.
        top: k, the number of logits that are kept; K keeps all.
    """

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

    def encode(self, logits: Float[Tensor, "b k"]) -> UInt8[Tensor, "b r"]:
        """Logits to records, on any device."""
        relative = logits.float() - logits.float().max(dim=1, keepdim=True).values
        if self.dense:
            return _half(relative).view(torch.uint8)
        # Sorted, and equal logits by class: the same bytes whatever the library's order of ties.
        order = torch.sort(relative, dim=1, descending=True, stable=True)
        kept, index = order.values[:, : self.top], order.indices[:, : self.top]
        outside = torch.logsumexp(order.values[:, self.top :], dim=1, keepdim=True)
        parts = [
            _half(kept).view(torch.uint8),
            index.to(torch.int64).to(self._index).contiguous().view(torch.uint8),
            _half(outside).view(torch.uint8),
        ]
        return torch.cat(parts, dim=1)

    def decode(self, records: UInt8[Tensor, "b r"]) -> Float[Tensor, "b k"]:
        """Records to logits in float32, up to a constant for each image."""
        if self.dense:
            return _as(records, torch.float16).float()
        first, second = 2 * self.top, (2 + self._index.itemsize) * self.top
        kept = _as(records[:, :first], torch.float16).float()
        index = _as(records[:, first:second], self._index).to(torch.int64)
        outside = _as(records[:, second:], torch.float16).float()
        even = outside - math.log(self.classes - self.top)
        return even.expand(-1, self.classes).scatter(1, index, kept)


def _as(part: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes read as another type, from memory of their own: a slice may start anywhere, a number may not."""
    return part.clone(memory_format=torch.contiguous_format).view(-1).view(dtype).view(len(part), -1)


def _half(values: Tensor) -> Tensor:
    return values.clamp_min(LOWEST).half().contiguous()
