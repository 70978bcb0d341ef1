"""JPEG files straight to pixels, by simplejpeg where it is installed: a fifth faster than through Pillow.

Both ask libjpeg-turbo for the same (accurate) transform, so the pixels are the same; what is not a plain upright colour
JPEG goes Pillow's way.
"""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from .decode import Needed, decode, orientation, shrink_factor

try:
    import simplejpeg
except ImportError:  # an optional wheel
    simplejpeg = None


def decode_pixels(
    raw: bytes | Image.Image, what: str, needed: Needed | None = None
) -> Image.Image | UInt8[np.ndarray, "h w 3"]:
    """`decode`, but the pixels alone where they can be had without it; `needed` is asked once either way."""
    size = _plain_size(raw) if isinstance(raw, bytes) else None
    if size is None:
        return decode(raw, what, needed)
    factor = needed(*size) if needed is not None else 1.0
    if shrink_factor(factor) == 1:
        try:
            pixels: np.ndarray = simplejpeg.decode_jpeg(raw, "RGB", strict=True)
            return pixels
        except ValueError:  # damaged: Pillow says how
            pass
    return decode(raw, what, lambda width, height: factor)


def _plain_size(raw: bytes) -> tuple[int, int] | None:
    """Width and height of an upright colour JPEG of usual size, else None."""
    if simplejpeg is None or not raw.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(raw)
    except ValueError:
        return None
    if colours != "YCbCr" or (Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS):
        return None
    if b"Exif" in raw[:65536]:
        with Image.open(io.BytesIO(raw), formats=("JPEG",)) as image:
            if orientation(image) != 1:
                return None
    return width, height
