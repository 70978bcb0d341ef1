"""Pixels of recurring views, kept in a file that runs share: what was drawn once is read from then on.

Drawing an image under DeiT's augmentation takes longer than a small student's step on it. Every row of the file is one
image of one view, and its checksum tells whether it is there and whole, so that any number of processes may read and
fill it at the same time, and nothing is lost or wrong when one of them ends. The checksum begins with the
number of the image's bytes: what was drawn of one that has been replaced since is not there, and is drawn again.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..shapes import Int64, UInt8


class KeptPixels:
    """A file of (view, index) → pixels (size, size, 3), and one of their checksums.

    Args:
        folder: of these views; made when the first pixels are written.
        views, images, size: how many there are, and the side of an image in pixels.
        encoded: bytes of each image on the disk; −1 where that is not known, as by default of all.
    """

    def __init__(
        self, folder: Path, views: int, images: int, size: int, encoded: Int64[np.ndarray, " n"] | None = None
    ) -> None:
        self.folder, self.views, self.images, self.size = folder, views, images, size
        self.encoded = np.full(images, -1, dtype=np.int64) if encoded is None else encoded
        self._rows: np.memmap[Any, np.dtype[np.uint8]] | None = None
        self._sums: np.memmap[Any, np.dtype[np.uint32]] | None = None

    @property
    def bytes(self) -> int:
        """Size of the whole file."""
        return self.views * self.images * 3 * self.size**2

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": None, "_sums": None}  # each process maps the files itself

    def open(self) -> None:
        """Make the files, whose disk space is taken at once.

        Raises:
            DataError: they cannot be made there.
        """
        self._mapped()

    def read(self, view: int, index: int) -> UInt8[np.ndarray, "h w 3"] | None:
        """The pixels of an image in a view; None where they are not there."""
        rows, sums = self._mapped()
        pixels = np.array(rows[view, index])
        return pixels if sums[view, index] == self._sum(index, pixels) else None

    def write(self, view: int, index: int, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
        """Keep the pixels of an image in a view."""
        rows, sums = self._mapped()
        rows[view, index] = pixels
        sums[view, index] = self._sum(index, pixels)

    def _sum(self, index: int, pixels: UInt8[np.ndarray, "h w 3"]) -> int:
        begin = max(int(self.encoded[index]), 0) & 0xFFFFFFFF
        return zlib.crc32(pixels.data, begin) or 1  # a row of zeros in a new file is not there

    def _mapped(self) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], np.ndarray[Any, np.dtype[np.uint32]]]:
        if self._rows is None or self._sums is None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                count = self.views, self.images
                self._rows = _map(self.folder / "pixels.bin", np.uint8, (*count, self.size, self.size, 3))
                self._sums = _map(self.folder / "checksums.bin", np.uint32, count)
            except OSError as error:
                raise DataError(
                    f"cannot keep views in {self.folder}: {error.strerror or error}; choose another disk with "
                    "data.views_folder=FOLDER, or leave it out"
                ) from error
        return self._rows, self._sums


def _map(path: Path, kind: type[np.generic], shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """A file of that shape, of zeros where it is new; the disk space of the whole is taken at once.

    A write into a mapped file for which the disk has no room would end the process.
    """
    take = getattr(os, "posix_fallocate", None)  # not on every system
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    path.touch()
    with path.open("r+b") as file:  # to append is refused where the C library takes the space, such as on NFS
        if file.seek(0, os.SEEK_END) < size:
            if take is None:
                file.truncate(size)
            else:
                take(file.fileno(), 0, size)
    return np.memmap(path, kind, "r+", shape=shape)
