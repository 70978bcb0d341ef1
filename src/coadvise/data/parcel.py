"""A batch on its way from a loader process to the training process.

Its pixels go through shared memory where that has room, and otherwise in the message itself, which takes one copy more.
It is packed and unpacked here and not by the queue, whose thread would lose a batch that cannot be packed: then the
training process would wait for it for ever.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import NamedTuple

import torch

from ..errors import one_line
from ..system.shared_memory import shared_memory
from .samples import Failure
from .views.finish import Unfinished


class Undelivered(NamedTuple):
    """A batch that was packed and cannot be opened, and why."""

    reason: str


@dataclass(frozen=True)
class Parcel:
    """A packed batch.

    Attributes:
        content: what `pack` made of it.
    """

    content: bytes

    def unpack(self) -> Unfinished | Failure | Undelivered:
        """The batch, in the process that receives it."""
        try:
            batch = pickle.loads(self.content)
        except (OSError, EOFError, RuntimeError) as error:  # its process has ended, or this one has too many open files
            return Undelivered(one_line(error))
        if isinstance(batch, Failure):
            return batch
        pixels, views, mixing, index = map(torch.as_tensor, batch[:4])
        return Unfinished(pixels, views, mixing, index, batch[4])

    def pin_memory(self) -> Unfinished | Failure | Undelivered:
        """The batch in memory from which a GPU copies; PyTorch calls this."""
        batch = self.unpack()
        if not isinstance(batch, Unfinished):
            return batch
        pixels, views, mixing, index = (tensor.pin_memory() for tensor in batch[:4])
        return Unfinished(pixels, views, mixing, index, batch.skipped)


def pack(batch: Unfinished | Failure) -> Parcel:
    """Pack a batch in the process that made it."""
    if isinstance(batch, Failure):
        return Parcel(pickle.dumps(batch))
    tensors = batch[:4]
    if _room_for(sum(tensor.nbytes for tensor in tensors)):
        try:
            return Parcel(bytes(ForkingPickler.dumps(batch)))
        except (OSError, RuntimeError):  # other processes have taken the room, or this one has too many open files
            pass
    return Parcel(pickle.dumps([*(tensor.numpy() for tensor in tensors), batch.skipped], protocol=5))


def _room_for(size: int) -> bool:
    """Whether at least half of the shared memory stays free; processes that talk to each other need it, too."""
    room = shared_memory()
    return room is None or room.free - size >= room.total / 2
