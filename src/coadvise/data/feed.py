"""The loader processes: PyTorch's DataLoader, fed with batches of keys."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader

from ..errors import DataError
from ..recipe.schema import Data
from ..system.interrupts import late_signals
from .samples import PlainSamples, TrainSamples, _Failure
from .views.finish import Unfinished

K = TypeVar("K")


# --- between the process and its workers -----------------------------------------------------------------


class _Sampler(Generic[K]):
    """The batch sampler: keys of the batches to come. It lives in the main process only."""

    def __init__(self) -> None:
        self.batches: Iterable[K] = ()

    def __iter__(self) -> Iterator[K]:
        return iter(self.batches)


class _Feed(Generic[K]):
    """PyTorch's DataLoader, fed with batches of keys; its workers live on from one pass to the next."""

    def __init__(self, samples: TrainSamples | PlainSamples, data: Data) -> None:
        self._samples, self._data = samples, data
        self._keys: _Sampler[K] = _Sampler()
        self._loader: DataLoader | None = None

    def batches(self, keys: Iterable[K]) -> Iterator[Unfinished]:
        """A batch for each batch of keys."""
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
                if isinstance(batch, _Failure):
                    raise DataError(batch.message)
                yield batch
        except (Exception, KeyboardInterrupt):
            # Now, while nothing else refers to the workers: left to the collector of reference cycles (which
            # the traceback makes), PyTorch waits 5 s for each of them.
            batches = None
            self.close()
            raise

    def close(self) -> None:
        self._loader = None

    def _start(self) -> DataLoader:
        workers = self._data.workers
        return DataLoader(
            self._samples,  # type: ignore[arg-type]
            batch_sampler=self._keys,  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_start_worker,
            # Its own generator: otherwise each epoch would draw from PyTorch's global one.
            generator=torch.Generator(),
        )


def _as_it_is(batch: Unfinished | _Failure) -> Unfinished | _Failure:
    return batch


def _start_worker(worker: int) -> None:
    """Ctrl-C reaches the whole process group: only the main process answers it, and then ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # not SIGTERM: it is how Python ends workers that are left over
    torch.set_num_threads(1)
