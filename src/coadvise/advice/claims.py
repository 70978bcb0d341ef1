"""Blocks of a cache, shared by any number of writing processes through locks on single bytes of one file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..data.loader import TrainLoader
from ..data.samples import Keys
from ..system.locks import lock_byte, unlock_byte
from .layout import BATCH, Layout


class Claims:
    """The blocks that this process writes: locked when their first batch is requested, marked as done once written."""

    def __init__(self, folder: Path, names: list[str], layout: Layout, lock: int, loader: TrainLoader) -> None:
        self.paths = {name: folder / name / "progress" for name in names}
        self.layout, self.lock, self.loader = layout, lock, loader
        self.lacking: dict[int, list[str]] = {}
        """Claimed blocks, with the teachers whose records they lack."""

    @property
    def done(self) -> int:
        """Number of blocks that are written for every teacher."""
        marks = [np.frombuffer(path.read_bytes(), np.uint8) for path in self.paths.values()]
        return int(np.all(marks, axis=0).sum())

    def keys(self) -> Iterator[Keys]:
        """Batches of every block that is neither written nor claimed by another process."""
        found = True
        while found:  # what another process gave up half-way is found by the next round
            found = False
            for block in range(self.layout.blocks):
                if block in self.lacking or not self._unwritten(block) or not lock_byte(self.lock, block):
                    continue
                names = self._unwritten(block)
                if not names:  # written by another process a moment ago
                    unlock_byte(self.lock, block)
                    continue
                self.lacking[block] = names
                found = True
                view, start, stop = self.layout.block(block)
                for at in range(start, stop, BATCH):
                    yield self.loader.keys(view, at, min(at + BATCH, stop))

    def wait_for_others(self) -> bool:
        """Wait until another process has left a block that is not written; False where all are.

        Not while this process holds a block: two could wait for each other.
        """
        for block in range(self.layout.blocks):
            if self._unwritten(block):
                lock_byte(self.lock, block, wait=True)
                unlock_byte(self.lock, block)
                return True
        return False

    def of(self, view: int, position: np.ndarray) -> tuple[int, bool]:
        """Block of a batch, and whether it is the block's last."""
        size = self.layout.block(0)[2]
        block = view * self.layout.blocks_per_view + int(position[0]) // size
        return block, int(position[-1]) + 1 == self.layout.block(block)[2]

    def mark(self, block: int) -> None:
        """Note that a block is written, and leave it."""
        for name in self.lacking[block]:
            with self.paths[name].open("r+b") as file:
                file.seek(block)
                file.write(b"\1")
                file.flush()
                os.fsync(file.fileno())
        unlock_byte(self.lock, block)

    def _unwritten(self, block: int) -> list[str]:
        names = []
        for name, path in self.paths.items():
            with path.open("rb") as file:
                file.seek(block)
                if file.read(1) != b"\1":
                    names.append(name)
        return names
