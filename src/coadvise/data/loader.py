"""Loading: batches whose every image follows from its key (data_seed, view, index, repeat).

The training process decides on the keys; loader processes only turn keys into pixels (`Unfinished`), and `finish.py`
makes the batch of them on the device. So the same images come out whatever the number of workers, the batch size and
the number of processes, from any step on. A small set of small images is read once and stays on the device.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..recipe.schema import Data
from ..shapes import Int64
from .ahead import made_ahead, stream_beside
from .feed import Feed
from .kept import KeptPixels
from .samples import Keys, PlainSamples, TrainSamples, needs_of, nothing_readable
from .sources.base import ImageSource, sets_of
from .views.balance import class_weights
from .views.finish import Batch, Finish, Unfinished, mixing_table, view_table
from .views.fused import Fused
from .views.order import Order
from .views.rows import Rows

# Sets of at most so many bytes and pixels a side stay on the device, and are read once.
RESIDENT_BYTES = 2**31
RESIDENT_SIZE = 96
# Views that recur are finished once where all of their batches take at most so many bytes.
FINISHED_BYTES = 2**28


def sample(source: ImageSource, data: Data, classes: int, view: int, index: int, repeat: int) -> Batch:
    """The augmented and mixed training sample of one key, as a batch of one on the CPU.

    Raises:
        DataError: an image is unreadable and `data.on_error` is `raise`.
    """
    keys = Keys(view, np.array([-1]), np.array([index]), np.array([repeat]))
    cpu = torch.device("cpu")
    (made,) = Feed(TrainSamples(source, data), 0, cpu).batches([keys])
    return _finish(source, data, classes, cpu)(made)


def _finish(source: ImageSource, data: Data, classes: int, device: torch.device) -> Finish:
    """What makes training batches: labels smoothed, and weighted where the recipe says so."""
    weights = class_weights(source.labels, classes) if data.balance == "weights" else None
    unlabelled = bool((source.labels < 0).any())
    smoothing, sets = data.augment.label_smoothing, sets_of(source)
    return Finish(data, classes, device, smoothing, weights, unlabelled, sets)


def _stays(data: Data, count: int) -> bool:
    """Whether `count` images are few enough bytes to be read once and then kept on the device."""
    return data.image_size <= RESIDENT_SIZE and count * data.image_size**2 * 3 <= RESIDENT_BYTES


class _Resident(NamedTuple):
    """All images of a small set, on the device."""

    pixels: Tensor
    takes: Int64[np.ndarray, " n"]
    """Index of the image that stands for each: itself, or the next readable one."""
    skipped: tuple[str, ...]


class TrainLoader:
    """Training batches of one process.

    Args:
        source: training images.
        data: the recipe's data part.
        batch_size: samples per update, over all processes and micro-batches.
        rank, world: this process and the number of processes.
        accumulate: micro-batches per update.
        device: where the batches are made.
        keep: whether a small set may stay on the device.
        compiled: whether batches are finished by compiled code on a GPU: the same images up to rounding.
        kept: where pixels of recurring views are looked for before they are drawn, and kept.

    Raises:
        DataError: there are fewer samples than a batch, or a batch cannot be divided evenly.
    """

    def __init__(
        self,
        source: ImageSource,
        data: Data,
        batch_size: int,
        *,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        device: torch.device | str = "cpu",
        keep: bool = True,
        compiled: bool = True,
        kept: KeptPixels | None = None,
    ) -> None:
        if len(source) < batch_size:
            raise DataError(
                f"there are fewer samples than a batch: {len(source)} training images, batch size "
                f"{batch_size}; lower optim.batch_size"
            )
        if batch_size % (world * accumulate):
            raise DataError(
                f"a batch of {batch_size} cannot be divided evenly over {world} processes × {accumulate} "
                f"micro-batches; make optim.batch_size a multiple of {world * accumulate}"
            )
        self.data, self.size, self.batch_size = data, len(source), batch_size
        self.source, self.device, self.keep = source, torch.device(device), keep
        self.rank, self.world, self.accumulate = rank, world, accumulate
        self.steps_per_epoch = len(source) // batch_size
        finish = _finish(source, data, len(source.class_names), self.device)
        self._finish: Callable[[Unfinished], Batch] = finish
        if self.device.type == "cpu":
            self._finish = Rows(finish)
        elif compiled and self.device.type == "cuda":
            self._finish = Fused(finish)
        self._order = Order(data, source.labels)
        self._feed = Feed(TrainSamples(source, data, kept), data.workers, self.device)
        self._side: torch.cuda.Stream | None = None
        self._resident: _Resident | None = None
        self._finished: dict[int, list[tuple[Batch, float]]] = {}

    @property
    def labelled(self) -> float:
        """Share of an epoch's images that have a label."""
        return float((self.source.labels >= 0).mean())

    @property
    def stays(self) -> bool:
        """Whether the set is read once and then stays on the device: few bytes, and nothing is drawn image by image."""
        return self.keep and _stays(self.data, self.size) and self.data.augment.policy != "deit"

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Micro-batches of an epoch from step `start` on: (steps_per_epoch − start) × accumulate of them.

        Only one epoch can be under way at a time.

        Raises:
            DataError: an image is unreadable and `data.on_error` is `raise`; its message names the image.
        """
        assert 0 <= start <= self.steps_per_epoch
        if start == self.steps_per_epoch:
            return iter(())
        if self.recurs:
            assert self.data.views is not None
            return self._recurring(epoch % self.data.views, start)
        return self.batches(self._micro_batches(epoch if self.data.views is None else epoch % self.data.views, start))

    @property
    def recurs(self) -> bool:
        """Whether the batches of an epoch stay on the device until their view recurs: they take few bytes."""
        per_image = 4 * (3 * self.data.image_size**2 + len(self.source.class_names))
        views = self.data.views or 0
        return self.keep and 0 < views * self.steps_per_epoch * self.batch_size * per_image <= FINISHED_BYTES

    def batches(self, keys: Iterable[Keys]) -> Iterator[Batch]:
        """Batches of any keys; workers take keys ahead of the batches.

        Raises:
            DataError: as for `epoch`.
        """
        ahead: deque[Keys] = deque()

        def taken() -> Iterator[Keys]:
            for one in keys:
                ahead.append(one)
                yield one

        found = self._from_memory(taken()) if self.stays else self._feed.batches(taken())
        self._side = self._side or stream_beside(self.device)
        for batch in made_ahead(found, self._finish, self.device, self._side):
            one = ahead.popleft()
            yield batch._replace(view=one.view, position=one.position)

    def keys(self, view: int, start: int, stop: int) -> Keys:
        """The samples at some positions of a view."""
        rows = self._order.rows(view)[start:stop]
        return Keys(view, np.arange(start, stop), rows[:, 0], rows[:, 1])

    def close(self) -> None:
        """End the worker processes and free the memory; the next epoch would start again."""
        self._feed.close()
        self._resident, self._finished = None, {}

    def _recurring(self, view: int, start: int) -> Iterator[Batch]:
        """The micro-batches of a view from step `start` on, finished when the view comes for the first time.

        Again where a model has written into its input.
        """
        finished = self._finished.pop(view, [])
        if not finished or any(_writes(batch) != before for batch, before in finished):
            finished = []
            for batch in self.batches(self._micro_batches(view, start)):
                finished.append((batch, _writes(batch)))
                yield batch
            if len(finished) < self.steps_per_epoch * self.accumulate:
                return
        else:
            yield from (batch for batch, _ in finished[start * self.accumulate :])
        self._finished[view] = finished

    def _micro_batches(self, view: int, start: int) -> Iterator[Keys]:
        order = self._order.rows(view)
        micro = self.batch_size // (self.world * self.accumulate)
        shape = (self.steps_per_epoch, self.world, self.accumulate, micro)
        used = np.arange(self.steps_per_epoch * self.batch_size)
        for position in used.reshape(shape)[start:, self.rank].reshape(-1, micro):
            yield Keys(view, position, *order[position].T)

    def _from_memory(self, batches: Iterable[Keys]) -> Iterator[Unfinished]:
        self._resident = held = self._resident or self._read_all()
        names = held.skipped
        for keys in batches:
            needs = needs_of(keys, self._order, self.data)
            taken = held.takes[needs.index]
            views = view_table(self.data, keys.view, taken, needs.repeat, self.source.labels[taken])
            mixing = mixing_table(needs.partner, needs.mixes)
            index, rows = torch.from_numpy(keys.index.copy()), torch.from_numpy(taken)
            yield Unfinished(held.pixels, views, mixing, index, names, rows)
            names = ()

    def _read_all(self) -> _Resident:
        size = self.data.image_size
        pixels = torch.empty((self.size, size, size, 3), dtype=torch.uint8, device=self.device)
        feed = Feed(PlainSamples(self.source, self.data, training=True), self.data.workers, self.device)
        chunks = [list(range(at, min(at + 256, self.size))) for at in range(0, self.size, 256)]
        read = np.zeros(self.size, dtype=bool)
        skipped: list[str] = []
        for part in feed.batches(chunks):
            pixels[part.index.to(self.device)] = part.pixels.to(self.device)
            read[part.index.numpy()] = True
            skipped += part.skipped
        feed.close()
        if not read.any():
            raise nothing_readable(self.source, skipped[0])
        readable = np.flatnonzero(read)
        following = np.searchsorted(readable, np.arange(self.size)) % len(readable)
        return _Resident(pixels, readable[following], tuple(skipped))


def _writes(batch: Batch) -> float:
    """How often a batch's images were written to; NaN, which equals nothing, where PyTorch does not count."""
    return math.nan if batch.images.is_inference() else batch.images._version


class EvalLoader:
    """Every image once over all processes, unaugmented; this process takes every `world`-th from `rank` on.

    The last batch may be smaller, and a batch may be empty if none of its images can be read and
    `data.on_error` is `skip`. The pixels of a small set are kept from the first pass on.
    """

    def __init__(
        self,
        source: ImageSource,
        data: Data,
        batch_size: int,
        *,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        indices = list(range(rank, len(source), world))
        self._batches = [indices[at : at + batch_size] for at in range(0, len(indices), batch_size)]
        self._feed = Feed(PlainSamples(source, data), data.workers, torch.device(device))
        self._finish = Finish(data, len(source.class_names), torch.device(device), sets=sets_of(source))
        self._kept: list[Unfinished] | None = None
        self._keep = _stays(data, len(indices))

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        if self._kept is not None:
            yield from map(self._finish, self._kept)
            return
        kept: list[Unfinished] = []
        for batch in self._feed.batches(self._batches):
            if self._keep:
                kept.append(batch._replace(pixels=batch.pixels.to(self._finish.device)))
            yield self._finish(batch)
        if self._keep:
            self._kept = kept
            self._feed.close()

    def close(self) -> None:
        """End the worker processes and free the memory; the next pass would start again."""
        self._feed.close()
        self._kept = None
