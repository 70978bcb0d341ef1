"""What is said of a data set before anything is trained on it."""

from __future__ import annotations

import numpy as np

from ...recipe.schema import Data
from ..views.balance import class_weights
from .base import ImageSource, class_sizes, sets_of

SHOWN = 10
"""Classes that are listed with their counts; of more, the first ones are named."""


def summary(word: str, source: ImageSource, place: str) -> str:
    """One line: `training: 200 images of 2 classes (cat: 120, dog: 80) from /data/pets/train`."""
    counts = class_sizes(source).tolist()
    names = source.class_names
    if len(counts) <= SHOWN:
        classes = ", ".join(f"{name}: {count:,}" for name, count in zip(names, counts, strict=True))
    else:
        low, high = min(counts), max(counts)
        each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        classes = f"{', '.join(names[:4])}, …, {names[-1]}; {each} images each"
    what = "1 class" if len(counts) == 1 else f"{len(counts):,} classes"
    images = "1 image" if len(source) == 1 else f"{len(source):,} images"
    return f"{word}: {images} of {what}{_several(source)} ({classes}) {place}"


def _several(source: ImageSource) -> str:
    """How many classes images have, where that is not one each."""
    sets = sets_of(source)
    if sets is None:
        return ""
    each = sets.sum(axis=1)[source.labels]
    none = f", {int((each == 0).sum()):,} images of none" if (each == 0).any() else ""
    return f", {each.mean():.2g} to an image{none}"


def balance(data: Data, source: ImageSource) -> str | None:
    """One line on what `data.balance` makes of the training classes; None where it does nothing."""
    if data.balance == "none":
        return None
    counts = np.bincount(source.labels, minlength=len(source.class_names))
    weights = class_weights(source.labels, len(counts))
    there = np.flatnonzero(counts)
    rare, large = there[counts[there].argmin()], there[counts[there].argmax()]
    ends = [(f"{weights[c]:.2g}", source.class_names[c], f"{counts[c]:,}") for c in (large, rare)]
    (low, often, many), (high, seldom, few) = ends
    if data.balance == "weights":
        return f"class weights: from {low} ({often}, {many} images) to {high} ({seldom}, {few} images)"
    each = f"{len(source) / len(there):,.0f}"
    return (
        f"balanced sampling: an epoch draws about {each} images of each class, so that an image of {often} ({many}) "
        f"comes {low} times on average, and one of {seldom} ({few}) {high} times"
    )
