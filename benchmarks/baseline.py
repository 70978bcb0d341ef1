"""The plain way, from the published description: involution by `unfold`, eager float32, teachers as they come.

Its stems are PyTorch's own layers, and its memory is given back to the system and asked for again as glibc has it.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch.nn.functional as F
from torch import Tensor, nn


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
    """Every involution layer computes by `unfold_involution` inside, and every stem by PyTorch's own layers."""
    with (
        mock.patch("coadvise.models.rednet.involution", unfold_involution),
        mock.patch("coadvise.models.stems.can_fuse", lambda *_: False),
        mock.patch("coadvise.models.stems.Projection.forward", nn.Conv2d.forward),
        mock.patch("coadvise.models.stems.laid_out", lambda x: x),
    ):
        yield


def usual_memory() -> None:
    """Undo `keep_freed_memory`, and give all that is kept back to the system."""
    with contextlib.suppress(OSError, AttributeError):  # without glibc
        c = ctypes.CDLL(None)
        for number, value in ((-3, 2**25), (-1, 2**26), (-2, 2**17)):  # what glibc itself arrives at with large blocks
            c.mallopt(number, value)
        c.malloc_trim(0)
