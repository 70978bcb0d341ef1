"""Bounds on how much work something may be, for tests on machines of any speed."""

import faulthandler
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class TooMuch(BaseException):
    """No `Exception`, which what is tested might take for bad input."""


@contextmanager
def calls_at_most(limit: int) -> Iterator[None]:
    """Fail once more than `limit` functions have been called in this thread, in Python or out of it."""
    count = 0

    def tick(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")
        if count > limit:
            raise TooMuch(f"more than {limit:,} calls of functions")

    before = sys.getprofile()
    sys.setprofile(tick)
    try:
        yield
    finally:
        sys.setprofile(before)
        if count > limit and not isinstance(sys.exception(), TooMuch):
            raise TooMuch(f"more than {limit:,} calls of functions, and the failure was caught")


@contextmanager
def ends(seconds: float = 90.0) -> Iterator[None]:
    """End the process of this test where the block does not end, also in C.

    By the clock, but after a minute and a half, far more than any of them takes on a slow machine. Not inside itself.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
