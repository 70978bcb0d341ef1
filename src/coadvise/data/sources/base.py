"""What all image sources have in common."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image


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


def encoded_bytes(source: ImageSource, index: int) -> bytes:
    """Contents of an image: its file, or its pixels where the source holds it decoded."""
    raw = source.read(index)
    return raw.tobytes() if isinstance(raw, Image.Image) else bytes(raw)
