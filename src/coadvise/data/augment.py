"""Augmentation of one image: from an upright RGB image to a normalised tensor, drawn from the sample's key.

The transforms are timm's and torchvision's. They draw from Python's, NumPy's and PyTorch's global generators,
so they run inside `keyed`, which seeds all three from the key of the sample and restores them afterwards:
the same key gives the same image in any process, at any batch size.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from timm.data.auto_augment import posterize as timm_posterize
from timm.data.random_erasing import RandomErasing
from timm.data.transforms_factory import transforms_imagenet_train
from torch import Tensor
from torchvision.transforms import Compose, RandomHorizontalFlip
from torchvision.transforms import functional as F
from torchvision.transforms.functional import InterpolationMode

from ..errors import DataError
from ..recipe import Data, Triple

_RANDAUGMENT = r"rand(-(m\d+|n\d+|p[\d.]+|mstd[\d.]+|mmax\d+|inc[01]|t\w+))*"

Transform = Callable[[Image.Image], Float[Tensor, "3 h w"]]


def train_transform(data: Data) -> Transform:
    """The training transform of `data.augment.policy`, RGB image to (3, image_size, image_size), normalised.

    - `deit`: timm's: random resized crop, flip, RandAugment or (where that is off) colour jitter, erasing.
    - `light`, for 32 and 64 px: a random crop from the image padded with zeros (black), flip, erasing. An
      image of another size is resized to image_size on the shorter side and cropped at the centre first.
    - `none`: the evaluation transform, and nothing is drawn.

    Mixing is not part of it (see `mixing.py`). Random erasing fills with noise of unit variance, after
    normalisation.

    Raises:
        DataError: timm does not understand `data.augment.randaugment`.
    """
    augment = data.augment
    if augment.policy == "none":
        return eval_transform(data)
    steps: list[Callable] = _deit(data) if augment.policy == "deit" else _light(data)
    steps.append(ToNormalized(data.mean, data.std))
    if augment.erasing > 0:
        steps.append(RandomErasing(augment.erasing, mode="pixel", max_count=1, device="cpu"))
    return Compose(steps)


def eval_transform(data: Data) -> Transform:
    """The evaluation transform: shorter side to round(image_size / eval_crop), centre crop, normalised.

    An image that already has the size keeps its pixels.
    """
    resized = round(data.image_size / data.eval_crop)
    return Compose([FitSquare(resized, data.image_size, data.interpolation), ToNormalized(data.mean, data.std)])


def _deit(data: Data) -> list[Callable]:
    augment = data.augment
    text = augment.randaugment
    try:
        # timm passes over a part without a number, such as a misspelt one.
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
            mean=data.mean,
            std=data.std,
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
    return [*geometry.transforms, *colour.transforms]


def posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """timm's posterize. At full strength it asks for 0 bits, which is black; Pillow ≥ 13 refuses to do that."""
    return timm_posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)


def _light(data: Data) -> list[Callable]:
    augment, size = data.augment, data.image_size
    pad = size // 8 if augment.pad is None else augment.pad
    steps: list[Callable] = [FitSquare(size, size, data.interpolation)]
    if pad:
        steps.append(PaddedCrop(pad))
    if augment.hflip > 0:
        steps.append(RandomHorizontalFlip(augment.hflip))
    return steps


class FitSquare:
    """Resize the shorter side to `resized` pixels, then cut the central square of `size` pixels."""

    def __init__(self, resized: int, size: int, interpolation: str) -> None:
        self.resized, self.size, self.mode = resized, size, InterpolationMode(interpolation)

    def __call__(self, image: Image.Image) -> Image.Image:
        if image.size == (self.size, self.size) == (self.resized, self.resized):
            return image
        image = F.resize(image, [self.resized], self.mode, antialias=True)
        return F.center_crop(image, [self.size, self.size])


class PaddedCrop:
    """A crop of the image's own size at a random offset of up to `pad` pixels, with black outside."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, image: Image.Image) -> Image.Image:
        x, y = random.randint(-self.pad, self.pad), random.randint(-self.pad, self.pad)
        return image.crop((x, y, x + image.width, y + image.height))  # Pillow fills the outside with zeros


class ToNormalized:
    """RGB image to a float32 tensor (3, h, w): pixels in [0, 1], minus `mean`, divided by `std`."""

    def __init__(self, mean: Triple, std: Triple) -> None:
        self.mean = torch.tensor(mean).view(3, 1, 1)
        self.std = torch.tensor(std).view(3, 1, 1)

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 h w"]:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        tensor = pixels.to(torch.float32, memory_format=torch.contiguous_format)
        return tensor.div_(255).sub_(self.mean).div_(self.std)


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
