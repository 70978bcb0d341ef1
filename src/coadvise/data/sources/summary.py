"""What is said of a data set before anything is trained on it."""

from __future__ import annotations

import numpy as np

from .base import ImageSource

SHOWN = 10
"""Classes that are listed with their counts; of more, the first ones are named."""


def summary(word: str, source: ImageSource, place: str) -> str:
    """One line: `training: 200 images of 2 classes (cat: 120, dog: 80) from /data/pets/train`."""
    counts = np.bincount(source.labels, minlength=len(source.class_names)).tolist()
    names = source.class_names
    if len(counts) <= SHOWN:
        classes = ", ".join(f"{name}: {count:,}" for name, count in zip(names, counts, strict=True))
    else:
        low, high = min(counts), max(counts)
        each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        classes = f"{', '.join(names[:4])}, …, {names[-1]}; {each} images each"
    what = "1 class" if len(counts) == 1 else f"{len(counts):,} classes"
    images = "1 image" if len(source) == 1 else f"{len(source):,} images"
    return f"{word}: {images} of {what} ({classes}) {place}"
