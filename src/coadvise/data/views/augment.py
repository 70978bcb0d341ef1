"""Augmentation image by image: from an upright RGB image to a square of pixels.

The transforms are timm's and torchvision's. They draw from Python's, NumPy's and PyTorch's global generators,
so they run inside `keyed`, which seeds all three from the key of the sample and restores them afterwards:
the same key gives the same pixels in any process, at any batch size. `finish.py` does the rest (padded crops,
normalisation, erasing, mixing) for whole batches, on the device.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import posterize as timm_posterize
from timm.data.transforms import RandomResizedCropAndInterpolation
from timm.data.transforms_factory import transforms_imagenet_train
from torchvision.transforms import Compose
from torchvision.transforms import functional as F
from torchvision.transforms.functional import InterpolationMode, pil_modes_mapping

from ...errors import DataError
from ...recipe.schema import Data
from ...shapes import UInt8
from .bare import clothed
from .square import SHRINK_GAP, Box, Cut, FitSquare, Pixels, PixelTransform, eval_pixels
from .warp import AFFINE, Affine, library, packed

_RANDAUGMENT = r"rand(-(m\d+|n\d+|p[\d.]+|mstd[\d.]+|mmax\d+|inc[01]|t\w+))*"


def train_pixels(data: Data) -> PixelTransform:
    """RGB image → (image_size, image_size, 3) pixels of a training view, under `data.augment.policy`.

    - `deit`: timm's random resized crop, flip, RandAugment or (where that is off) colour jitter; drawn from the
      global generators, see `keyed`.
    - `light`, for 32 and 64 px: nothing is drawn here. An image of another size is resized to image_size on the
      shorter side and cropped at the centre; the padded crop and the flip follow on the device.
    - `none`: as in evaluation.

    Raises:
        DataError: timm does not understand `data.augment.randaugment`.
    """
    policy = data.augment.policy
    if policy == "none":
        return eval_pixels(data)
    if policy == "light":
        return FitSquare(data.image_size, data.image_size, data.interpolation)
    crop, *rest = _deit(data)
    augment = data.augment
    return CropAndMore(data.image_size, augment.scale, augment.ratio, crop.interpolation, rest, data.resizer)


# What `interpolate(…, antialias=True)` calls; it has no argument for the place of the result.
_RESIZE = {
    InterpolationMode.BICUBIC: torch.ops.aten._upsample_bicubic2d_aa.out,
    InterpolationMode.BILINEAR: torch.ops.aten._upsample_bilinear2d_aa.out,
}


class CropAndMore:
    """timm's random resized crop of `size` pixels, drawn before decoding where `needed` is called; then other steps."""

    def __init__(
        self,
        size: int,
        scale: tuple[float, float],
        ratio: tuple[float, float],
        mode: InterpolationMode,
        rest: Sequence[Callable[[Image.Image], Image.Image]],
        resizer: Literal["torch", "pillow"] = "torch",
    ) -> None:
        self.resizer = resizer
        self.size, self.scale, self.ratio, self.mode, self.rest = size, scale, ratio, mode, Compose(rest)
        self._drawn: tuple[Box, tuple[int, int]] | None = None

    def forget(self) -> None:
        self._drawn = None

    def needed(self, width: int, height: int) -> float:
        return min(self.box(width, height)[2:]) / self.size / SHRINK_GAP

    def box(self, width: int, height: int) -> Box:
        """The crop of an image of that size, drawn when it is first asked for."""
        if self._drawn is None:
            shape = torch.empty(3, height, width, device="meta")  # timm asks for its size only
            box = RandomResizedCropAndInterpolation.get_params(shape, self.scale, self.ratio)
            self._drawn = box, (width, height)
        return self._drawn[0]

    def __call__(self, image: Image.Image | Pixels | Cut) -> Pixels:
        size = image.shape[1::-1] if isinstance(image, np.ndarray) else image.size
        box = self.box(*size)
        assert self._drawn is not None
        whole = self._drawn[1]
        self._drawn = None
        if size == whole and self.resizer == "torch":
            resized = self._by_torch(image, box)
            return packed(self.rest(clothed(resized) if resized.shape[2] == 4 else Image.fromarray(resized)))
        top, left, height, width = box
        if isinstance(image, Cut):
            assert image.box == box
            top, left, image = 0, 0, clothed(image.pixels)
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        if size == whole:
            picture = F.resized_crop(picture, top, left, height, width, [self.size, self.size], self.mode)
        else:
            x, y = size[0] / whole[0], size[1] / whole[1]
            part = (left * x, top * y, (left + width) * x, (top + height) * y)
            picture = picture.resize((self.size, self.size), pil_modes_mapping[self.mode], box=part)
        return np.array(self.rest(picture))

    def _by_torch(self, image: Image.Image | Pixels | Cut, box: Box) -> UInt8[np.ndarray, "h w c"]:
        pixels = torch.from_numpy(_cut(image, box)).permute(2, 0, 1)[None]
        # Without it the result would lie channel by channel in memory, and would have to be rearranged.
        shape = (1, pixels.shape[1], self.size, self.size)
        resized = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
        _RESIZE[self.mode](pixels, [self.size, self.size], False, out=resized)
        return resized[0].permute(1, 2, 0).numpy()


def _cut(image: Image.Image | Pixels | Cut, box: Box) -> UInt8[np.ndarray, "h w c"]:
    """The pixels of a box, without gaps in memory; of a part that was decoded alone with a fourth byte."""
    top, left, height, width = box
    if isinstance(image, Cut):
        assert image.box == box
        return image.pixels
    if isinstance(image, np.ndarray):
        return np.ascontiguousarray(image[top : top + height, left : left + width])
    cut = np.empty((height, width, 3), np.uint8)
    for first in range(0, height, 1024):  # a large image has no room for two more copies on the way
        last = min(first + 1024, height)
        cut[first:last] = np.asarray(image.crop((left, top + first, left + width, top + last)))
    return cut


def _deit(data: Data) -> list[Any]:
    augment = data.augment
    text = augment.randaugment
    try:
        # timm ignores parts without a number, such as misspelt ones.
        if text and text.startswith("rand") and not re.fullmatch(_RANDAUGMENT, text):
            raise ValueError(text)
        geometry, colour, _ = transforms_imagenet_train(
            img_size=data.image_size,
            scale=augment.scale,
            ratio=augment.ratio,
            hflip=augment.hflip,
            color_jitter=augment.color_jitter,
            auto_augment=text,
            interpolation=data.interpolation,
            separate=True,
        )
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise DataError(
            f"data.augment.randaugment is '{text}', which timm does not understand; an example is rand-m9-mstd0.5-inc1"
        ) from error
    for step in colour.transforms:
        for op in getattr(step, "ops", ()):
            if op.aug_fn is timm_posterize:
                op.aug_fn = posterize
            elif op.aug_fn in AFFINE:
                library()  # compiled here, not in every worker
                op.aug_fn = Affine(op.aug_fn)
    return [*geometry.transforms, *colour.transforms]


def posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """timm's posterize. At full strength it asks for 0 bits, which is black; Pillow ≥ 13 refuses to do that."""
    return timm_posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)


# --- randomness from keys --------------------------------------------------------------------------------


@contextmanager
def keyed(*key: int) -> Iterator[None]:
    """Seed Python's, NumPy's and PyTorch's (CPU) global generators from `key`; restore them afterwards.

    Args:
        key: non-negative integers. Keys of one length are independent of each other.
    """
    with preserved_generators():
        seed_generators(*key)
        yield


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Restore the three global generators on leaving. It takes longer than seeding, hence once per batch."""
    python, torch_cpu = random.getstate(), torch.default_generator.get_state()
    numpy = np.random.get_state()  # noqa: NPY002 - timm draws from the global generator
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.default_generator.set_state(torch_cpu)


def seed_generators(*key: int) -> None:
    """Seed the three global generators from `key`; CUDA's are left alone."""
    words = np.random.SeedSequence(key).generate_state(8)
    random.seed(words[:2].tobytes())
    np.random.seed(words[2:6])  # noqa: NPY002
    # Not torch.manual_seed: it seeds every GPU as well.
    torch.default_generator.manual_seed(int(words[6]) | int(words[7]) << 32)
