"""What all image sources have in common."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...shapes import Bool, Int64


@runtime_checkable
class ImageSource(Protocol):
    """Labelled images with random access; picklable, and safe in forked and spawned workers."""

    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    """(n,) indices into `class_names`; −1 for an image without a label, beside others that have one."""

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


class InFile(NamedTuple):
    """Where the bytes of an image lie on the disk.

    Attributes:
        path: of the file that holds them, or of the folder that `datasets` wrote.
        part: what tells the image apart from others in that file; empty where the file is the image.
        bytes: that the image has there, where that is known without reading it.
    """

    path: str
    part: str = ""
    bytes: int | None = None


def file_of(source: ImageSource, index: int) -> InFile | None:
    """The file that holds an image; None where its source knows of none, as of digits that come with the package."""
    own = getattr(source, "file_of", None)
    found: InFile | None = None if own is None else own(index)
    return found


def sets_of(source: ImageSource) -> Bool[np.ndarray, "m k"] | None:
    """Of a source whose images have any number of classes: the different sets of them, one a row, which `labels`
    number. None where each image has one class."""
    return getattr(source, "sets", None)


def label_arrays(source: ImageSource) -> list[np.ndarray]:
    """All that says which classes the images have, for a digest."""
    sets = sets_of(source)
    return [source.labels] if sets is None else [source.labels, sets]


def class_sizes(source: ImageSource) -> Int64[np.ndarray, " k"]:
    """Images of each class."""
    sets = sets_of(source)
    if sets is None:
        return np.bincount(source.labels, minlength=len(source.class_names))
    counts = np.bincount(source.labels, minlength=len(sets))
    return np.array([counts[there].sum() for there in sets.T], dtype=np.int64)


def strata(source: ImageSource) -> Int64[np.ndarray, " n"]:
    """What images are kept in balance by: their class; of several the rarest, and the number of classes for none."""
    sets = sets_of(source)
    if sets is None:
        return source.labels
    rarest_first = np.argsort(class_sizes(source), kind="stable")
    rarest = rarest_first[sets[:, rarest_first].argmax(axis=1)]
    return np.where(sets.any(axis=1), rarest, sets.shape[1])[source.labels]


def encoded_bytes(source: ImageSource, index: int) -> bytes:
    """Contents of an image: its file, or its pixels where the source holds it decoded."""
    raw = source.read(index)
    return raw.tobytes() if isinstance(raw, Image.Image) else bytes(raw)
