"""The memory that processes share: how much there is, and how much is free."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

PLACE = Path("/dev/shm")
"""Where Linux keeps it; a container has 64 MB unless it is given more."""


class Room(NamedTuple):
    """Bytes of shared memory."""

    total: int
    free: int


def shared_memory(place: Path = PLACE) -> Room | None:
    """Size of the shared memory; None where the system keeps it elsewhere, which sets it no such limit."""
    try:
        total, _, free = shutil.disk_usage(place)
    except OSError:
        return None
    return Room(total, free)
