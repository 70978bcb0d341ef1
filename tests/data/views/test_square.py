"""Evaluation's square without PyTorch, beside torchvision and the finishing on the device."""

import numpy as np
import torch
from torchvision.transforms import functional as F

from coadvise.data.views.finish import Finish
from coadvise.data.views.square import eval_pixels, normalised
from coadvise.recipe.schema import Data


def test_sizes_are_rounded_as_in_torchvision(photo):
    sizes = [(w, h) for w in (7, 20, 31, 32, 33, 37, 64) for h in (8, 31, 32, 45, 64, 101)]
    for mode in ("bicubic", "bilinear"):
        for crop in (1.0, 0.875, 0.9):
            data = Data(source="x", image_size=32, eval_crop=crop, interpolation=mode)
            for number, size in enumerate(sizes):
                image = photo(number, size)
                resized = F.resize(image, [round(32 / crop)], F.InterpolationMode(mode), antialias=True)
                assert np.array_equal(eval_pixels(data)(image), np.asarray(F.center_crop(resized, [32, 32]))), size


def test_normalised_pixels_are_those_of_the_device_bit_for_bit():
    data = Data(source="x", image_size=16, mean=(0.1, 0.485, 0.9), std=(0.229, 0.031, 1.7))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    expected = Finish(data, 2, torch.device("cpu")).images(torch.from_numpy(pixels))
    assert np.array_equal(normalised(pixels, data), expected.numpy())
