"""scikit-learn's handwritten digits, which need no download."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .splits import pick_split
from .subsets import balanced_subset

_DIGITS_TRAIN = 797


class Digits:
    """The 1,797 handwritten digits of scikit-learn: 8×8 greyscale, class names "0" to "9".

    The split is fixed and stratified, 797 for training and 1,000 for validation: the large test part keeps
    differences between models out of the noise.
    """

    class_names = tuple("0123456789")
    splits = ("train", "validation")

    def __init__(self, split: str | None) -> None:
        from sklearn.datasets import load_digits  # slow to import, and not needed for other sources

        split = pick_split(split, self.splits, "digits")
        pixels, labels = load_digits(return_X_y=True)
        train = balanced_subset(labels.astype(np.int64), _DIGITS_TRAIN)
        chosen = train if split == "train" else np.setdiff1d(np.arange(len(labels)), train)
        self.images = np.rint(pixels[chosen].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        self.labels: NDArray[np.int64] = labels[chosen].astype(np.int64)
        self.indices = chosen

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index])

    def describe(self, index: int) -> str:
        return f"digits image {self.indices[index]}"
