"""Pillow's images as arrays and back, without a copy: Pillow keeps a pixel of RGB in four bytes.

Its own way, through `tobytes` and `frombytes`, takes longer than many an operation on a small image. Arrow's interface
lends the memory itself, where an image is not so large that it lies in several blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from ...shapes import UInt8


def bare(image: Image.Image) -> UInt8[np.ndarray, "h w 4"]:
    """The pixels of an RGB image, and a byte that means nothing; read-only where it is the image's own memory."""
    try:
        lent: Any = pa.array(image)
        return lent.flatten().to_numpy(zero_copy_only=True).reshape(image.height, image.width, 4)
    except (AttributeError, TypeError, ValueError, pa.ArrowException):  # an older Pillow, several blocks, no pixels
        return with_fourth(np.asarray(image))


def clothed(pixels: UInt8[np.ndarray, "h w 4"]) -> Image.Image:
    """An RGB image of such pixels, which it keeps as they are: nobody may change them afterwards."""
    height, width = pixels.shape[:2]
    try:
        values = pa.Array.from_buffers(pa.uint8(), pixels.size, [None, pa.py_buffer(np.ascontiguousarray(pixels))])
        return Image.fromarrow(pa.FixedSizeListArray.from_arrays(values, 4), "RGB", (width, height))
    except (AttributeError, TypeError, ValueError, pa.ArrowException):
        return Image.fromarray(np.ascontiguousarray(pixels[..., :3]))


def with_fourth(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 4"]:
    """The same with a fourth byte."""
    wide = np.full((*pixels.shape[:2], 4), 255, np.uint8)
    wide[..., :3] = pixels
    return wide
