"""`run.compile: auto`: when compiling pays, what is remembered of it, and what a resumed run keeps."""

from __future__ import annotations

import contextlib
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import timm
import torch
from helpers.recipes import tiny
from helpers.runs import run
from torch import Tensor, nn

from coadvise.data.loader import TrainLoader
from coadvise.data.sources.opening import open_sources
from coadvise.losses import Objective
from coadvise.models.compiling import Form, compiled
from coadvise.ops.block import code
from coadvise.run.folder import RunFolder
from coadvise.system.native import compiled as compiled_code
from coadvise.training import choosing
from coadvise.training.choosing import (
    ENOUGH,
    SECONDS,
    SHARE,
    Place,
    Remembered,
    choose,
    expected,
    noted_form,
    remembered,
)
from coadvise.training.setup import Setup
from coadvise.training.trained import Trained, Tried

GPU: Any = SimpleNamespace(
    device=torch.device("cuda"), num_processes=1, is_main_process=True, mixed_precision="bf16", autocast=None
)
BATCH = torch.randn(4, 3, 2, 2), {"conv": torch.randn(4, 5)}, torch.randn(4, 5).softmax(1)


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 5)

    def forward_tokens(self, x: Tensor) -> dict[str, Tensor]:
        return {"class": self.head(x.flatten(1))}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[Form, float]:
    """A machine whose steps take 0.1 s plainly; seconds of the other forms are as the test says. Compiling takes 30."""
    steps: dict[Form, float] = {"plain": 0.1, "whole": 0.04, "graphs": 0.04}
    tried = Trained.try_out

    def measured(self: Trained, *batch: Any) -> Tried:
        tried(self, *batch[:3])
        return Tried(self.form, 30.0, steps[self.form])

    monkeypatch.setattr(Trained, "try_out", measured)
    monkeypatch.setattr(choosing, "_plain_seconds", lambda *_: steps["plain"])
    monkeypatch.setattr(choosing, "lacking", lambda device: "")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)
    monkeypatch.setattr("coadvise.training.trained.compiled", partial(compiled, backend="eager"))
    torch._dynamo.reset()
    return steps


def student() -> Trained:
    return Trained(Flat(), Objective(tokens="single"), ("class",), ("conv",)).train()


def place(steps: int, **other: Any) -> Place:
    return Place(**({"setting": "auto", "noted": None, "steps": steps, "shape": (4, 3, 2, 2), "classes": 5} | other))


def test_it_compiles_where_the_steps_that_are_left_win_more_than_it_takes(
    gpu: dict[Form, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said: list[str] = []
    enough = int(SECONDS / (0.1 * (1 - SHARE))) + 1
    assert expected(0.1, None) == (SECONDS, pytest.approx(0.035))
    assert choose(student(), ("conv",), GPU, place(enough - 2), said.append) == "plain" and not said
    trained = student()
    assert choose(trained, ("conv",), GPU, place(enough), said.append) == "whole"
    assert said == ["compiling student and loss as one: about 60 s before the first step"]
    trained(*BATCH)
    trained(*BATCH)
    (path,) = (tmp_path / "coadvise").glob("compiling-*.json")
    assert remembered(path) == Remembered(0.1, 0.04, 30.0)
    # What took 30 s and won 0.06 s a step: again it takes less.
    assert expected(0.1, remembered(path)) == (pytest.approx(12.0), pytest.approx(0.06))
    assert choose(student(), ("conv",), GPU, place(199), said.append) == "plain"
    again = student()
    assert choose(again, ("conv",), GPU, place(201), said.append) == "whole"
    assert said[1:] == ["compiling student and loss as one again: about 12 s before the first step"]
    again(*BATCH)
    assert remembered(path) == Remembered(0.1, 0.04, 30.0, 30.0)
    assert choose(student(), ("conv",), GPU, place(632, live=1), said.append) == "plain"
    assert choose(student(), ("conv",), GPU, place(635, live=1), said.append) == "whole"
    assert said[2:] == ["compiling student and loss as one, and the teachers again: about 38 s before the first step"]
    # Another batch is another matter; and so is a file that says nothing.
    assert choose(student(), ("conv",), GPU, place(201, shape=(8, 3, 2, 2)), said.append) == "plain"
    path.write_text('{"plain": 0.1, "whole": "fast"}')
    assert remembered(path) is None


@pytest.mark.parametrize(
    ("steps", "whole", "graphs", "form"),
    [
        (10**6, 0.02, 0.019, "graphs"),
        (10**6, 0.02, 0.0199, "whole"),
        (999, 0.02, 0.019, "whole"),
        (10**6, 0.04, 0.019, "whole"),  # so long that launches hardly matter: not tried
    ],
)
def test_cuda_graphs_are_taken_where_they_are_faster(
    gpu: dict[Form, float],
    steps: int,
    whole: float,
    graphs: float,
    form: Form,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    gpu["whole"], gpu["graphs"] = whole, graphs
    trained = student()
    choose(trained, ("conv",), GPU, place(steps, graphs=True, setting=True), lambda words: None)
    first, second = trained(*BATCH), trained(*BATCH)
    assert trained.form == form and torch.equal(first.values, second.values)
    assert not list(tmp_path.rglob("compiling-*.json")), "what a step takes plainly was not measured"


def test_too_little_memory_for_cuda_graphs_ends_no_run(
    gpu: dict[Form, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever they are given up for, their memory is free before the next step."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    gpu["whole"], gpu["graphs"], freed = 0.02, 0.0199, list[bool]()
    monkeypatch.setattr("coadvise.system.recordings.Recordings.free", lambda self: freed.append(True))
    measured = Trained.try_out

    def full(self: Trained, *batch: Any) -> Tried:
        if self.form == "graphs":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return measured(self, *batch)

    for tried in (measured, full):
        monkeypatch.setattr(Trained, "try_out", tried)
        trained = student()
        choose(trained, ("conv",), GPU, place(10**6, graphs=True, setting=True), lambda words: None)
        trained(*BATCH).total.backward()
        assert trained.form == "whole" and freed.pop() and not freed

    def broken(self: Trained, *batch: Any) -> Tried:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Trained, "try_out", broken)
    choose(trained := student(), ("conv",), GPU, place(10**6, graphs=True, setting=True), lambda words: None)
    with pytest.raises(RuntimeError, match="a bug"):
        trained(*BATCH)


def test_a_run_that_is_done_leaves_the_memory_of_its_cuda_graphs_to_the_next(
    gpu: dict[Form, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a teacher's to its student, in one process."""
    freed, trained = list[bool](), student()
    monkeypatch.setattr("coadvise.system.recordings.Recordings.free", lambda self: freed.append(True))
    for form in ("graphs", "whole"):
        trained.use(form)
        freed.clear()
        setup: Any = mock.MagicMock(trained=trained)
        Setup.__exit__(setup, None)
        setup.accelerator.free_memory.assert_called_once_with()
        assert len(freed) == (form == "graphs")


def test_what_brings_nothing_is_given_up(
    gpu: dict[Form, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    gpu["whole"], said = 0.11, list[str]()
    trained = student()
    choose(trained, ("conv",), GPU, place(10**6), said.append)
    trained(*BATCH)
    assert trained.form == "plain"
    assert said[1:] == ["compiled, a step takes 1.10 times as long: student and loss run as they are"]
    # It is remembered, so that the next run does not even try.
    assert choose(student(), ("conv",), GPU, place(10**6), said.append) == "plain" and len(said) == 2
    # Nor does a resume of this one, whose manifest keeps what was chosen before the first batch.
    assert choose(student(), ("conv",), GPU, place(10**6, noted="whole"), said.append) == "plain" and len(said) == 2


def test_the_plain_step_is_timed_on_images_that_lie_as_a_batch_does(tmp_path: Path) -> None:
    """Convolutions take another time where channels come first in memory, as they never do in training."""
    recipe, seen = tiny(tmp_path), list[Tensor]()
    batch = next(TrainLoader(open_sources(recipe.data)[0], recipe.data, 4).epoch(0))

    class Seeing(Flat):
        def forward_tokens(self, x: Tensor) -> dict[str, Tensor]:
            seen.append(x)
            return super().forward_tokens(x[..., :2, :2])

    cpu: Any = SimpleNamespace(device=torch.device("cpu"), autocast=contextlib.nullcontext)
    trained = Trained(Seeing(), Objective(tokens="single"), ("class",), ("conv",)).train()
    assert choosing._plain_seconds(trained, ("conv",), cpu, place(1, shape=tuple(batch.images.shape))) > 0
    assert len(seen) == 1 + choosing.TRIES
    assert {x.stride() for x in seen} == {batch.images.stride()} != {batch.images.contiguous().stride()}


def test_processes_decide_by_what_the_first_of_them_expects(
    gpu: dict[Form, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sent: list[list[float]] = []
    monkeypatch.setattr(choosing, "broadcast_object_list", lambda values: sent.append(values) or [1e9, 0.01])
    two: Any = SimpleNamespace(**vars(GPU) | {"num_processes": 2})
    assert choose(student(), ("conv",), two, place(10**6, live=1), pytest.fail) == "plain"
    assert sent == [[SECONDS + choosing.TEACHER_SECONDS, pytest.approx(0.1 * (1 - SHARE))]]


def test_the_cpu_and_false_leave_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu: Any = SimpleNamespace(device=torch.device("cpu"))
    assert choose(student(), (), cpu, place(10**9), pytest.fail) == "plain"
    assert choose(student(), (), GPU, place(10**9, setting=False), pytest.fail) == "plain"
    said: list[str] = []
    monkeypatch.setattr("coadvise.models.compiling.shutil.which", lambda name: None)
    assert choose(student(), (), GPU, place(10**9), said.append) == "plain"
    assert said == ["the student is not compiled: there is no C compiler; install one, or set run.compile=false"]


@pytest.mark.slow
def test_a_resumed_run_keeps_its_form(tmp_path: Path, gpu: dict[Form, float]) -> None:
    folder = RunFolder(tmp_path / "run")
    run(tiny(folder.path, {"run.compile": True, "schedule.epochs": 2}))
    assert json.loads((folder.path / "manifest.json").read_text())["compiled"] == "whole"
    assert noted_form(folder) == "whole" and noted_form(RunFolder(tmp_path / "nowhere")) is None
    folder.last.unlink()  # a start that saved nothing is no earlier start
    assert noted_form(folder) is None
    assert choose(student(), (), GPU, place(1, noted="whole"), lambda words: None) == "whole"
    assert choose(student(), (), GPU, place(10**9, noted="plain"), pytest.fail) == "plain"


def test_long_runs_on_the_cpu_take_each_block_as_one_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    if code() is None:
        pytest.skip("no C++ compiler, or a PyTorch without sgemm")
    cpu: Any = SimpleNamespace(device=torch.device("cpu"), num_processes=1, mixed_precision="no")
    small = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 5}

    def form(where: Any = cpu, options: Any = small, **other: Any) -> Form:
        one = timm.create_model("cit_tiny", **options)
        trained = Trained(one, Objective(), ("class", "conv", "inv"), ("conv", "inv")).train()
        chosen = choose(trained, (), where, place(other.pop("steps", ENOUGH // 4), **other), pytest.fail)
        assert one.fused_blocks == (chosen == "fused")
        return chosen

    assert form() == "fused" and form(steps=ENOUGH // 4 - 1) == "plain"
    assert form(noted="fused", steps=1) == "fused"  # as the run was begun
    assert form(noted="plain") == "plain" and form(resumed=True) == "plain" and form(setting=False) == "plain"
    for pays in (True, False):  # where there are matrix units
        monkeypatch.setattr("coadvise.training.choosing.bf16_pays", lambda pays=pays: pays)
        bf16 = SimpleNamespace(**vars(cpu) | {"mixed_precision": "bf16"})
        assert form(bf16) == ("fused" if pays else "plain") and form(bf16, noted="fused") == "fused"
    assert form(SimpleNamespace(**vars(cpu) | {"device": torch.device("mps")})) == "plain"
    monkeypatch.setattr("coadvise.training.choosing.bf16_pays", lambda: pytest.fail("a short run compiles nothing"))
    assert form(bf16, steps=ENOUGH // 4 - 1) == "plain"
    assert form(options=small | {"drop_path_rate": 0.1}) == "fused"  # its first block drops nothing
    assert form(options=small | {"embed_dim": 24}) == "plain"
    monkeypatch.setenv("COADVISE_COMPILED", "0")
    code.cache_clear()
    compiled_code.cache_clear()
    try:
        assert form() == "plain"
    finally:
        code.cache_clear()
        compiled_code.cache_clear()
