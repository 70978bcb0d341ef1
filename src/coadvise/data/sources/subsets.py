"""Parts of a source: chosen images, balanced subsets, and the images held out for validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ...shapes import Int64
from ..views.draws import Stream
from .base import ImageSource, InFile, file_of, sets_of


class Subset:
    """Some images of a source. Labels count in `class_names`, which hold at least the classes of these images."""

    def __init__(
        self,
        source: ImageSource,
        indices: Int64[np.ndarray, " m"],
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.source, self.indices = source, np.asarray(indices, dtype=np.int64)
        self.class_names = tuple(source.class_names if class_names is None else class_names)
        self.labels, self.sets = source.labels[self.indices], sets_of(source)
        if self.class_names == source.class_names:
            return
        if self.sets is not None:
            own = {name: self.sets[:, label] for label, name in enumerate(source.class_names)}
            none = np.zeros(len(self.sets), dtype=bool)
            self.sets = np.column_stack([own.get(name, none) for name in self.class_names])
        else:
            place = {name: label for label, name in enumerate(self.class_names)}
            self.labels = np.array([place.get(name, -1) for name in source.class_names], dtype=np.int64)[self.labels]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> bytes | Image.Image:
        return self.source.read(int(self.indices[index]))

    def describe(self, index: int) -> str:
        return self.source.describe(int(self.indices[index]))

    def file_of(self, index: int) -> InFile | None:
        return file_of(self.source, int(self.indices[index]))


def balanced_subset(labels: Int64[np.ndarray, " n"], size: int) -> Int64[np.ndarray, " m"]:
    """`size` indices with as equal a number of each class as there are images for; sorted.

    The choice is the same always and everywhere, and a smaller subset lies inside a larger one.
    """
    generator = np.random.default_rng(np.random.SeedSequence((Stream.SUBSET, len(labels))))
    order = generator.permutation(len(labels))
    # Rank of each image within its class; taking all of rank 0, then of rank 1, … fills the classes evenly.
    by_class = order[np.argsort(labels[order], kind="stable")]
    sorted_labels = labels[by_class]
    rank = np.arange(len(labels)) - np.searchsorted(sorted_labels, sorted_labels)
    return np.sort(by_class[np.argsort(rank, kind="stable")][:size])


def hold_out(
    labels: Int64[np.ndarray, " n"], fraction: float
) -> tuple[Int64[np.ndarray, " a"], Int64[np.ndarray, " b"]]:
    """Training and validation indices: `fraction` of each class is held out, one image at least.

    A class with a single image keeps it for training. The choice is the same always and everywhere.
    """
    generator = np.random.default_rng(np.random.SeedSequence((Stream.HOLD_OUT, len(labels))))
    order = generator.permutation(len(labels))
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        if len(members) > 1:
            held[members[: min(max(round(len(members) * fraction), 1), len(members) - 1)]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)
