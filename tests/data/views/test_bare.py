"""Pillow's memory as an array, against Pillow's own `asarray`."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from coadvise.data.views.bare import bare, clothed, with_fourth
from coadvise.data.views.warp import packed

SHAPES = [(1, 1), (5, 3), (224, 224), (3000, 4000)]  # the last lies in several blocks


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("old", [False, True], ids=["", "older Pillow"])
def test_there_and_back(shape, old, monkeypatch):
    if old:
        monkeypatch.delattr(Image, "fromarrow")
        monkeypatch.delattr(Image.Image, "__arrow_c_array__")
    pixels = noise(*shape)
    image = Image.fromarray(pixels)
    assert (bare(image)[..., :3] == pixels).all() and (packed(image) == pixels).all()
    made = clothed(with_fourth(pixels))
    assert made.mode == "RGB" and made.size == image.size and (np.asarray(made) == pixels).all()
    assert (np.asarray(ImageOps.invert(made)) == 255 - pixels).all()


def test_the_memory_outlives_its_owner():
    """An image keeps the array that it was made of, and an array the image."""
    images = [clothed(with_fourth(noise(40 + i, 50))) for i in range(20)]
    arrays = [bare(Image.fromarray(noise(40 + i, 50))) for i in range(20)]
    for i, (image, array) in enumerate(zip(images, arrays, strict=True)):
        assert (np.asarray(image) == noise(40 + i, 50)).all() and (array[..., :3] == noise(40 + i, 50)).all()


def test_without_pixels():
    assert bare(Image.new("RGB", (0, 5))).shape == (5, 0, 4)
