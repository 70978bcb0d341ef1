"""Layout of a cache on disk: folders, shards, blocks and record numbers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from .record import RecordFormat

# Images that the teachers see at once when a cache is written: part of the format, as rounding depends on it.
BATCH = 128
# Batches of a block, the unit that is claimed, written and marked.
BLOCK_BATCHES = 16
SHARD_BYTES = 2**28
# Views that make a profile: so many, and so many for each class, of the first view.
PROFILE_VIEWS, PROFILE_VIEWS_OF_CLASS = 2048, 32


@dataclasses.dataclass(frozen=True)
class Layout:
    """Layout of one teacher's column, for so many images of the training set and so many views of each."""

    images: int
    views: int
    record: RecordFormat

    @property
    def records(self) -> int:
        """Number of records in all."""
        return self.images * self.views

    @property
    def per_shard(self) -> int:
        """Records of a whole shard."""
        return max(SHARD_BYTES // self.record.bytes, 1)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.records // self.per_shard)

    def shard_bytes(self, shard: int) -> int:
        """Size of a shard's file."""
        return min(self.per_shard, self.records - shard * self.per_shard) * self.record.bytes

    @property
    def bytes(self) -> int:
        """Size of the column."""
        return self.records * self.record.bytes + self.record.profile_bytes

    @property
    def profile_images(self) -> int:
        """Number of images of the first view from which the profile is made."""
        return min(self.images, max(PROFILE_VIEWS, PROFILE_VIEWS_OF_CLASS * self.record.classes))

    @property
    def blocks_per_view(self) -> int:
        """Blocks of a view; the last may be smaller."""
        return -(-self.images // (BATCH * BLOCK_BATCHES))

    @property
    def blocks(self) -> int:
        """Number of blocks in all."""
        return self.views * self.blocks_per_view

    def block(self, number: int) -> tuple[int, int, int]:
        """View, first position and end of a block."""
        view, part = divmod(number, self.blocks_per_view)
        start = part * BATCH * BLOCK_BATCHES
        return view, start, min(start + BATCH * BLOCK_BATCHES, self.images)


def profile_path(folder: Path, teacher: str) -> Path:
    """File of a teacher's profile."""
    return folder / teacher / "profile.bin"


def shard_path(folder: Path, teacher: str, shard: int) -> Path:
    """File of a shard."""
    return folder / teacher / f"{shard:05d}.bin"
