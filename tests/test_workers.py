"""Processes that save and stop with the one that started them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from coadvise.workers import supervised, worker_pool


def slow_to_save(folder: Path, name: str) -> None:
    (folder / f"{name} begun").touch()
    try:
        time.sleep(60)
    finally:
        time.sleep(1)
        (folder / f"{name} saved").touch()


def test_everything_is_saved_before_the_block_is_left_and_nothing_more_is_begun(tmp_path: Path) -> None:
    with pytest.raises(KeyError), worker_pool(1) as pool:
        futures = [pool.submit(supervised, slow_to_save, tmp_path, name) for name in "abcd"]
        while not (tmp_path / "a begun").exists():
            time.sleep(0.05)
        raise KeyError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a begun", "a saved"]
    assert futures[0].result() is False
    assert all(future.cancelled() or future.result() is False for future in futures[1:])
