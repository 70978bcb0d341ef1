"""RandAugment's shears, shifts and rotations by compiled code: the same pixels as Pillow's, several times faster.

After decoding they take most of the time of DeiT's augmentation. Pillow does them where nothing can be compiled, or
where the compiled code gives other pixels than this machine's Pillow on an image of noise.
"""

from __future__ import annotations

import ctypes
import functools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timm.data import auto_augment

from ...shapes import UInt8
from ...system.native import compiled
from .bare import bare, clothed, with_fourth

SOURCE = Path(__file__).with_name("warp.cpp")
AFFINE = tuple(
    getattr(auto_augment, name)
    for name in (
        "shear_x", "shear_y", "translate_x_rel", "translate_y_rel", "translate_x_abs", "translate_y_abs", "rotate",
    )
)  # fmt: skip
"""timm's operations that are affine transforms."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled function, or None where there is none or it gives other pixels than Pillow."""
    found = compiled(
        SOURCE, "RandAugment's rotations and shears run without compiled code here, more slowly", "-ffp-contract=off"
    )
    if found is not None and not _as_pillow(found):
        warnings.warn(
            "compiled rotations and shears give other pixels than this Pillow, which does them instead, more slowly",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return found


class Affine:
    """One of `AFFINE`, by compiled code where there is any."""

    def __init__(self, operation: Callable[..., Image.Image]) -> None:
        self.operation = operation

    def __call__(self, image: Image.Image, *arguments: Any, **settings: Any) -> Image.Image:
        able = image.mode == "RGB" and image.width > 0 < image.height and library() is not None
        return self.operation(_Warped(image) if able else image, *arguments, **settings)


class _Warped:
    """An image whose affine transforms run in compiled code; everything else is Pillow's."""

    rotate = Image.Image.rotate

    def __init__(self, image: Image.Image) -> None:
        self._image = image

    def __getattr__(self, name: str) -> Any:
        return getattr(self._image, name)

    def transform(
        self, size: tuple[int, int], method: int, data: Sequence[float], resample: int, fillcolor: Any = None
    ) -> Image.Image:
        plain = method == Image.Transform.AFFINE and resample == Image.Resampling.BICUBIC
        if not (plain and size == self._image.size and fillcolor is not None):
            return self._image.transform(size, method, data, resample, fillcolor=fillcolor)  # type: ignore[arg-type]
        function = library()
        assert function is not None
        # Pillow reads the colour, whatever its form.
        fill = bare(Image.new("RGB", (1, 1), fillcolor))
        return clothed(_warped(function, bare(self._image), data, fill))


def packed(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of an RGB image."""
    function = library()
    if function is None:
        return np.array(image)
    pixels = bare(image)
    out = np.empty((image.height, image.width, 3), np.uint8)
    count = ctypes.c_int64(image.height * image.width)
    function.packed(ctypes.c_void_p(pixels.ctypes.data), ctypes.c_void_p(out.ctypes.data), count)
    return out


def _warped(
    function: ctypes.CDLL, pixels: UInt8[np.ndarray, "h w 4"], matrix: Sequence[float], fill: np.ndarray
) -> UInt8[np.ndarray, "h w 4"]:
    pixels, out = np.ascontiguousarray(pixels), np.empty_like(pixels, order="C")
    height, width = pixels.shape[:2]
    failed = function.warp(
        ctypes.c_void_p(pixels.ctypes.data),
        ctypes.c_void_p(out.ctypes.data),
        ctypes.c_int64(height),
        ctypes.c_int64(width),
        (ctypes.c_double * 6)(*matrix[:6]),
        ctypes.c_void_p(fill.ctypes.data),
    )
    if failed:
        raise MemoryError
    return out


def _as_pillow(function: ctypes.CDLL) -> bool:
    """Whether both give the same pixels on noise, which shows any difference."""
    noise = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    fill = np.array([124, 116, 104, 255], dtype=np.uint8)
    for matrix in (
        (0.9, 0.3, -4.1, -0.31, 0.95, 17.3),
        (1, 0.3, 0, 0, 1, 0),
        (1, 0, 0, -0.3, 1, 0),
        (1, 0, 7.7, 0, 1, 0),
    ):
        theirs = Image.fromarray(noise).transform(
            (83, 61), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC, fillcolor=tuple(fill.tolist())
        )
        if not np.array_equal(np.asarray(theirs), _warped(function, with_fourth(noise), matrix, fill)[..., :3]):
            return False
    return True
