"""Data: from a source string to augmented, mixed batches that follow from keys alone."""

from .augment import eval_transform, keyed, train_transform
from .base import ImageSource, Subset
from .decode import decode
from .loader import Batch, EvalLoader, TrainLoader, sample
from .sources import open_source, open_sources, source_splits

__all__ = [
    "Batch",
    "EvalLoader",
    "ImageSource",
    "Subset",
    "TrainLoader",
    "decode",
    "eval_transform",
    "keyed",
    "open_source",
    "open_sources",
    "sample",
    "source_splits",
    "train_transform",
]
