"""Loading: batches whose every image follows from its key (data_seed, view, index, repeat).

The training process decides on the keys; workers only turn keys into images. So the same images come out
whatever the number of workers, the batch size and the number of processes, from any step on.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import DataError
from ..recipe import Data
from .augment import eval_transform, preserved_generators, seed_generators, train_transform
from .base import ImageSource
from .decode import decode
from .mixing import UNMIXED, Stream, epoch_order, mix, mix_parameters, partner, soft_target

# Memory in bytes that a loader process may take for images that never change.
KEPT_BYTES = 2**28

Key = tuple[int, int, int]
"""(view, index, repeat); the data seed is the same throughout a run."""
K = TypeVar("K")


class Sample(NamedTuple):
    """One image, ready for the model."""

    image: Float[Tensor, "3 h w"]
    target: Float[Tensor, " k"]
    label: int
    index: int  # type: ignore[assignment]
    skipped: tuple[str, ...]


class Batch(NamedTuple):
    """Images ready for the model."""

    images: Float[Tensor, "b 3 h w"]
    target: Float[Tensor, "b k"]
    """Soft targets: smoothed and mixed in training, one-hot in evaluation."""
    label: Int[Tensor, " b"]
    """Label of the image itself, without smoothing or partner."""
    index: Int[Tensor, " b"]  # type: ignore[assignment]
    """Index that was asked for; with `on_error: skip` the image may be that of a later one."""
    skipped: tuple[str, ...]
    """Unreadable images that were met, by name."""


class _Failure(NamedTuple):
    """A DataError on its way from a worker: PyTorch would bury its message in a traceback."""

    message: str


class _Drawn(NamedTuple):
    """An augmented image before mixing."""

    image: Float[Tensor, "3 h w"]
    label: int
    skipped: tuple[str, ...]


class TrainSamples:
    """Keys to samples. This is what workers hold; it has no state that changes a sample."""

    def __init__(self, source: ImageSource, data: Data, classes: int) -> None:
        self.source, self.data, self.classes = source, data, classes
        self.transform = train_transform(data)
        self._recent: dict[Key, _Drawn] = {}
        # Without augmentation an image is the same in every view: small sets are decoded once.
        room = 12 * len(source) * data.image_size**2 <= KEPT_BYTES
        self._kept: dict[int, _Drawn] | None = {} if data.augment.policy == "none" and room else None

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample] | _Failure:
        try:
            with preserved_generators():
                return [self.sample(*key) for key in keys]
        except DataError as error:
            return _Failure(str(error))
        finally:
            self._recent.clear()

    def sample(self, view: int, index: int, repeat: int) -> Sample:
        """The augmented and mixed sample of a key; the global generators are left in any state."""
        data, augment = self.data, self.data.augment
        own = self._draw((view, index, repeat))
        params = mix_parameters(augment, data.image_size, data.seed, view, index, repeat)
        other = int(partner(len(self.source), data.seed, view)[index]) if params is not UNMIXED else -1
        if other < 0:
            target = soft_target(own.label, own.label, 1.0, self.classes, augment.label_smoothing)
            return Sample(own.image, target, own.label, index, own.skipped)
        mate = self._draw((view, other, repeat))
        image = mix(own.image, mate.image, params)
        target = soft_target(own.label, mate.label, params.lam, self.classes, augment.label_smoothing)
        return Sample(image, target, own.label, index, own.skipped + mate.skipped)

    def _draw(self, key: Key) -> _Drawn:
        """The augmented image of a key. The last two are kept: the two of a pair come one after the other."""
        drawn = self._recent.get(key)
        if drawn is None:
            drawn = self._read(key)
            if len(self._recent) > 1:
                self._recent.pop(next(iter(self._recent)))
            self._recent[key] = drawn
        # Reported once only, also where the image is used twice.
        self._recent[key] = drawn._replace(skipped=())
        return drawn

    def _read(self, key: Key) -> _Drawn:
        view, first, repeat = key
        if self._kept is not None and first in self._kept:
            return self._kept[first]
        skipped: list[str] = []
        for step in range(len(self.source)):
            index = (first + step) % len(self.source)
            try:
                image = decode(self.source.read(index), self.source.describe(index))
            except DataError as error:
                if self.data.on_error == "raise":
                    raise _with_remedy(error) from error
                skipped.append(self.source.describe(index))
                continue
            seed_generators(Stream.AUGMENT, self.data.seed, view, index, repeat)
            drawn = _Drawn(self.transform(image), int(self.source.labels[index]), tuple(skipped))
            if self._kept is not None:
                self._kept[first] = drawn
            return drawn
        raise DataError(f"none of the {len(self.source)} training images can be read, {skipped[0]} first")


class EvalSamples:
    """Indices to unaugmented samples with one-hot targets."""

    def __init__(self, source: ImageSource, data: Data, classes: int) -> None:
        self.source, self.data, self.classes = source, data, classes
        self.transform = eval_transform(data)

    def __getitems__(self, indices: Sequence[int]) -> list[Sample | str] | _Failure:
        try:
            return [self._sample(index) for index in indices]
        except DataError as error:
            return _Failure(str(error))

    def _sample(self, index: int) -> Sample | str:
        """The sample, or the name of an image that is left out."""
        try:
            image = decode(self.source.read(index), self.source.describe(index))
        except DataError as error:
            if self.data.on_error == "raise":
                raise _with_remedy(error) from error
            return self.source.describe(index)
        label = int(self.source.labels[index])
        target = soft_target(label, label, 1.0, self.classes, 0.0)
        return Sample(self.transform(image), target, label, index, ())


def _with_remedy(error: DataError) -> DataError:
    return DataError(f"{error}; or leave such images out with data.on_error=skip")


def sample(source: ImageSource, data: Data, classes: int, view: int, index: int, repeat: int) -> Sample:
    """The augmented and mixed training sample of one key; global generators are left as they were.

    Raises:
        DataError: an image is unreadable and `data.on_error` is `raise`.
    """
    with preserved_generators():
        return TrainSamples(source, data, classes).sample(view, index, repeat)


class TrainLoader:
    """Training batches of one process.

    Args:
        source: training images.
        data: the recipe's data part.
        batch_size: samples per update, over all processes and micro-batches.
        rank, world: this process and the number of processes.
        accumulate: micro-batches per update.

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
        self.rank, self.world, self.accumulate = rank, world, accumulate
        self.steps_per_epoch = len(source) // batch_size
        self._feed: _Feed[Key] = _Feed(TrainSamples(source, data, len(source.class_names)), data)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Micro-batches of an epoch from step `start` on: (steps_per_epoch − start) × accumulate of them.

        Only one epoch can be under way at a time.

        Raises:
            DataError: an image is unreadable and `data.on_error` is `raise`; its message names the image.
        """
        assert 0 <= start <= self.steps_per_epoch
        count = (self.steps_per_epoch - start) * self.accumulate
        return self._feed.batches(self._micro_batches(epoch, start), count)

    def close(self) -> None:
        """End the worker processes; the next epoch would start new ones."""
        self._feed.close()

    def _micro_batches(self, epoch: int, start: int) -> Iterator[list[Key]]:
        view = epoch if self.data.views is None else epoch % self.data.views
        order = epoch_order(self.size, self.data.augment.repeats, self.data.seed, view)
        micro = self.batch_size // (self.world * self.accumulate)
        shape = (self.steps_per_epoch, self.world, self.accumulate, micro, 2)
        mine = order[: self.steps_per_epoch * self.batch_size].reshape(shape)[start:, self.rank]
        for keys in mine.reshape(-1, micro, 2):
            yield [(view, index, repeat) for index, repeat in keys.tolist()]


class EvalLoader:
    """Every image once over all processes, unaugmented; this process takes every `world`-th from `rank` on.

    The last batch may be smaller, and a batch may be empty if none of its images can be read and
    `data.on_error` is `skip`.
    """

    def __init__(self, source: ImageSource, data: Data, batch_size: int, *, rank: int = 0, world: int = 1) -> None:
        indices = list(range(rank, len(source), world))
        self._batches = [indices[at : at + batch_size] for at in range(0, len(indices), batch_size)]
        self._feed: _Feed[int] = _Feed(EvalSamples(source, data, len(source.class_names)), data)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return self._feed.batches(self._batches, len(self._batches))

    def close(self) -> None:
        """End the worker processes; the next pass would start new ones."""
        self._feed.close()


# --- between the process and its workers -----------------------------------------------------------------


class _Keys(Generic[K]):
    """The batch sampler: keys of the batches to come. It lives in the main process only."""

    def __init__(self) -> None:
        self.batches: Iterable[Sequence[K]] = ()
        self.count = 0

    def __iter__(self) -> Iterator[Sequence[K]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return self.count


class _Feed(Generic[K]):
    """PyTorch's DataLoader, fed with batches of keys; its workers live on from one pass to the next."""

    def __init__(self, samples: TrainSamples | EvalSamples, data: Data) -> None:
        self._samples, self._data = samples, data
        self._keys: _Keys[K] = _Keys()
        self._loader: DataLoader | None = None

    def batches(self, keys: Iterable[Sequence[K]], count: int) -> Iterator[Batch]:
        """A batch for each of `count` batches of keys."""
        if not count:
            return
        self._keys.batches, self._keys.count = keys, count
        if self._loader is None:
            self._loader = self._start()
        try:
            with _late_interrupt():
                batches = iter(self._loader)
            for _ in range(count):
                with _late_interrupt():
                    batch = next(batches)
                if isinstance(batch, _Failure):
                    raise DataError(batch.message)
                yield batch._replace(skipped=tuple(batch.skipped))  # pinning may make it a list
        except (Exception, KeyboardInterrupt):
            # Now, while nothing else refers to the workers: left to the collector of reference cycles (which
            # the traceback makes), PyTorch waits 5 s for each of them.
            batches = None
            self.close()
            raise

    def close(self) -> None:
        self._loader = None

    def _start(self) -> DataLoader:
        workers, size = self._data.workers, self._data.image_size
        return DataLoader(
            self._samples,  # type: ignore[arg-type]
            batch_sampler=self._keys,  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=_Collate((3, size, size), self._samples.classes),
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_start_worker,
            # Its own generator: otherwise each epoch would draw from PyTorch's global one.
            generator=torch.Generator(),
        )


class _Collate:
    """Samples to a batch; names of images that were left out become `skipped`."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        self.shape, self.classes = shape, classes

    def __call__(self, samples: list[Sample | str] | _Failure) -> Batch | _Failure:
        if isinstance(samples, _Failure):
            return samples
        read = [sample for sample in samples if isinstance(sample, Sample)]
        left_out = [sample for sample in samples if isinstance(sample, str)]
        images = torch.empty((len(read), *self.shape))
        target = torch.empty((len(read), self.classes))
        if read:
            torch.stack([sample.image for sample in read], out=images)
            torch.stack([sample.target for sample in read], out=target)
        return Batch(
            images,
            target,
            torch.tensor([sample.label for sample in read], dtype=torch.int64),
            torch.tensor([sample.index for sample in read], dtype=torch.int64),
            tuple(left_out + [name for sample in read for name in sample.skipped]),
        )


@contextmanager
def _late_interrupt() -> Iterator[None]:
    """Ctrl-C is answered after the block; a second one at once.

    Raised amid PyTorch's talk with the workers, KeyboardInterrupt can leave a lock taken that the process then
    waits for when it ends. Handlers other than Python's own are left alone: they raise nothing.
    """
    asked = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    own = threading.current_thread() is threading.main_thread()
    if not own or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if asked:
        raise KeyboardInterrupt


def _start_worker(worker: int) -> None:
    """Ctrl-C reaches the whole process group: only the main process answers it, and then ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # not SIGTERM: it is how Python ends workers that are left over
    torch.set_num_threads(1)
