"""A target that does everything wrong in turn, to see that the engine notices."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path
from random import Random

from coadvise.errors import DataError

from .engine import SEED, BrokenPromise, Kind, Target

WAYS: tuple[tuple[str, Kind], ...] = (
    ("fine", "read"),
    ("refuses", "refused"),
    ("does not say where", "unnamed"),
    ("raises", "other error"),
    ("leaves", "other error"),
    ("asks for much", "memory"),
    ("asks for much and hides it", "memory"),
    ("loops", "slow"),
    ("loops in native code", "slow"),
    ("waits", "slow"),
    ("crashes", "died"),
    ("is killed", "died"),
    ("lies", "broken promise"),
    ("fine", "read"),
)  # fmt: skip
SECONDS, WAITING, MEMORY = 0.4, 1.5, 256 << 20
"""Limits that they break."""


def planted(folder: Path) -> Target:
    first = {Random(f"planted {SEED} {number}").random(): way for number, (way, _) in enumerate(WAYS)}
    return Target([{"word": b"fine"}], lambda rng: {"word": first[rng.random()].encode()}, _read)


def _read(place: Path) -> None:
    way = (place / "word").read_text()
    if way == "refuses":
        raise DataError(f"{place / 'word'} is bad; replace it")
    if way == "does not say where":
        raise DataError("it is bad; replace it")
    if way == "raises":
        raise ValueError("bad")
    if way == "leaves":
        sys.exit(0)
    if way == "asks for much":
        bytearray(2 * MEMORY)
    if way == "asks for much and hides it":
        try:
            bytearray(2 * MEMORY)
        except MemoryError as error:
            raise DataError(f"{place / 'word'} is bad; replace it") from error
    if way == "loops":
        while True:
            pass
    if way == "loops in native code":  # no handler of Python's would run
        re.match(r"(a+)+$", "a" * 40 + "b")
    if way == "waits":
        time.sleep(60)
    if way in ("crashes", "is killed"):
        os.kill(os.getpid(), signal.SIGSEGV if way == "crashes" else signal.SIGKILL)
    if way == "lies":
        raise BrokenPromise("not what was written")
