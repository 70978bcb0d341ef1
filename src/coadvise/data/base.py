"""What every image source shares: the protocol, views of a source, names of splits, balanced subsets."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError, did_you_mean
from .draws import Stream

TRAIN_NAMES = ("train", "training", "trainval")
VALIDATION_NAMES = ("validation", "val", "valid", "dev", "test", "testing")
_SAME = (("train", "training"), ("validation", "val", "valid", "dev"), ("test", "testing"))


@runtime_checkable
class ImageSource(Protocol):
    """Labelled images with random access; picklable, and safe in forked and spawned workers."""

    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    """(n,) indices into `class_names`."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes | Image.Image:
        """The encoded file where there is one, else an image of any mode.

        Raises:
            DataError: the image cannot be fetched, with its name.
        """
        ...

    def describe(self, index: int) -> str:
        """Where the image lies, for messages: a path, or `train.parquet row 17`."""
        ...


def encoded_bytes(source: ImageSource, index: int) -> bytes:
    """Contents of an image: its file, or its pixels where the source holds it decoded."""
    raw = source.read(index)
    return raw.tobytes() if isinstance(raw, Image.Image) else bytes(raw)


class Subset:
    """A view of some images of a source, relabelled where another source sets the order of classes."""

    def __init__(
        self,
        source: ImageSource,
        indices: Int64[np.ndarray, " m"],
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.source, self.indices = source, np.asarray(indices, dtype=np.int64)
        self.class_names = tuple(source.class_names if class_names is None else class_names)
        self.labels = source.labels[self.indices]
        if self.class_names != source.class_names:
            place = {name: label for label, name in enumerate(self.class_names)}
            self.labels = np.array([place[name] for name in source.class_names], dtype=np.int64)[self.labels]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> bytes | Image.Image:
        return self.source.read(int(self.indices[index]))

    def describe(self, index: int) -> str:
        return self.source.describe(int(self.indices[index]))


# --- splits ----------------------------------------------------------------------------------------------


def find_split(split: str, known: Iterable[str], where: str) -> str:
    """The split of that name, or of one that means the same (`val` for `validation`).

    Raises:
        DataError: there is none, with the nearest name or all of them.
    """
    known = list(known)
    if split in known:
        return split
    lower = {name.lower(): name for name in known}
    if split.lower() in lower:
        return lower[split.lower()]
    for group in _SAME:
        if split.lower() in group:
            for name in group:
                if name in lower:
                    return lower[name]
    if not known:
        raise DataError(f"{where} has no splits; leave the split '{split}' out")
    raise DataError(f"{where} has no split '{split}'{did_you_mean(split, known)}")


def choose_split(known: Sequence[str], wanted: Iterable[str]) -> str | None:
    """The first of the wanted names that is there, in small or capital letters."""
    lower = {name.lower(): name for name in known}
    return next((lower[name] for name in wanted if name in lower), None)


# -00000-of-00002, _03, -00000-of-00001-0123456789abcdef, or the part of a pattern that stands for it.
_SHARD = re.compile(r"((^|[-_.])\d+([-_]of[-_]\d+(-[0-9a-f]{8,})?)?|[-_.]?\{[^}]*\}|[-_.]?[*?]+)$")


def split_of(file: Path, root: Path) -> str:
    """Split of a shard: that of `train-00000-of-00002`, `train_03`, `train/0000` and `train` is `train`."""
    name = _SHARD.sub("", file.stem)
    if name and name != "part":
        return name
    return file.parent.name if file.parent != root else "all"


def group_by_split(files: Sequence[Path], root: Path) -> dict[str, list[Path]]:
    """Shards by split, in order of their names."""
    groups: dict[str, list[Path]] = {}
    for file in sorted(files):
        groups.setdefault(split_of(file, root), []).append(file)
    return groups


def select_split(groups: dict[str, list[Path]], split: str | None, where: str) -> list[Path]:
    """Shards of one split; without a name, all of them if there is one split only."""
    if split is not None:
        return groups[find_split(split, groups, where)]
    if len(groups) > 1:
        raise DataError(
            f"{where} has the splits {', '.join(groups)}; "
            "say which one to use (--split, or data.train_split and data.val_split)"
        )
    return next(iter(groups.values()))


# --- subsets ---------------------------------------------------------------------------------------------


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


# --- labels, paths ---------------------------------------------------------------------------------------


def labels_from_values(values: Sequence[str] | NDArray) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels and class names where a source declares no names: the distinct values, in order.

    Integers are ordered as numbers, anything else as text.
    """
    array = np.asarray(values)
    if array.dtype.kind in "US":
        with contextlib.suppress(ValueError):
            array = array.astype(np.int64)
    distinct, labels = np.unique(array, return_inverse=True)
    return labels.astype(np.int64), tuple(str(value) for value in distinct)


def expand(pattern: str) -> list[Path]:
    """Files of a glob and brace pattern such as `train-{000..012}.tar` or `{a,b}/*.parquet`, sorted."""
    brace = re.search(r"\{([^{}]*)\}", pattern)
    if brace is None:
        if not re.search(r"[*?\[]", pattern):
            return [Path(pattern)]
        path = Path(pattern)
        anchor = Path(path.anchor) if path.is_absolute() else Path()
        return sorted(anchor.glob(str(path.relative_to(anchor))))
    first, dots, last = brace[1].partition("..")
    if dots and first.isdigit() and last.isdigit():
        options = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    else:
        options = brace[1].split(",")
    return [path for option in options for path in expand(pattern[: brace.start()] + option + pattern[brace.end() :])]
