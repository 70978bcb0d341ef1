"""The loader processes: PyTorch's DataLoader, fed with batches of keys."""

from __future__ import annotations

import errno
import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader

from ..errors import DataError, LoaderError, one_line
from ..system.interrupts import answered_by, deaf_children, late_signals, leave_signals_to_parent
from ..system.shared_memory import PLACE, shared_memory
from .parcel import Parcel, Undelivered, pack
from .samples import Failure, Samples
from .views.finish import Unfinished

K = TypeVar("K")
# What tells that a process has ended; Windows has no such signal, and PyTorch looks every five seconds.
CHILD_ENDED = [signal.SIGCHLD] if hasattr(signal, "SIGCHLD") else []


class _Sampler(Generic[K]):
    """The batch sampler: keys of the batches to come. It lives in the main process only."""

    def __init__(self) -> None:
        self.batches: Iterable[K] = ()

    def __iter__(self) -> Iterator[K]:
        return iter(self.batches)


class Feed(Generic[K]):
    """PyTorch's DataLoader, fed with batches of keys; its workers live on from one pass to the next.

    Args:
        device: on which batches will be used; they come in memory from which it copies.
    """

    def __init__(self, samples: Samples[K], workers: int, device: torch.device) -> None:
        self._samples, self._count, self._device = samples, workers, device
        self._keys: _Sampler[K] = _Sampler()
        self._loader: DataLoader | None = None
        self._workers: list[BaseProcess] = []

    def batches(self, keys: Iterable[K]) -> Iterator[Unfinished]:
        """A batch for each batch of keys.

        Raises:
            DataError: an image is unreadable and `data.on_error` is `raise`.
            LoaderError: a loader process has ended, or none can be started.
        """
        self._keys.batches = keys
        try:
            batches = self._begin()
            while True:
                with self._watched():
                    batch = next(batches, None)
                    if isinstance(batch, Parcel):
                        batch = batch.unpack()
                    if isinstance(batch, Undelivered):
                        self._wait_for_the_dead()
                        raise LoaderError(f"a batch of the loader processes did not arrive: {batch.reason}; {_FEWER}")
                if batch is None:
                    return
                if isinstance(batch, Failure):
                    raise DataError(batch.message)
                yield batch
        except (Exception, KeyboardInterrupt) as error:
            ended = self._ended()
            # Now, while nothing else refers to the workers: left to the collector of reference cycles (which
            # the traceback makes), PyTorch waits 5 s for each of them.
            batches = None
            self.close()
            if ended and isinstance(error, Exception):  # PyTorch puts an error of its own in place of ours
                raise LoaderError(ended) from None
            raise

    def close(self) -> None:
        """End the workers; the next pass starts new ones."""
        self._loader, self._workers = None, []

    def _begin(self) -> Iterator[Unfinished | Failure | Parcel | Undelivered | None]:
        """The batches to come; workers start with the first pass."""
        if self._loader is not None:
            with self._watched():
                return iter(self._loader)
        self._loader, others = self._start(), multiprocessing.active_children()
        try:
            self._try_queues()
            with self._watched(), deaf_children():
                batches = iter(self._loader)
        except OSError as error:  # the system's limits of processes, memory and open files
            raise LoaderError(f"the loader processes cannot be started: {_why(error)}; {_FEWER}") from error
        self._workers = [child for child in multiprocessing.active_children() if child not in others]
        return batches

    def _try_queues(self) -> None:
        """Make the queues that PyTorch is about to make: where they cannot be had, it prints a traceback of its own."""
        if self._count:
            context = multiprocessing.get_context()
            _ = context.Event(), [context.Queue() for _ in range(1 + self._count)]

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """A block that waits for workers: it ends when one of them does, and signals to stop are answered after it.

        In place of PyTorch's own handler, which raises wherever the training process is at that moment.
        """

        def require(number: int = 0, frame: FrameType | None = None) -> None:
            if found := self._ended():
                raise LoaderError(found)

        caught = [number for number in CHILD_ENDED if signal.getsignal(number) is not None]
        with late_signals(), answered_by(require, caught):
            require()  # one may have ended since the last block
            yield

    def _ended(self) -> str | None:
        """What to say of the first worker that has ended; None while all of them run."""
        code = next((worker.exitcode for worker in self._workers if worker.exitcode is not None), None)
        return None if code is None else f"a loader process has ended ({_how(code)}); {_FEWER}"

    def _wait_for_the_dead(self) -> None:
        """Wait a moment for a worker that is about to have ended: its connections close first."""
        closed = wait([worker.sentinel for worker in self._workers], timeout=1)
        for worker in self._workers:
            if worker.sentinel in closed:
                worker.join(timeout=1)

    def _start(self) -> DataLoader:
        return DataLoader(
            self._samples,  # type: ignore[arg-type]
            batch_sampler=self._keys,  # type: ignore[arg-type]
            num_workers=self._count,
            collate_fn=pack if self._count else _as_it_is,  # type: ignore[arg-type]
            persistent_workers=self._count > 0,
            # Not elsewhere: it takes memory of the GPU, which a run on the CPU leaves alone.
            pin_memory=self._device.type == "cuda",
            worker_init_fn=_start_worker,
            # Its own generator: otherwise each epoch would draw from PyTorch's global one.
            generator=torch.Generator(),
        )


_FEWER = "fewer of them (data.workers=N) and smaller batches take less memory; data.workers=0 does without"


def _why(error: OSError) -> str:
    """Why a process could not be started; what processes wait with for each other lies in shared memory."""
    room = shared_memory() if error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES) else None
    where = f" (shared memory, {PLACE}: {room.total / 1e6:,.1f} MB, {room.free / 1e6:,.1f} MB free)" if room else ""
    return (error.strerror or one_line(error)) + where


def _how(code: int) -> str:
    """How a process ended, by its exit code."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"{name}, as when the system runs out of memory" if name == "SIGKILL" else name


def _as_it_is(batch: Unfinished | Failure) -> Unfinished | Failure:
    return batch


def _start_worker(worker: int) -> None:
    leave_signals_to_parent()  # which ends the workers after its last batch
    torch.set_num_threads(1)
