"""Loader processes that die, cannot be started, or have no shared memory: the same batches, or one message in time."""

from __future__ import annotations

import errno
import gc
import os
import resource
import signal
import time
from multiprocessing.synchronize import SemLock
from typing import Any

import numpy as np
import pytest
import torch
from helpers.work import ends
from PIL import Image

from coadvise.data import parcel
from coadvise.data.feed import Feed
from coadvise.data.loader import EvalLoader, TrainLoader
from coadvise.data.samples import Failure, PlainSamples
from coadvise.data.views.finish import Unfinished
from coadvise.errors import LoaderError
from coadvise.recipe.schema import Data
from coadvise.system.shared_memory import Room, shared_memory

KEYS = [[0, 1, 2], [3, 4], [5], [6, 7, 8], [9, 0], [1, 5]] * 2


class Pictures:
    """Images in memory.

    Args:
        limit: size in bytes above which a loader process may write no file, nor shared memory.
    """

    class_names = ("a", "b")

    def __init__(self, limit: int | None = None) -> None:
        self.images = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)
        self.labels = np.arange(10) % 2
        self.limit, self.main = limit, os.getpid()

    def __len__(self) -> int:
        return 10

    def read(self, index: int) -> Image.Image:
        if self.limit is not None and os.getpid() != self.main:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, resource.RLIM_INFINITY))
        return Image.fromarray(self.images[index])

    def describe(self, index: int) -> str:
        return f"picture {index}"


def feed(workers: int, source: Any = None) -> Feed[list[int]]:
    data = Data(source="digits", image_size=64, eval_crop=1.0, workers=workers)
    return Feed(PlainSamples(source or Pictures(), data), workers, torch.device("cpu"))


def pixels(batches: list[Unfinished]) -> list[np.ndarray]:
    return [batch.pixels.numpy().copy() for batch in batches]


@pytest.mark.parametrize("limit", [None, 1000])
def test_batches_arrive_with_and_without_shared_memory(limit: int | None) -> None:
    """The system refuses more than 1,000 bytes to the loader processes, as a full /dev/shm does."""
    source = Pictures(limit)
    one = feed(2, source)
    got = list(one.batches(KEYS))
    one.close()
    for batch, keys in zip(got, KEYS, strict=True):
        assert np.array_equal(batch.pixels.numpy(), source.images[keys])
        assert batch.index.tolist() == keys and batch.skipped == ()
        assert batch.views[:, 0].tolist() == [index % 2 for index in keys]
    if limit is not None:  # the very refusal
        with pytest.raises(RuntimeError, match="File too large"):
            _share_under(limit)


def _share_under(limit: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        torch.zeros(10_000, dtype=torch.uint8).share_memory_()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("room", "shared"), [(None, True), (Room(10**9, 10**9), True), (Room(64_000, 40_000), False)])
def test_half_of_the_shared_memory_stays_free(monkeypatch: pytest.MonkeyPatch, room: Room | None, shared: bool) -> None:
    monkeypatch.setattr(parcel, "shared_memory", lambda: room)
    batch = Unfinished(
        torch.full((1, 64, 64, 3), 7, dtype=torch.uint8), torch.ones(1, 9), torch.ones(1, 6), torch.tensor([5]), ("x",)
    )
    packed = parcel.pack(batch)
    assert (len(packed.content) < 64 * 64 * 3) == shared
    opened = packed.unpack()
    assert isinstance(opened, Unfinished) and opened.skipped == ("x",)
    assert all(torch.equal(a, b) for a, b in zip(opened[:4], batch[:4], strict=True))
    assert parcel.pack(Failure("no image")).unpack() == Failure("no image")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch waits very long for processes that have ended, where it is left to it, in place of 5 s for each."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 1000.0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS])
def test_a_dead_loader_process_ends_the_pass_with_one_message(number: int, patient: None) -> None:
    one = feed(2)
    batches = one.batches(KEYS * 1000)
    next(batches)
    os.kill(one._workers[1].pid, number)  # type: ignore[arg-type]
    time.sleep(0.3)  # while the training process computes, nothing is raised there
    name = signal.Signals(number).name
    with ends(), pytest.raises(LoaderError, match=rf"^a loader process has ended \({name}.*data\.workers=0") as caught:
        list(batches)
    assert caught.value.__cause__ is None
    again = list(one.batches(KEYS))  # the next pass starts new ones
    one.close()
    assert all(map(np.array_equal, pixels(again), pixels(list(feed(0).batches(KEYS)))))


def test_one_that_dies_while_it_is_waited_for(patient: None) -> None:
    class Slow(Pictures):
        def read(self, index: int) -> Image.Image:
            if index == 6:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().read(index)

    with ends(), pytest.raises(LoaderError, match="SIGKILL, as when the system runs out of memory"):
        list(feed(1, Slow()).batches(KEYS))


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # what PyTorch would print
def test_processes_that_cannot_be_started() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = set(os.listdir("/proc/self/fd"))
    first_free = next(number for number in range(len(taken) + 1) if str(number) not in taken)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first_free + 1, before[1]))
    try:
        with pytest.raises(LoaderError, match=r"cannot be started: Too many open files; .*data\.workers=0"):
            list(feed(2).batches(KEYS))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # what PyTorch would print
def test_locks_that_cannot_be_made_are_one_message(monkeypatch) -> None:
    """The system refuses one lock more than PyTorch's iterator has made after its first queue."""
    make, made = SemLock.__init__, []

    def limited(lock: SemLock, *arguments: Any, **options: Any) -> None:
        made.append(lock)
        if len(made) > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        make(lock, *arguments, **options)

    monkeypatch.setattr(SemLock, "__init__", limited)
    with pytest.raises(LoaderError, match=r"cannot be started: No space left on device.*data\.workers=0"):
        list(feed(2).batches(KEYS))
    gc.collect()


def test_the_size_of_the_shared_memory(tmp_path) -> None:
    room, found = shared_memory(tmp_path), os.statvfs(tmp_path)
    assert room is not None and room.total == found.f_blocks * found.f_frsize and 0 < room.free <= room.total
    assert shared_memory(tmp_path / "nowhere") is None


def test_a_gpu_that_is_not_used_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory from which a GPU copies takes some of the GPU's own, which may be full."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    data = Data(source="digits", image_size=64, workers=0)
    for loader in (TrainLoader(Pictures(), data, 4), EvalLoader(Pictures(), data, 4)):
        assert not loader._feed._start().pin_memory
    assert Feed(PlainSamples(Pictures(), data), 0, torch.device("cuda"))._start().pin_memory
