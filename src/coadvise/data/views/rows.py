"""What `Finish` does to images, on the CPU in one pass of compiled code: the same bits, several times faster.

PyTorch does it where nothing can be compiled.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from ...shapes import Float
from ...system.native import compiled
from .finish import NOISE, Batch, Finish, Unfinished
from .fused import Steps, choices

SOURCE = Path(__file__).with_name("rows.cpp")
# Values of a batch from which a second thread saves more than it costs to wake it.
WORTH_A_THREAD = 1 << 20


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled function; None where nothing can be compiled."""
    return compiled(SOURCE, "batches are made without compiled code here, more slowly", "-ffp-contract=off")


class Rows:
    """Turns batches of 8-bit pixels into model input on the CPU, as `Finish` does, and with it where it must.

    Args:
        finish: what it is made from.
    """

    def __init__(self, finish: Finish) -> None:
        self.finish, self._code = finish, library()
        width = finish.data.image_size
        self._scale, self._offset = (one.repeat(width) for one in finish.scale_and_offset())
        self._noise = finish.noise_ring() if Steps.of(finish).erases else None

    @property
    def compiled(self) -> bool:
        """Whether compiled code does it."""
        return self._code is not None

    def __call__(self, batch: Unfinished) -> Batch:
        """The batch."""
        if self._code is None:
            return self.finish(batch)
        target, label = self.finish.targets(batch)
        return Batch(self._images(batch).permute(0, 3, 1, 2), target, label, batch.index, tuple(batch.skipped))

    def _images(self, batch: Unfinished) -> Float[Tensor, "b h w 3"]:
        pixels, table = batch.pixels.contiguous(), torch.from_numpy(choices(batch))
        count, height, width = len(table), *pixels.shape[1:3]
        out = torch.empty(count, height, width, 3)
        threads = min(max(out.numel() // WORTH_A_THREAD, 1), torch.get_num_threads())
        address = lambda tensor: ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
        sizes = map(ctypes.c_int64, (NOISE, count, height, width))
        tensors = map(address, (pixels, table, self._scale, self._offset, self._noise))
        assert self._code is not None
        if self._code.rows(*tensors, *sizes, ctypes.c_int(threads), address(out)):
            raise MemoryError
        return out
