"""The plain way, from the published description: involution by `unfold`, eager float32, teachers as they come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch.nn.functional as F
from torch import Tensor


def unfold_involution(x: Tensor, kernel: Tensor, kernel_size: int, stride: int = 1) -> Tensor:
    """Involution as usually written: all K² shifted copies of the input, times the kernels, summed.

    Sizes must be divisible by the stride.
    """
    b, c, _, _ = x.shape
    oh, ow = kernel.shape[-2:]
    windows = F.unfold(x, kernel_size, padding=(kernel_size - 1) // 2, stride=stride)
    windows = windows.view(b, c // 16, 16, kernel_size**2, oh, ow)
    return (windows * kernel.view(b, c // 16, 1, kernel_size**2, oh, ow)).sum(3).view(b, c, oh, ow)


@contextmanager
def by_unfold() -> Iterator[None]:
    """Every involution layer computes by `unfold_involution` inside."""
    with mock.patch("coadvise.models.rednet.involution", unfold_involution):
        yield
