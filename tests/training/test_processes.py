"""Processes that train together: those that did not join, what one of them decides, and those left alone."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from helpers import processes
from helpers.recipes import tiny

from coadvise.errors import RunError
from coadvise.recipe.reading import dump_recipe
from coadvise.recipe.schema import Optim, Run
from coadvise.run.folder import RunFolder
from coadvise.training.processes import bare, start_processes


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


@pytest.mark.parametrize("then", ["ends", "waits for ever"])
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
