"""Data: from a source string to augmented, mixed batches that follow from keys alone."""

from .decode import decode
from .loader import EvalLoader, TrainLoader, sample
from .sources.base import ImageSource
from .sources.opening import open_source, open_sources, source_splits
from .sources.subsets import Subset
from .views.augment import eval_pixels, keyed, train_pixels
from .views.finish import Batch, Finish

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
