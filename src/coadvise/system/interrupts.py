"""Ctrl-C and SIGTERM at moments when they do no harm."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType


@contextmanager
def late_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM are answered after the block, by whoever answered them before; a second one at once.

    Made for what talks to other processes: an exception raised amid it can leave a lock taken that this process then
    waits for when it ends, or give a process that starts half of what it reads.
    """
    before: dict[int, Callable[[int, FrameType | None], object]] = {}
    arrived: list[int] = []
    over = False

    def note(number: int, frame: FrameType | None) -> None:
        if over:
            before[number](number, frame)
        elif number in arrived:
            arrived.remove(number)
            for _ in range(2):  # a handler that counts must have seen the first one, too
                before[number](number, frame)
        else:
            arrived.append(number)

    try:
        if threading.current_thread() is threading.main_thread():
            for number in (int(signal.SIGINT), int(signal.SIGTERM)):
                handler = signal.getsignal(number)
                if callable(handler):
                    before[number] = handler
                    signal.signal(number, note)
        yield
    finally:
        over = True
        with ExitStack() as late:  # all of it, whatever raises
            for number in arrived:
                late.callback(before[number], number, None)
            for number, handler in before.items():
                late.callback(signal.signal, number, handler)
