"""Processes that train together: those that did not join, what one of them decides, and those left alone."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import accelerate
import psutil
import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import PartialState
from accelerate.utils import InitProcessGroupKwargs
from helpers import processes
from helpers.recipes import tiny

from coadvise.errors import RunError
from coadvise.recipe.reading import dump_recipe
from coadvise.recipe.schema import Optim, Run
from coadvise.run.folder import RunFolder
from coadvise.training import processes as module
from coadvise.training.processes import Stop, bare, start_processes, steps_between


def test_world_size_that_was_not_joined(tmp_path: Path) -> None:
    """Under `WORLD_SIZE=2` with one process only, Accelerate would train alone without a word."""
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(tiny(tmp_path / "run")))
    environment = {"WORLD_SIZE": "2", "RANK": None, "MASTER_ADDR": None}
    done = processes.run("coadvise", "train", str(path), environment=environment)
    assert done.returncode == 2 and "WORLD_SIZE is 2" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("count", ["0", "two", "²", ""])
def test_what_is_no_number_of_processes_is_refused(monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", count)
    with pytest.raises(RunError, match="no number of processes; unset it"):
        start_processes(Run(device="cpu"), Optim())


ASK = """
import sys
from pathlib import Path
from accelerate import Accelerator
from helpers.recipes import tiny
from coadvise.run.folder import RunFolder
from coadvise.training.processes import on_main_process
with on_main_process(Accelerator(cpu=True), RunFolder(Path(sys.argv[1])).owned(tiny(Path(sys.argv[1])), False)) as held:
    print(held)
"""


def test_what_the_main_process_is_refused_all_are_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert [one.stdout for one in processes.run_together("-c", ASK, str(folder.path))] == ["True\n", "None\n"]
    with folder.owned(tiny(folder.path), resume=False):
        done = processes.run_together("-c", ASK, str(folder.path))
    assert all(one.returncode and "RunError" in one.stderr and "is being trained by" in one.stderr for one in done)


LAUNCHER = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]])
print(child.pid, flush=True)
child.wait()
"""
ORPHAN = """
import sys, time
from pathlib import Path
from coadvise.system.interrupts import StopRequest, stop_without_parent
with StopRequest() as stop:
    for _ in range(2):
        stop_without_parent(0.5)
    Path(sys.argv[1]).touch()
    while not stop.wanted:
        time.sleep(0.01)
    Path(sys.argv[1]).write_text("saved")
    if sys.argv[2] == "waits for ever":
        time.sleep(600)
"""


@pytest.mark.parametrize("then", [pytest.param("ends", marks=pytest.mark.slow), "waits for ever"])
def test_a_process_whose_launcher_was_killed_saves_and_ends(tmp_path: Path, then: str) -> None:
    """Even where it waits for another one, which is gone, in a library that answers no signal."""
    path = tmp_path / "saved"
    words = [sys.executable, "-c", LAUNCHER, ORPHAN, str(path), then]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        orphan = psutil.Process(int(launcher.stdout.readline()))
        while not path.exists():
            time.sleep(0.02)
        assert orphan.is_running() and not path.read_text()
        launcher.kill()
    orphan.wait(20)
    assert path.read_text() == "saved"


def test_a_step_does_not_search_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Accelerate's optimizer does, for a package that few have; with a loss that is scaled it is needed."""
    start_processes(Run(device="cpu"), Optim())
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    weight.grad = torch.ones(2)
    prepared = AcceleratedOptimizer(optimizer)
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: pytest.fail("searches"))
    bare(prepared).step()
    assert weight.tolist() == [0, 0]
    scaled = AcceleratedOptimizer(optimizer, scaler=torch.amp.GradScaler("cpu"))
    assert bare(scaled) is scaled


def test_processes_wait_for_one_that_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten minutes, what PyTorch waits on GPUs, are less than a data set takes."""
    given: list[InitProcessGroupKwargs] = []

    def made(**options: object) -> accelerate.Accelerator:
        given.extend(options["kwargs_handlers"])  # type: ignore[arg-type]
        return accelerate.Accelerator(**options)

    monkeypatch.setattr(module, "Accelerator", made)
    start_processes(Run(device="cpu"), Optim())
    assert [one.timeout.total_seconds() >= 3600 for one in given if one.timeout] == [True]


def test_a_second_run_may_want_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    start_processes(Run(device="cpu"), Optim())
    monkeypatch.setitem(PartialState._shared_state, "device", torch.device("cuda", 0))
    assert start_processes(Run(device="cpu"), Optim()).device.type == "cpu"


@pytest.mark.parametrize("way", ["FSDP", "DEEPSPEED"])
def test_another_way_to_share_a_model_is_refused(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """It may stand in the configuration that `accelerate launch` reads, and would fail after the first epoch."""
    monkeypatch.setenv(f"ACCELERATE_USE_{way}", "true")
    with pytest.raises(RunError, match=f"configured for (?i:{way}).*--multi_gpu"):
        start_processes(Run(device="cpu"), Optim())


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(module, "choose_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(module, "resolve_precision", lambda *_: "fp32")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(RunError, match=r"4 processes were started on a machine with 2 GPUs.*--nproc-per-node 2"):
        start_processes(Run(device="cuda"), Optim())


class Others:
    """An accelerator of two processes, of which the other one takes as long and wants to stop from a step on."""

    num_processes, device = 2, torch.device("cpu")

    def __init__(self, stops: bool = False) -> None:
        self.asked, self.stops = 0, stops

    def reduce(self, mine: torch.Tensor, _: str) -> torch.Tensor:
        self.asked += 1
        return mine + torch.tensor([float(self.stops), float(mine[1])])


@pytest.mark.parametrize(("seconds", "asked"), [(0.01, 10), (1.0, 34), (20.0, 100)])
def test_processes_agree_more_often_where_steps_are_long(
    monkeypatch: pytest.MonkeyPatch, seconds: float, asked: int
) -> None:
    """A launcher waits 30 s after SIGTERM: ten steps of 20 s would be too many."""
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    others = Others()
    stop = Stop(others)  # type: ignore[arg-type]
    for step in range(1, 101):
        clock[0] += seconds
        assert not stop.requested_at(step) and not stop.requested_at(step)
    assert abs(others.asked - asked) <= 1
    others.stops = True
    answers = []
    for step in range(101, 121):
        answers.append((stop.requested_at(step), stop.requested_at(step)))
    assert all(first == second for first, second in answers) and (True, True) in answers[:10]


def test_steps_between_agreements() -> None:
    assert [steps_between(seconds) for seconds in (0.0, 0.1, 0.5, 1.0, 3.0, 60.0)] == [10, 10, 6, 3, 1, 1]
