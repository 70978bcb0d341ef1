"""Evaluation's view of an image: resized, and the central square cut out. It needs Pillow and NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from ...recipe.schema import Data
from ...shapes import Float32, UInt8

Pixels = UInt8[np.ndarray, "h w 3"]
# A JPEG may be decoded smaller while each side keeps so many times the pixels that are wanted. Pillow's thumbnails
# use the same number: a difference is hardly visible then.
SHRINK_GAP = 2.0
Box = tuple[int, int, int, int]
"""Top, left, height and width."""


@dataclass(frozen=True)
class Cut:
    """A part of an image, decoded without the rest.

    Attributes:
        pixels: with a fourth byte that means nothing, as Pillow has it.
        size: width and height of the whole image.
    """

    pixels: UInt8[np.ndarray, "h w 4"]
    size: tuple[int, int]
    box: Box


class PixelTransform(Protocol):
    """RGB image → pixels (size, size, 3)."""

    def __call__(self, image: Image.Image) -> Pixels: ...

    def forget(self) -> None:
        """Drop what was drawn for an image that could not be read."""
        ...

    def needed(self, width: int, height: int) -> float:
        """Factor by which an image of that size may be decoded smaller; called first, it draws the random crop."""
        ...


def eval_pixels(data: Data) -> PixelTransform:
    """RGB image → pixels: shorter side to round(image_size / eval_crop), centre crop.

    An image that already has the size keeps its pixels.
    """
    return FitSquare(round(data.image_size / data.eval_crop), data.image_size, data.interpolation)


def normalised(pixels: UInt8[np.ndarray, "b h w 3"], data: Data) -> Float32[np.ndarray, "b 3 h w"]:
    """What a model is given: the bits that `Finish.images` computes by PyTorch."""
    mean, std = (np.asarray(values, np.float32) for values in (data.mean, data.std))
    images = pixels.astype(np.float32)
    images *= 1 / (255 * std)
    images -= mean / std
    return images.transpose(0, 3, 1, 2)


# Pixels of a resized image up to which it is made whole, before its square is cut out.
RESIZED_WHOLE = 1 << 26


class FitSquare:
    """Resize the shorter side to `resized` pixels, then cut the central square of `size` pixels."""

    def __init__(self, resized: int, size: int, interpolation: str) -> None:
        self.resized, self.size = resized, size
        self.mode = Image.Resampling[interpolation.upper()]

    def forget(self) -> None:
        pass

    def needed(self, width: int, height: int) -> float:
        return min(width, height) / self.resized / SHRINK_GAP

    def __call__(self, image: Image.Image) -> Pixels:
        if not image.size == (self.size, self.size) == (self.resized, self.resized):
            shorter, longer = sorted(image.size)
            if self.resized * self.resized * longer > RESIZED_WHOLE * shorter:
                return np.array(self._square(image))
            # Sizes are rounded as in torchvision's `resize` and `center_crop`.
            sides = [self.resized if side == shorter else int(self.resized * longer / shorter) for side in image.size]
            image = image.resize((sides[0], sides[1]), self.mode) if (*sides,) != image.size else image
            left, top = (round((side - self.size) / 2) for side in image.size)
            image = image.crop((left, top, left + self.size, top + self.size))
        return np.array(image)

    def _square(self, image: Image.Image) -> Image.Image:
        """The square of a very long image, without resizing the rest of it.

        Equal up to rounding, where Pillow does not choose to resize the axes in the other order.
        """
        spans = []
        for side in image.size:
            whole = int(self.resized * side / min(image.size))  # as torchvision rounds
            first = round((whole - self.size) / 2)
            spans.append((first * side / whole, (first + self.size) * side / whole))
        (left, right), (top, bottom) = spans
        return image.resize((self.size, self.size), self.mode, box=(left, top, right, bottom))
