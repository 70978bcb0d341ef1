"""A part of a JPEG image, decoded alone: the same pixels as in the whole, in nine tenths of the time.

A random crop takes half of a photograph on average. libjpeg-turbo can leave out the inverse transform and the colours
of the rest; no Python package offers that, so a few lines of C++ call the library that Pillow has loaded. Where that
library cannot be called, or nothing can be compiled, or the pixels would be other ones, the whole image is decoded.
"""

from __future__ import annotations

import ctypes
import functools
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, _imaging

from ..shapes import UInt8
from ..system.native import compiled
from .views.square import Box

SOURCE = Path(__file__).with_name("part.cpp")
# In the order of part.cpp's `Library`.
FUNCTIONS = (
    "jpeg_std_error", "jpeg_CreateDecompress", "jpeg_mem_src", "jpeg_read_header", "jpeg_start_decompress",
    "jpeg_crop_scanline", "jpeg_skip_scanlines", "jpeg_read_scanlines", "jpeg_finish_decompress",
    "jpeg_destroy_decompress",
)  # fmt: skip
# Version of libjpeg's interface, and size of its `jpeg_decompress_struct` on 64-bit systems.
INTERFACES = ((62, 632), (80, 656))


@dataclass(frozen=True)
class PartDecoder:
    """Pillow's libjpeg-turbo, and the compiled code that asks it for parts."""

    code: ctypes.CDLL
    functions: ctypes.Array[ctypes.c_void_p]
    version: int
    size: int

    def __call__(self, raw: bytes, columns: int, box: Box) -> UInt8[np.ndarray, "h w 4"] | None:
        """The pixels of a box, with a fourth byte; None where the file is damaged, of other colours or another width.

        Args:
            columns: width of the whole image.
        """
        top, left, height, width = box
        out = np.empty((height, width, 4), np.uint8)
        failed = self.code.decode_part(
            self.functions,
            ctypes.c_int(self.version),
            ctypes.c_size_t(self.size),
            ctypes.c_char_p(raw),
            ctypes.c_size_t(len(raw)),
            *map(ctypes.c_uint, (columns, top, left, height, width)),
            ctypes.c_void_p(out.ctypes.data),
        )
        return None if failed else out


@functools.cache
def part_decoder() -> PartDecoder | None:
    """What decodes parts here; None where nothing can."""
    functions = _functions()
    code = None if functions is None else compiled(SOURCE, "photographs are decoded whole here, which takes longer")
    if functions is None or code is None:
        return None
    found = (PartDecoder(code, functions, version, size) for version, size in INTERFACES)
    return next((decoder for decoder in found if _as_the_whole(decoder)), None)


def _functions() -> ctypes.Array[ctypes.c_void_p] | None:
    """Addresses of libjpeg's functions in the library that Pillow uses; None where they are not to be had."""
    if ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    try:
        library = ctypes.CDLL(_imaging.__file__)
        found = [ctypes.cast(getattr(library, name), ctypes.c_void_p) for name in FUNCTIONS]
    except (OSError, AttributeError, TypeError):  # not libjpeg-turbo, or within Pillow's own file
        return None
    return (ctypes.c_void_p * len(found))(*found)


def _as_the_whole(decoder: PartDecoder) -> bool:
    """Whether parts of a small image are those of the whole."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (75, 83, 3), dtype=np.uint8))
    for subsampling in ("4:4:4", "4:2:0"):
        stream = io.BytesIO()
        noise.save(stream, "JPEG", subsampling=subsampling)
        whole = np.asarray(Image.open(stream))
        for top, left, height, width in ((0, 0, 75, 83), (17, 33, 41, 20), (70, 1, 5, 2)):
            part = decoder(stream.getvalue(), 83, (top, left, height, width))
            if part is None or not np.array_equal(part[..., :3], whole[top : top + height, left : left + width]):
                return False
    return True
