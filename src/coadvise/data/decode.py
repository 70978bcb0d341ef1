"""Decoding: every image becomes RGB, 8 bits, upright, as a person looking at it would see it.

Plain `PIL.Image.convert("RGB")` clips 16-bit greyscale to white, shows transparent pixels in whatever colour
lies under them, and ignores the orientation that a camera has noted. Here 16-bit and float images are scaled
by the range of their format, transparency is laid on white, and the orientation of Exif or XMP is applied.
Embedded colour profiles are not applied; CMYK is converted with the plain formula, as a viewer without a profile
does it.

JPEG files go through simplejpeg where it is installed: a fifth faster than through Pillow. Both ask libjpeg-turbo for
the same (accurate) transform, so the pixels are the same; what is not a plain upright colour JPEG goes Pillow's way.
Where a random crop is all that is wanted, `part.py` decodes no more than that.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image

from ..errors import DataError, one_line
from ..shapes import UInt8
from .part import part_decoder
from .png import SIGNATURE, without_texts
from .rgb import match_transparency, to_rgb
from .views.square import Box, Cut

# Pillow tries every plugin on unknown bytes, EPS (which starts Ghostscript) among them: name what we accept.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA", "ICO")

# Their decoders take 16 bytes a pixel: they may have Pillow's limit of pixels, and others twice as many, as in Pillow.
_COSTLY = ("WEBP", "JPEG2000")

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


Needed = Callable[[int, int], float]
"""Width and height of an upright image → factor by which its sides may shrink."""


def decode(raw: bytes | Image.Image, what: str, needed: Needed | None = None) -> Image.Image:
    """Decode one image to upright RGB.

    Args:
        raw: an encoded file, or an image that a source holds decoded already (it is not changed).
        what: path or other name of the image, for the error message.
        needed: asked for JPEG files, which can be decoded at 1/2, 1/4 or 1/8 of their size in a fraction of the time.

    Returns:
        A fully loaded image of mode RGB.

    Raises:
        DataError: the image is empty, truncated, of an unknown format or mode, or suspiciously large.
    """
    if isinstance(raw, (bytes, bytearray, memoryview)) and not len(raw):
        raise DataError(f"{what} is empty (0 bytes); replace it")
    try:
        try:
            image = _upright_rgb(raw, needed)
        except ValueError as error:
            if not (isinstance(raw, bytes) and raw.startswith(SIGNATURE) and "MAX_TEXT_" in str(error)):
                raise
            image = _upright_rgb(without_texts(raw), needed)
    except Image.DecompressionBombError as error:
        raise DataError(f"{what} is too large to be a normal image ({error}); shrink it") from error
    # Pillow's decoders raise nearly any exception on broken bytes (OSError, SyntaxError, struct.error, …).
    except Exception as error:
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = "it is in no known image format" if unknown else one_line(error)
        raise DataError(f"{what} cannot be read as an image: {reason}; replace it") from error
    if image.width == 0 or image.height == 0:
        raise DataError(f"{what} has no pixels ({image.width}×{image.height})")
    return image


def _upright_rgb(raw: bytes | Image.Image, needed: Needed | None) -> Image.Image:
    image = raw if isinstance(raw, Image.Image) else Image.open(io.BytesIO(raw), formats=_formats())
    pixels, most = image.width * image.height, Image.MAX_IMAGE_PIXELS
    if image.format in _COSTLY and most and pixels > most:
        raise Image.DecompressionBombError(f"{pixels} pixels, of {image.format} at most {most}")
    if needed is not None and image.format == "JPEG":
        _shrink(image, needed)
    match_transparency(image)
    image.load()
    turned = orientation(image)
    image = to_rgb(image) if all(image.size) else image
    return image.transpose(_UPRIGHT[turned]) if turned in _UPRIGHT else image


def open_encoded(raw: bytes) -> Image.Image:
    """The image of an encoded file of which the head alone is read so far, as `decode` opens it.

    Raises:
        Exception: nearly any, of Pillow's decoders, where `decode` raises DataError.
    """
    try:
        return Image.open(io.BytesIO(raw), formats=_formats())
    except ValueError as error:
        if not (raw.startswith(SIGNATURE) and "MAX_TEXT_" in str(error)):
            raise
        return Image.open(io.BytesIO(without_texts(raw)), formats=_formats())


def _shrink(image: Image.Image, needed: Needed) -> None:
    """Make Pillow decode a JPEG at a part of its size."""
    width, height = image.size
    factor = needed(height, width) if orientation(image) >= 5 else needed(width, height)
    scale = shrink_factor(factor)
    if scale > 1:
        image.draft(None, (width // scale, height // scale))


def shrink_factor(needed: float) -> int:
    """The part of its size at which a JPEG may be decoded: 1, 2, 4 or 8 (an eighth)."""
    return next((scale for scale in (8, 4, 2) if scale <= needed), 1)


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """The FORMATS that this build of Pillow reads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def orientation(image: Image.Image) -> int:
    """Orientation that Exif notes, or else XMP; 1 (upright) where none is noted. Whoever turns images asks here."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    # A broken EXIF block says nothing about the pixels.
    except Exception:
        return 1


try:
    import simplejpeg
except ImportError:  # an optional wheel
    simplejpeg = None


def decode_pixels(
    raw: bytes | Image.Image,
    what: str,
    needed: Needed | None = None,
    box: Callable[[int, int], Box] | None = None,
) -> Image.Image | UInt8[np.ndarray, "h w 3"] | Cut:
    """Like `decode`, but an array where simplejpeg can decode; `needed` is asked once either way.

    Args:
        box: width and height of an upright image → the part of it that is wanted. Asked where a part can be decoded
            without the rest, which then comes alone.
    """
    size = _plain_size(raw) if isinstance(raw, bytes) else None
    if size is None:
        return decode(raw, what, needed)
    assert isinstance(raw, bytes)
    factor = needed(*size) if needed is not None else 1.0
    if shrink_factor(factor) == 1:
        if box is not None and (decoder := part_decoder()) is not None:
            part = decoder(raw, size[0], wanted := box(*size))
            if part is not None:
                return Cut(part, size, wanted)
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
    return (width, height) if not _has_metadata(raw) or _is_upright(raw) else None


def _is_upright(raw: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(raw), formats=("JPEG",)) as image:
            return orientation(image) == 1
    except Exception:  # `decode` meets the same damage, and names the file
        return False


def _has_metadata(raw: bytes) -> bool:
    """Whether a JPEG has an APP1 segment before its pixels: an orientation stands there, as Exif or as XMP.

    Walking over the segments takes a twentieth of the time in which Pillow opens the file. Padding between segments
    and damage count as metadata, so that Pillow decides.
    """
    at = 2
    while raw[at : at + 1] == b"\xff" and raw[at + 1 : at + 2] not in (b"\xe1", b"\xff"):
        if raw[at + 1 : at + 2] == b"\xda":
            return False
        at += 2 + int.from_bytes(raw[at + 2 : at + 4], "big")
    return True
