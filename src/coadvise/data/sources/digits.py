"""Handwritten digits that come with the package; DIGITS.md beside this file has their source and licence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .splits import pick_split
from .subsets import balanced_subset

_DIGITS_TRAIN = 797


class Digits:
    """The 1,797 handwritten digits that scikit-learn has, too: 8×8 greyscale, class names "0" to "9".

    The split is fixed and stratified, 797 for training and 1,000 for validation: the large test part keeps
    differences between models out of the noise.
    """

    class_names = tuple("0123456789")
    splits = ("train", "validation")

    def __init__(self, split: str | None) -> None:
        split = pick_split(split, self.splits, "digits")
        with np.load(Path(__file__).with_name("digits.npz")) as file:
            pixels, labels = file["pixels"], file["labels"].astype(np.int64)
        train = balanced_subset(labels, _DIGITS_TRAIN)
        chosen = train if split == "train" else np.setdiff1d(np.arange(len(labels)), train)
        self.images = np.rint(pixels[chosen].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        self.labels: NDArray[np.int64] = labels[chosen]
        self.indices = chosen

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index])

    def describe(self, index: int) -> str:
        return f"digits image {self.indices[index]}"
