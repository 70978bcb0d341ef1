"""The next batch is under way while a step runs: in which order streams are told what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from coadvise.data import ahead as module
from coadvise.data.ahead import made_ahead, stream_beside
from coadvise.data.loader import TrainLoader
from coadvise.data.sources.opening import open_sources
from coadvise.data.views.finish import Batch
from coadvise.errors import DataError
from coadvise.recipe.schema import Augmentation, Data

GPU = SimpleNamespace(type="cuda")


class Stream:
    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name, self.events = log, name, 0

    def wait_stream(self, other: Stream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")

    def record_event(self) -> int:
        self.events += 1
        self.log.append(f"{self.name} event {self.events}")
        return self.events

    def wait_event(self, event: int) -> None:
        self.log.append(f"{self.name} waits for event {event}")


class OnDevice(torch.Tensor):
    """A tensor that says it lies on a GPU."""

    log: list[str]
    device = GPU

    def record_stream(self, stream: Stream) -> None:
        self.log.append(f"kept for {stream.name}")


def streams(monkeypatch) -> tuple[list[str], list[str]]:
    """What streams are told from now on, the making of one included, and the stream in use as the last of a list."""
    log: list[str] = []
    now = ["main"]
    main = Stream(log, "main")

    def new(device: object) -> Stream:
        log.append("a new stream")
        return Stream(log, "side")

    @contextmanager
    def stream(other: Stream):
        now.append(other.name)
        yield
        now.pop()

    fake = SimpleNamespace(Stream=new, current_stream=lambda device: main, stream=stream)
    monkeypatch.setattr(module, "cuda", fake)
    return log, now


def on_device(log: list[str]) -> torch.Tensor:
    tensor = torch.zeros(1).as_subclass(OnDevice)
    tensor.log = log
    return tensor


def run(monkeypatch, fail_at: int | None = None) -> tuple[list[str], Iterator[Batch]]:
    log, now = streams(monkeypatch)

    def batches():
        for number in range(3):
            if number == fail_at:
                raise DataError("unreadable")
            log.append(f"read {number} on {now[-1]}")
            yield number

    def finish(number: int) -> Batch:
        log.append(f"finish {number} on {now[-1]}")
        tensor = on_device(log)
        return Batch(tensor, tensor, tensor, torch.tensor([number]), (), 0, np.zeros(1))

    return log, made_ahead(batches(), finish, GPU, stream_beside(GPU))


def test_the_next_batch_is_made_before_a_step_begins(monkeypatch):
    log, made = run(monkeypatch)
    for number, batch in enumerate(made):
        assert batch.index.tolist() == [number]
        log.append(f"step {number}")
    taken = lambda number: [f"main waits for event {number + 1}", *["kept for main"] * 3, f"step {number}"]
    making = lambda number: [f"finish {number} on side", f"side event {number + 1}"]
    assert log == [
        "a new stream", "read 0 on main", "side waits for main", *making(0), "read 1 on main", *making(1), *taken(0),
        "read 2 on main", *making(2), *taken(1), *taken(2),
    ]  # fmt: skip


def test_an_error_comes_in_its_turn(monkeypatch):
    log, made = run(monkeypatch, fail_at=2)
    with pytest.raises(DataError, match="unreadable"):
        for number, _ in enumerate(made):
            log.append(f"step {number}")
    assert [entry for entry in log if entry.startswith("step")] == ["step 0", "step 1"]


def test_on_the_cpu_batches_are_made_when_they_are_asked_for():
    asked: list[int] = []
    cpu = torch.device("cpu")
    made = made_ahead(iter([1, 2, 3]), lambda number: asked.append(number) or number, cpu, stream_beside(cpu))
    assert next(made) == 1 and asked == [1]


def test_one_stream_for_all_epochs(monkeypatch):
    """Memory that was freed on one stream is not used on another: each new one would take as much again."""
    data = Data(source="digits", image_size=16, workers=0, train_size=40)
    loader = TrainLoader(open_sources(data)[0], data, 20, keep=False)
    log, _ = streams(monkeypatch)
    loader.device = GPU
    loader._finish = lambda batch: Batch(*[on_device(log)] * 3, batch.index, (), 0, np.zeros(1))
    for epoch in range(3):
        assert len(list(loader.epoch(epoch))) == 2
    assert log.count("a new stream") == 1 and log.count("side waits for main") == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu_the_same_batches():
    data = Data(source="digits", image_size=16, workers=0, augment=Augmentation(policy="light", erasing=0.5))
    source = open_sources(data)[0]
    plain = TrainLoader(source, data, 64).epoch(0)
    for one, other in zip(TrainLoader(source, data, 64, device="cuda").epoch(0), plain, strict=True):
        torch.cuda._sleep(1_000_000)  # a step that is still running when the next batch is made
        for a, b in zip(one[:3], other[:3], strict=True):
            assert torch.allclose(a.cpu().float(), b.float(), atol=1e-5)
