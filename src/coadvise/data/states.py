"""How many bytes each image of a source has on the disk.

What is made of images and kept asks here whether they are still those of then: reading all of them again would take as
long as making it anew, and a look at a file takes microseconds. When a file was changed is not asked: a copy of a data
set has other times and the same images.
"""

from __future__ import annotations

import os
import stat
from weakref import WeakKeyDictionary

import numpy as np

from ..shapes import Int64
from ..system.digests import digest
from .sources.base import ImageSource, InFile, file_of

# Images that are looked at: each look may be a question to a server, and takes a millisecond then.
LOOKED_AT = 20_000
_UNKNOWN = -1
_BYTES: WeakKeyDictionary[ImageSource, Int64[np.ndarray, " n"]] = WeakKeyDictionary()


def image_bytes(source: ImageSource) -> Int64[np.ndarray, " n"]:
    """Of each image when a source is first asked, of more than 20,000 of so many spread over all; −1 for the others,
    and where the source knows of no file, or it cannot be looked at."""
    if source not in _BYTES:
        counts = np.full(len(source), _UNKNOWN, dtype=np.int64)
        for index in _looked_at(len(source)):
            place = file_of(source, int(index))
            counts[index] = _UNKNOWN if place is None else _count(place)
        _BYTES[source] = counts
    return _BYTES[source]


def _count(place: InFile) -> int:
    if place.part:
        return _UNKNOWN if place.bytes is None else place.bytes
    try:
        seen = os.stat(place.path)
    except (OSError, ValueError):  # whoever reads it says what is wrong
        return _UNKNOWN
    return seen.st_size if stat.S_ISREG(seen.st_mode) else _UNKNOWN


def _looked_at(images: int) -> Int64[np.ndarray, " n"]:
    return np.linspace(0, images - 1, min(images, LOOKED_AT)).astype(np.int64)


def bytes_digest(source: ImageSource) -> str | None:
    """Hash of how many bytes images have; None where that is not known of one that is looked at: it may be missing."""
    counts = image_bytes(source)[_looked_at(len(source))]
    return None if (counts == _UNKNOWN).any() else digest([counts])
