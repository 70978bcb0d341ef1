"""Importing large packages."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """In the block Python does not search for garbage, and never again among what is there at its end.

    PyTorch and timm make half a million objects, of which hardly any is garbage: searching them again and again is a
    fifth of the time that importing them takes. For a process that ends with its command.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        keep()
        if enabled:
            gc.enable()


def keep() -> None:
    """Never search among the objects that there are now until the process ends: then all is searched as ever.

    Otherwise Triton's bindings complain at the end of what was not collected.
    """
    if not gc.get_freeze_count():
        atexit.register(gc.unfreeze)
    gc.freeze()
