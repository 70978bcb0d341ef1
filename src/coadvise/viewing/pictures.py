"""Images that the page has sent: bounded in bytes and pixels, and only so many kept, as the runs see them."""

from __future__ import annotations

import base64
import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..data.decode import open_encoded
from ..data.sources.base import ImageSource
from ..errors import DataError
from ..shapes import UInt8
from .asking import seen_by
from .opened import OpenedRun

MOST_BYTES = 32 * 2**20
"""Of an image's file."""
MOST_PIXELS = 64 * 10**6
"""Of an image, as its file's head says."""
KEPT = 32
Seen = tuple[UInt8[np.ndarray, "h w 3"], ...]
"""One image as each run's evaluation sees it, in the order of the runs."""


class Pictures:
    """The last images that were sent, by a key of their content."""

    def __init__(self, runs: Sequence[OpenedRun]) -> None:
        self._runs = runs
        self._kept: OrderedDict[str, Seen] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, content: bytes) -> str:
        """Keep an image and return its key.

        Raises:
            DataError: too large, or it cannot be read.
        """
        require_small(content)
        seen = tuple(seen_by(run, content, "the image") for run in self._runs)
        key = hashlib.sha256(content).hexdigest()[:32]
        with self._lock:
            self._kept[key] = seen
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return key

    def get(self, key: str) -> Seen | None:
        """An image that was sent; None where it is kept no longer."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)


def require_small(content: bytes) -> None:
    """Refuse an image that would take too much memory, before it is decoded.

    Raises:
        DataError: it has more bytes or pixels than are taken.
    """
    if len(content) > MOST_BYTES:
        size = f"{len(content) / 2**20:.0f} MiB"
        raise DataError(f"the image has {size}, at most {MOST_BYTES >> 20} are taken; shrink it")
    try:
        with open_encoded(content) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise DataError(f"the image is too large ({error}); shrink it") from error
    except Exception:  # Pillow's decoders raise nearly any; `decode` meets the same, and says what is wrong
        return
    if width * height > MOST_PIXELS:
        raise DataError(
            f"the image has {width:,} × {height:,} pixels, at most {MOST_PIXELS // 10**6} million are taken; shrink it"
        )


def seen_in(source: ImageSource, index: int, runs: Sequence[OpenedRun]) -> Seen:
    """An image of a source as each run sees it.

    Raises:
        DataError: it cannot be read.
    """
    content, name = source.read(index), source.describe(index)
    return tuple(seen_by(run, content, name) for run in runs)


def png(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    """Pixels as a PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
