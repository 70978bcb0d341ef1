"""Batches made ahead of their use: while a step runs on a GPU, the next batch is copied there and finished.

That happens on a stream beside the one of the step. The step's stream waits for the end of the copy, and the memory of
a batch is given back when the step is done with it; the host waits for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, cuda

from .views.finish import Batch, Unfinished


def stream_beside(device: torch.device) -> cuda.Stream | None:
    """A stream for batches on a GPU, None elsewhere. Memory once used on a stream is used again on that one alone."""
    return cuda.Stream(device) if device.type == "cuda" else None


def made_ahead(
    batches: Iterator[Unfinished],
    finish: Callable[[Unfinished], Batch],
    device: torch.device,
    side: cuda.Stream | None,
) -> Iterator[Batch]:
    """Each batch, finished; on a GPU the next one is under way by then.

    An error in making a batch comes when it is its turn, not a batch before.

    Args:
        side: of `stream_beside`, the same one in all epochs; None: each batch is made when it is asked for.
    """
    if side is None:
        yield from map(finish, batches)
        return
    waiting = None
    first = True
    while True:
        error, made = None, None
        try:
            batch = next(batches, None)
            if batch is not None:
                if first:  # a set that stays on the device was just copied there
                    side.wait_stream(cuda.current_stream(device))
                    first = False
                with cuda.stream(side):
                    made = finish(batch), side.record_event()
        except Exception as found:
            error = found
        if waiting is not None:
            yield _taken(*waiting, device)
        if error is not None:
            raise error
        if made is None:
            return
        waiting = made


def _taken(batch: Batch, done: cuda.Event, device: torch.device) -> Batch:
    """A batch for the stream in use, which waits until it is done."""
    stream = cuda.current_stream(device)
    stream.wait_event(done)
    for value in batch:
        if isinstance(value, Tensor) and value.device.type == "cuda":
            value.record_stream(stream)
    return batch
