"""An image of any of Pillow's modes as RGB with 8 bits, the way a person looking at it would see it.

Large images are converted a tile at a time: on the way a pixel takes up to 16 bytes, and Pillow opens images of up to
179 million pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from ..shapes import UInt8

_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 258, 262, 339
_TILE = 1 << 22
"""Pixels that are converted at once."""

Box = tuple[int, int, int, int]


def tiles(width: int, height: int) -> Iterator[Box]:
    """Boxes (left, top, right, bottom) of at most `_TILE` pixels that cover an image; one, unless it is large."""
    across = min(width, _TILE)
    down = max(_TILE // max(across, 1), 1)
    for top in range(0, height, down):
        for left in range(0, width, across):
            yield left, top, min(left + across, width), min(top + down, height)


def to_rgb(image: Image.Image) -> Image.Image:
    """The image as RGB: 16-bit and float values scaled by the range of their format, transparency laid on white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        convert = _float_levels(image) if image.mode == "F" else _int_levels(image)
    elif image.has_transparency_data:
        convert = _on_white
    else:
        return image.convert("RGB")
    if image.width * image.height <= _TILE:
        return convert(image)
    whole = Image.new("RGB", image.size)
    for box in tiles(*image.size):
        whole.paste(convert(image.crop(box)), box)
    return whole


def match_transparency(image: Image.Image) -> None:
    """Bring the transparent colour of a PNG that is open, but not loaded, to the depth at which Pillow loads pixels.

    Pillow spreads 2 and 4 bits of grey over 8 and takes the upper 8 of 16 bits of a colour, but keeps this colour as
    the file has it.
    """
    key, tile = image.info.get("transparency"), getattr(image, "tile", None)
    if image.format != "PNG" or key is None or not tile:
        return
    if tile[0].args in ("L;2", "L;4"):
        image.info["transparency"] = key * (85 if tile[0].args == "L;2" else 17)
    elif tile[0].args == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _grey(levels: UInt8[np.ndarray, "h w"]) -> Image.Image:
    return Image.fromarray(levels).convert("RGB")


def _int_levels(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Greyscale with 12, 16 or 32 bits, scaled from the whole range of the format and not of the image."""
    tags = getattr(image, "tag_v2", {})
    bits = int(tags[_TIFF_BITS][0]) if _TIFF_BITS in tags else 16
    signed = bool(tags.get(_TIFF_SAMPLE_FORMAT, (1,))[0] == 2)
    # A mode "I" image that says nothing of its range has Pillow's own type, a signed 32-bit integer.
    if _TIFF_BITS not in tags and image.mode == "I" and _extrema(image)[1] > 65535:
        bits, signed = 32, True
    top = 2.0 ** (bits - signed) - 1
    white_is_zero = tags.get(_TIFF_PHOTOMETRIC) == 0  # Pillow resolves it for 8 bits only
    transparent = image.info.get("transparency") if image.format == "PNG" else None

    def convert(tile: Image.Image) -> Image.Image:
        values = np.asarray(tile)
        if bits == 32 and not signed:
            values = values.view(np.uint32)  # Pillow stores unsigned 32-bit samples in a signed type
        scaled = np.clip(values.astype(np.float64) / top, 0, 1)
        if white_is_zero:
            scaled = 1 - scaled
        if transparent is not None:
            scaled[values == transparent] = 1
        return _grey(np.rint(scaled * 255).astype(np.uint8))

    return convert


def _float_levels(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Float greyscale has no range of its own: the narrowest of [0, 1], [0, 255], [0, 65535] that holds it.

    An image outside of all three (negative, or larger) is stretched from its minimum to its maximum.
    """
    low, high = _extrema(image)
    top = next((top for top in (1.0, 255.0, 65535.0) if high <= top), None)
    start = 0.0
    if low < 0 or top is None:
        start, top = low, max(high - low, 1e-12)

    def convert(tile: Image.Image) -> Image.Image:
        return _grey(np.rint(np.clip((_finite(tile) - start) / top, 0, 1) * 255).astype(np.uint8))

    return convert


def _extrema(image: Image.Image) -> tuple[float, float]:
    """The smallest and the largest value."""
    low, high = np.inf, -np.inf
    for box in tiles(*image.size):
        values = _finite(image.crop(box))
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    return low, high


def _finite(image: Image.Image) -> np.ndarray:
    return np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
