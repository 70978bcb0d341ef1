"""Data: from a source string to augmented, mixed batches that follow from keys alone."""

from .augment import eval_pixels, keyed, train_pixels
from .base import ImageSource, Subset
from .decode import decode
from .finish import Batch, Finish
from .loader import EvalLoader, TrainLoader, sample
from .sources import open_source, open_sources, source_splits

__all__ = [
    "Batch",
    "EvalLoader",
    "Finish",
    "ImageSource",
    "Subset",
    "TrainLoader",
    "decode",
    "eval_pixels",
    "keyed",
    "open_source",
    "open_sources",
    "sample",
    "source_splits",
    "train_pixels",
]
