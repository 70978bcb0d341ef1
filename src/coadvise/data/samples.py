"""Samples: what loader processes make of keys, on 8-bit pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64

from ..errors import DataError
from ..recipe.schema import Data
from .decode import decode, decode_pixels
from .sources.base import ImageSource
from .views.augment import (
    CropAndMore,
    Pixels,
    PixelTransform,
    eval_pixels,
    preserved_generators,
    seed_generators,
    train_pixels,
)
from .views.draws import Mixes, Stream, mixes
from .views.finish import Unfinished, mixing_table, plain_table, view_table
from .views.order import partner


class Keys(NamedTuple):
    """The samples of a micro-batch; the data seed is the same throughout a run."""

    view: int
    position: Int64[np.ndarray, " b"]
    """Place in the order of the view (`epoch_order`)."""
    index: Int64[np.ndarray, " b"]  # type: ignore[assignment]
    repeat: Int64[np.ndarray, " b"]


class _Failure(NamedTuple):
    """A DataError on its way from a worker: PyTorch would bury its message in a traceback."""

    message: str


class Plan(NamedTuple):
    """What a micro-batch needs: its own b images first, then partners that are not among them."""

    index: Int64[np.ndarray, " m"]  # type: ignore[assignment]
    repeat: Int64[np.ndarray, " m"]
    partner: Int64[np.ndarray, " b"]
    """Row of each image's partner."""
    mixes: Mixes


def plan(keys: Keys, size: int, data: Data) -> Plan:
    """Draw how the samples are mixed, and find which images that takes, each once.

    Args:
        size: number of images in the set.
    """
    view, _, index, repeat = keys
    drawn = mixes(data.augment, data.image_size, data.seed, view, index, repeat)
    other = partner(size, data.seed, view)[index]
    mixed = drawn.mixed & (other >= 0)
    drawn = Mixes(np.where(mixed, drawn.lam, 1.0), np.where(mixed[:, None], drawn.box, 0))
    names = index * 64 + repeat  # repeats are 64 at most
    wanted = (other * 64 + repeat)[mixed]
    missing = np.setdiff1d(wanted, names)
    every = np.concatenate([names, missing])
    order = np.argsort(every, kind="stable")
    rows = np.arange(len(index))
    rows[mixed] = order[np.searchsorted(every, wanted, sorter=order)]
    return Plan(np.concatenate([index, missing // 64]), np.concatenate([repeat, missing % 64]), rows, drawn)


class TrainSamples:
    """Keys to pixels and choices. This is what workers hold; it has no state that changes a sample."""

    def __init__(self, source: ImageSource, data: Data) -> None:
        self.source, self.data, self.pixels = source, data, train_pixels(data)

    def __getitems__(self, keys: Keys) -> Unfinished | _Failure:
        try:
            with preserved_generators():
                return self._batch(keys)
        except DataError as error:
            return _Failure(str(error))

    def _batch(self, keys: Keys) -> Unfinished:
        data, needs = self.data, plan(keys, len(self.source), self.data)
        size = data.image_size
        pixels = torch.empty((len(needs.index), size, size, 3), dtype=torch.uint8)
        taken = needs.index.copy()
        skipped: list[str] = []
        for row, (index, repeat) in enumerate(zip(needs.index.tolist(), needs.repeat.tolist(), strict=True)):
            image, taken[row] = self._read(keys.view, index, repeat, skipped)
            pixels[row] = torch.from_numpy(image)
        views = view_table(data, keys.view, taken, needs.repeat, self.source.labels[taken])
        mixing = mixing_table(needs.partner, needs.mixes)
        return Unfinished(pixels, views, mixing, torch.from_numpy(keys.index.copy()), tuple(skipped))

    def _read(self, view: int, first: int, repeat: int, skipped: list[str]) -> tuple[Pixels, int]:
        """Pixels of the first readable image from `first` on, and its index."""
        for step in range(len(self.source)):
            index = (first + step) % len(self.source)
            if self.data.augment.policy == "deit":
                seed_generators(Stream.AUGMENT, self.data.seed, view, index, repeat)
            try:
                return _pixels(self.source, index, self.data, self.pixels), index
            except DataError as error:
                if self.data.on_error == "raise":
                    raise _with_remedy(error) from error
                skipped.append(self.source.describe(index))
        raise _nothing_readable(self.source, skipped[0])


class PlainSamples:
    """Indices to pixels for which nothing is drawn: of the validation set, or of a training set kept in memory."""

    def __init__(self, source: ImageSource, data: Data, training: bool = False) -> None:
        self.source, self.data = source, data
        self.pixels = train_pixels(data) if training else eval_pixels(data)

    def __getitems__(self, indices: Sequence[int]) -> Unfinished | _Failure:
        size = self.data.image_size
        pixels = torch.empty((len(indices), size, size, 3), dtype=torch.uint8)
        read: list[int] = []
        skipped: list[str] = []
        for index in indices:
            try:
                pixels[len(read)] = torch.from_numpy(_pixels(self.source, index, self.data, self.pixels))
                read.append(index)
            except DataError as error:
                if self.data.on_error == "raise":
                    return _Failure(str(_with_remedy(error)))
                skipped.append(self.source.describe(index))
        count = len(read)
        views = plain_table(self.source.labels[read])
        mixing = mixing_table(np.arange(count), Mixes(np.ones(count), np.zeros((count, 4), dtype=np.int32)))
        return Unfinished(pixels[:count], views, mixing, torch.tensor(read, dtype=torch.int64), tuple(skipped))


def _pixels(source: ImageSource, index: int, data: Data, transform: PixelTransform) -> Pixels:
    needed = transform.needed if data.shrink_on_load else None
    transform.forget()
    if isinstance(transform, CropAndMore):
        return transform(decode_pixels(source.read(index), source.describe(index), needed))
    return transform(decode(source.read(index), source.describe(index), needed))


def _with_remedy(error: DataError) -> DataError:
    return DataError(f"{error}; or leave such images out with data.on_error=skip")


def _nothing_readable(source: ImageSource, first: str) -> DataError:
    return DataError(f"none of the {len(source)} training images can be read, {first} first")
