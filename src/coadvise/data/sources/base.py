"""What all image sources have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import DataError

IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png", "webp")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "cls")


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


@runtime_checkable
class Noted(Protocol):
    """A source that has something to say before anything is trained on it."""

    notes: tuple[str, ...]
    """What was left out, and why; a sentence each, without a full stop."""


def encoded_bytes(source: ImageSource, index: int) -> bytes:
    """Contents of an image: its file, or its pixels where the source holds it decoded."""
    raw = source.read(index)
    return raw.tobytes() if isinstance(raw, Image.Image) else bytes(raw)


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


def find_column(columns: Sequence[str], declared: Iterable[str], usual: Sequence[str], where: str) -> str:
    """The image or label column of a table: by its usual names, or else the only one that is declared as such.

    Raises:
        DataError: there is no such column.
    """
    declared = [name for name in declared if name in columns]
    found = next((name for name in usual if name in columns), declared[0] if len(declared) == 1 else None)
    if found is None:
        word = "image" if usual is IMAGE_COLUMNS else "label"
        raise DataError(f"{where} has no {word} column (its columns: {', '.join(columns)}); name it '{usual[0]}'")
    return found
