"""The loader processes: PyTorch's DataLoader, fed with batches of keys."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader

from ..errors import DataError
from ..system.interrupts import late_signals
from .samples import Failure, Samples
from .views.finish import Unfinished

K = TypeVar("K")


class _Sampler(Generic[K]):
    """The batch sampler: keys of the batches to come. It lives in the main process only."""

    def __init__(self) -> None:
        self.batches: Iterable[K] = ()

    def __iter__(self) -> Iterator[K]:
        return iter(self.batches)


class Feed(Generic[K]):
    """PyTorch's DataLoader, fed with batches of keys; its workers live on from one pass to the next."""

    def __init__(self, samples: Samples[K], workers: int) -> None:
        self._samples, self._workers = samples, workers
        self._keys: _Sampler[K] = _Sampler()
        self._loader: DataLoader | None = None

    def batches(self, keys: Iterable[K]) -> Iterator[Unfinished]:
        """A batch for each batch of keys.

        Raises:
            DataError: an image is unreadable and `data.on_error` is `raise`.
        """
        self._keys.batches = keys
        if self._loader is None:
            self._loader = self._start()
        try:
            with late_signals():
                batches = iter(self._loader)
            while True:
                with late_signals():
                    batch = next(batches, None)
                if batch is None:
                    return
                if isinstance(batch, Failure):
                    raise DataError(batch.message)
                yield batch
        except (Exception, KeyboardInterrupt):
            # Now, while nothing else refers to the workers: left to the collector of reference cycles (which
            # the traceback makes), PyTorch waits 5 s for each of them.
            batches = None
            self.close()
            raise

    def close(self) -> None:
        """End the workers; the next pass starts new ones."""
        self._loader = None

    def _start(self) -> DataLoader:
        return DataLoader(
            self._samples,  # type: ignore[arg-type]
            batch_sampler=self._keys,  # type: ignore[arg-type]
            num_workers=self._workers,
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            persistent_workers=self._workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_start_worker,
            # Its own generator: otherwise each epoch would draw from PyTorch's global one.
            generator=torch.Generator(),
        )


def _as_it_is(batch: Unfinished | Failure) -> Unfinished | Failure:
    return batch


def _start_worker(worker: int) -> None:
    """Ctrl-C reaches the whole process group: only the main process answers it, and then ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # not SIGTERM: it is how Python ends workers that are left over
    torch.set_num_threads(1)
