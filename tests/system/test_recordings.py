"""Memory of CUDA graphs that compiled code has recorded: PyTorch's own keeper of them, with stand-ins for graphs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._inductor import cudagraph_trees

from coadvise.system.recordings import Recordings


class Graphs:
    """What a device has recorded."""

    ended = False

    def shutdown(self) -> None:
        self.ended = True


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Record on one of two GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(cudagraph_trees, "_set_cached_tensors_enabled", lambda enabled: None)

    def record(gpu: int) -> Graphs:
        container: Any = cudagraph_trees.get_container(gpu)
        container.tree_manager = Graphs()
        return container.tree_manager

    yield record
    cudagraph_trees.reset_cudagraph_trees()


def test_what_was_recorded_since_is_freed(record: Any) -> None:
    recordings = Recordings()
    for _ in range(2):
        graphs = record(1)
        recordings.free()
        assert graphs.ended
    recordings.free()  # there is nothing


def test_recordings_of_others_stay(record: Any) -> None:
    """Their code may be called again."""
    theirs = record(1)
    recordings = Recordings()
    ours = record(0)
    recordings.free()
    assert not theirs.ended and not ours.ended


def test_threads_without_recordings(record: Any) -> None:
    record(0)
    freed = list[bool]()
    thread = threading.Thread(target=lambda: freed.append(Recordings().free() is None))
    thread.start()
    thread.join()
    assert freed == [True]
