"""Bounds on how much work something may be, the same on any machine: no stopwatch."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def calls_at_most(limit: int) -> Iterator[None]:
    """Fail once more than `limit` functions have been called in this thread, in Python or out of it."""
    count = 0

    def tick(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")
        if count > limit:
            raise AssertionError(f"more than {limit:,} calls of functions")

    before = sys.getprofile()
    sys.setprofile(tick)
    try:
        yield
    finally:
        sys.setprofile(before)


@contextmanager
def ends() -> Iterator[None]:
    """Fail where the block does not end: a minute and a half is far more than any of them needs on a slow machine."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise AssertionError("does not end")

    assert threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 90)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
