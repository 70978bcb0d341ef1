"""Caches of advice so small that tests see many blocks and shards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coadvise.advice import layout, profile, writer


def shrink(replace: Callable[[Any, str, int], None] = setattr) -> None:
    """Batches of 7 images, blocks of 14, shards of 1,000 bytes.

    Args:
        replace: sets an attribute of a module: `monkeypatch.setattr` in a test, `setattr` in a process of its own.
    """
    for module in (layout, profile, writer):
        replace(module, "BATCH", 7)
    replace(layout, "BLOCK_BATCHES", 2)
    replace(layout, "SHARD_BYTES", 1000)
