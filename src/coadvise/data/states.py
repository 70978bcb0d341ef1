"""State of the files of a source: how many bytes each image has, and when its file was last changed.

What is made of images and kept asks here whether they are still those of then: reading all of them again would take as
long as making it anew, and a look at a file takes microseconds.
"""

from __future__ import annotations

import os
import stat
import zlib
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from ..shapes import Int64, UInt32
from ..system.digests import digest
from .sources.base import ImageSource, InFile, file_of

_UNKNOWN = -1


class FileStates(NamedTuple):
    """Of each image; −1 where its source knows of no file, or the file cannot be looked at.

    Attributes:
        bytes: that the encoded image has.
        changed: in nanoseconds, when the file that holds the image was last changed.
    """

    bytes: Int64[np.ndarray, " n"]
    changed: Int64[np.ndarray, " n"]


_STATES: WeakKeyDictionary[ImageSource, FileStates] = WeakKeyDictionary()


def file_states(source: ImageSource) -> FileStates:
    """States when a source is first asked for them; takes seconds for a large data set."""
    if source not in _STATES:
        states = np.full((2, len(source)), _UNKNOWN, dtype=np.int64)
        held: dict[str, tuple[int, int]] = {}  # of files that hold many images
        for index in range(len(source)):
            found = file_of(source, index)
            if found is not None:
                states[:, index] = _state(found, held)
        _STATES[source] = FileStates(*states)
    return _STATES[source]


def _state(found: InFile, held: dict[str, tuple[int, int]]) -> tuple[int, int]:
    if not found.part:
        return _look(found.path)
    if found.path not in held:
        held[found.path] = _look(found.path)
    return _UNKNOWN if found.bytes is None else found.bytes, held[found.path][1]


def _look(path: str) -> tuple[int, int]:
    try:
        seen = os.stat(path)
    except (OSError, ValueError):  # whoever reads it says what is wrong
        return _UNKNOWN, _UNKNOWN
    # A folder's time does not tell whether the files in it were changed.
    return (seen.st_size, seen.st_mtime_ns) if stat.S_ISREG(seen.st_mode) else (_UNKNOWN, _UNKNOWN)


def bytes_digest(source: ImageSource) -> str | None:
    """Hash of how many bytes each image has; None where nothing is known of any."""
    sizes = file_states(source).bytes
    return digest([sizes]) if (sizes != _UNKNOWN).any() else None


def stamps(source: ImageSource) -> UInt32[np.ndarray, " n"]:
    """A number for each image that is another once its file has been changed; 0 where nothing is known."""
    states = np.stack(file_states(source), axis=1)
    known = (states != _UNKNOWN).any(axis=1)
    return np.array(
        [zlib.crc32(row) if there else 0 for row, there in zip(states, known, strict=True)], dtype=np.uint32
    )
