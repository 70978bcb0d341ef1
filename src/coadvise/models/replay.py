"""Frozen networks recorded as CUDA graphs: their kernels are started by one call, where starting them takes the time.

A small network on small images needs less time for its kernels than Python needs to start them. A recording starts them
all at once, from a fixed input and to a fixed output. It is kept only if it answers other images rightly, and faster.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..system.clock import seconds_of, synchronize
from .deviation import deviation

Run = Callable[[Tensor], Tensor]
# Below this share of the time the device is what is waited for, and a recording would only cost memory.
_STARTING = 0.7
# A recording is kept where it takes at most this share of the time.
_WORTH = 0.95


class Replay:
    """A recording of `run` for tensors like `x`, on its device; `run` has run before.

    Raises:
        RuntimeError: something in it cannot be recorded.
    """

    def __init__(self, run: Run, x: Tensor) -> None:
        self._x, self._graph = x.clone(), torch.cuda.CUDAGraph()
        # A recording that fails leaves its own stream in use: the outer one is taken again, whatever happens.
        with torch.cuda.device(x.device), torch.cuda.stream(torch.cuda.current_stream(x.device)):
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            # Libraries make their workspaces for a stream at its first use. And what waits for the device cannot be
            # recorded: it fails here, since a recording that is broken off leaves the allocator in its middle.
            with torch.cuda.stream(beside), _waiting_fails():
                run(self._x)
            torch.cuda.current_stream().wait_stream(beside)
            # Weights that autocast has converted must not outlive the recording, nor be older than it.
            torch.clear_autocast_cache()
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._out = run(self._x)
            torch.clear_autocast_cache()

    def __call__(self, x: Tensor) -> Tensor:
        self._x.copy_(x)
        self._graph.replay()
        return self._out.clone()  # the next call writes to the same place


@contextmanager
def _waiting_fails() -> Iterator[None]:
    """Raise RuntimeError where the host would wait for the device."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a mode that does not know all that waits
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def recorded(run: Run, x: Tensor, limit: float, record: Callable[[Run, Tensor], Run] = Replay) -> Run | None:
    """A recording of a frozen network that answers as it does, to `limit`, and faster; None where there is none.

    Args:
        run: images → logits.
        x: images (b, c, h, w); others, of the same shape, are tried, too.
    """
    if not _waits_for_starts(run, x):
        return None
    try:
        replay = record(run, x)
        for images in (x, torch.empty_like(x).copy_(x.flip(-1)), x):
            expected = run(images)
            if not deviation(replay(images), expected) <= limit:
                return None
        seconds = seconds_of(lambda: replay(x), x.device)
        return replay if seconds < _WORTH * seconds_of(lambda: run(x), x.device) else None
    except RuntimeError:  # what cannot be recorded runs as it is
        synchronize(x.device)
        return None


def _waits_for_starts(run: Run, x: Tensor) -> bool:
    """Whether the time goes into starting kernels."""
    synchronize(x.device)
    start = time.perf_counter()
    run(x)
    started = time.perf_counter() - start
    synchronize(x.device)
    return started > _STARTING * (time.perf_counter() - start)
