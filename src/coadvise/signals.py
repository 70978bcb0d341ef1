"""Ctrl-C and SIGTERM at moments when they do no harm."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def late_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM are answered after the block, by whoever answered them before; a second one at once.

    Made for what talks to other processes: an exception raised amid it can leave a lock taken that this process then
    waits for when it ends, or give a process that starts half of what it reads.
    """
    before: dict[int, Callable[[int, FrameType | None], object]] = {}
    arrived: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number in arrived:
            before[number](number, frame)
        else:
            arrived.append(number)

    if threading.current_thread() is threading.main_thread():
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = handler
                signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in arrived:
            before[number](number, None)
