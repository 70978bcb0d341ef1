"""What loader processes make of keys: 8-bit pixels, and the random choices that belong to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch

from ..errors import DataError
from ..recipe.schema import Data
from ..shapes import Int64, UInt8
from .decode import decode, decode_pixels
from .kept import KeptPixels
from .part import part_decoder
from .sources.base import ImageSource
from .views.augment import CropAndMore, preserved_generators, seed_generators, train_pixels
from .views.draws import Mixes, Stream, mixes, unmixed
from .views.finish import Unfinished, mixing_table, plain_table, view_table
from .views.order import COPIES, Order
from .views.square import PixelTransform, eval_pixels

K = TypeVar("K")


class Keys(NamedTuple):
    """The samples of a micro-batch; the data seed is the same throughout a run."""

    view: int
    position: Int64[np.ndarray, " b"]
    """Place in the order of the view (`epoch_order`)."""
    index: Int64[np.ndarray, " b"]  # type: ignore[assignment]
    repeat: Int64[np.ndarray, " b"]


class Failure(NamedTuple):
    """A DataError on its way from a worker: PyTorch would bury its message in a traceback."""

    message: str


class Needs(NamedTuple):
    """Images of a micro-batch: its own b first, then partners that are not among them."""

    index: Int64[np.ndarray, " m"]  # type: ignore[assignment]
    repeat: Int64[np.ndarray, " m"]
    partner: Int64[np.ndarray, " b"]
    """Row of each image's partner."""
    mixes: Mixes


def needs_of(keys: Keys, samples: Order, data: Data) -> Needs:
    """Draw how the samples are mixed, and list the images that this needs, each once."""
    view, _, index, repeat = keys
    drawn = mixes(data.augment, data.image_size, data.seed, view, index, repeat)
    other, other_repeat = samples.partners(view, index, repeat)
    mixed = drawn.mixed & (other >= 0)
    drawn = Mixes(np.where(mixed, drawn.lam, 1.0), np.where(mixed[:, None], drawn.box, 0))
    names = index * COPIES + repeat
    wanted = (other * COPIES + other_repeat)[mixed]
    missing = np.setdiff1d(wanted, names)
    every = np.concatenate([names, missing])
    order = np.argsort(every, kind="stable")
    rows = np.arange(len(index))
    rows[mixed] = order[np.searchsorted(every, wanted, sorter=order)]
    return Needs(np.concatenate([index, missing // COPIES]), np.concatenate([repeat, missing % COPIES]), rows, drawn)


class Samples(Generic[K]):
    """Keys of a batch to pixels and random choices. Workers hold this; it has no state that changes a sample."""

    def __init__(self, source: ImageSource, data: Data, transform: PixelTransform) -> None:
        self.source, self.data, self.transform = source, data, transform

    def __getitems__(self, keys: K) -> Unfinished | Failure:
        try:
            with preserved_generators():
                return self._batch(keys)
        except DataError as error:
            return Failure(str(error))

    def _batch(self, keys: K) -> Unfinished:
        raise NotImplementedError

    def _empty(self, count: int) -> UInt8[torch.Tensor, "b h w 3"]:
        return torch.empty((count, self.data.image_size, self.data.image_size, 3), dtype=torch.uint8)

    def _read(self, index: int, skipped: list[str]) -> UInt8[torch.Tensor, "h w 3"] | None:
        """Pixels of an image, or None for an unreadable one, whose name joins `skipped`."""
        what, transform = self.source.describe(index), self.transform
        needed = transform.needed if self.data.shrink_on_load else None
        transform.forget()
        try:
            raw = self.source.read(index)
            if isinstance(transform, CropAndMore):
                return torch.from_numpy(transform(decode_pixels(raw, what, needed, transform.box)))
            return torch.from_numpy(transform(decode(raw, what, needed)))
        except DataError as error:
            if self.data.on_error == "raise":
                way = "leave such images out with data.on_error=skip (evaluate: --skip-unreadable)"
                raise DataError(f"{error}; or {way}") from error
            skipped.append(what)
            return None


class TrainSamples(Samples[Keys]):
    """Augmented training samples.

    Args:
        kept: where pixels of recurring views are looked for before they are drawn, and kept.
    """

    def __init__(self, source: ImageSource, data: Data, kept: KeptPixels | None = None) -> None:
        super().__init__(source, data, train_pixels(data))
        self.kept = kept
        if isinstance(self.transform, CropAndMore):
            part_decoder()  # compiled here, not in every worker
        self.order = Order(data, source.labels)

    def _batch(self, keys: Keys) -> Unfinished:
        needs = needs_of(keys, self.order, self.data)
        pixels, taken = self._empty(len(needs.index)), needs.index.copy()
        skipped: list[str] = []
        for row, (index, repeat) in enumerate(zip(needs.index.tolist(), needs.repeat.tolist(), strict=True)):
            pixels[row], taken[row] = self._first_readable(keys.view, index, repeat, skipped)
        views = view_table(self.data, keys.view, taken, needs.repeat, self.source.labels[taken])
        mixing = mixing_table(needs.partner, needs.mixes)
        return Unfinished(pixels, views, mixing, torch.from_numpy(keys.index.copy()), tuple(skipped))

    def _first_readable(
        self, view: int, first: int, repeat: int, skipped: list[str]
    ) -> tuple[UInt8[torch.Tensor, "h w 3"], int]:
        """Pixels of the first readable image from `first` on, and its index."""
        if self.kept is not None and (found := self.kept.read(view, first)) is not None:
            return torch.from_numpy(found), first
        for step in range(len(self.source)):
            index = (first + step) % len(self.source)
            if self.data.augment.policy == "deit":
                seed_generators(Stream.AUGMENT, self.data.seed, view, index, repeat)
            pixels = self._read(index, skipped)
            if pixels is not None:
                if self.kept is not None and index == first:
                    self.kept.write(view, index, pixels.numpy())
                return pixels, index
        raise nothing_readable(self.source, skipped[0])


class PlainSamples(Samples[Sequence[int]]):
    """Images for which nothing is drawn: of the validation set, or of a training set that stays in memory."""

    def __init__(self, source: ImageSource, data: Data, training: bool = False) -> None:
        super().__init__(source, data, train_pixels(data) if training else eval_pixels(data))

    def _batch(self, keys: Sequence[int]) -> Unfinished:
        pixels = self._empty(len(keys))
        read: list[int] = []
        skipped: list[str] = []
        for index in keys:
            image = self._read(index, skipped)
            if image is not None:
                pixels[len(read)] = image
                read.append(index)
        count, views = len(read), plain_table(self.source.labels[read])
        mixing = mixing_table(np.arange(count), unmixed(count))
        return Unfinished(pixels[:count], views, mixing, torch.tensor(read, dtype=torch.int64), tuple(skipped))


def nothing_readable(source: ImageSource, first: str) -> DataError:
    return DataError(f"none of the {len(source)} training images can be read, {first} first")
