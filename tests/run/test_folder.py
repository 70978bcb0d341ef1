"""A run's folder belongs to one start at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from helpers.recipes import tiny
from helpers.runs import interrupted, run

from coadvise.errors import RunError
from coadvise.run.folder import RunFolder
from coadvise.system import locks
from coadvise.system.files import atomic_file


def own(folder: Path, resume: bool, ready: Connection) -> None:
    """Hold a run, with a child process that lives on when this one is killed."""
    with RunFolder(folder).owned(tiny(folder), resume):
        child = os.fork()
        if not child:
            time.sleep(60)
        ready.send(child)
        time.sleep(60)


def test_a_run_has_one_owner_until_that_is_killed(tmp_path: Path) -> None:
    """Whatever processes it has started: loader processes outlive a killed run by seconds."""
    folder = tmp_path / "run"
    here, there = multiprocessing.Pipe()
    other = multiprocessing.get_context("fork").Process(target=own, args=(folder, False, there))
    other.start()
    child = here.recv()
    try:
        for resume in (False, True):
            with pytest.raises(RunError, match=f"is being trained by process {other.pid} on "):
                run(tiny(folder), resume=resume)
        assert os.listdir(folder) == [".run.lock"]
        other.kill()
        other.join()
        run(tiny(folder, {"schedule.epochs": 1, "schedule.warmup_epochs": 0}))
    finally:
        other.kill()
        os.kill(child, signal.SIGKILL)
    assert RunFolder(folder).finished and ".run.lock" not in os.listdir(folder)


def test_the_owner_looks_at_the_run_again(tmp_path: Path) -> None:
    """Between the first look and this one, another start may have begun or finished it."""
    folder = RunFolder(tmp_path / "run")
    interrupted(tiny(folder.path), 7)
    with pytest.raises(RunError, match="unfinished run"), folder.owned(tiny(folder.path), resume=False):
        pass
    with folder.owned(tiny(folder.path), resume=True) as locked:
        assert locked


def test_what_killed_saves_left_goes_with_the_next_start(tmp_path: Path) -> None:
    """And nothing else: not the half-written page of a `report` that runs just now."""
    with atomic_file(tmp_path / "last.safetensors") as temporary:
        left = [temporary.name, temporary.name.replace("last.safetensors", "metrics.jsonl")]
        others = [temporary.name.replace("last.safetensors", "report.html"), ".last.safetensors.tmp~", ".other.1.2.tmp"]
    (tmp_path / "last.safetensors").unlink()
    for name in (*left, *others):
        (tmp_path / name).touch()
    with RunFolder(tmp_path).owned(tiny(tmp_path), resume=False):
        assert sorted(os.listdir(tmp_path)) == sorted([*others, ".run.lock"])


def test_nothing_is_left_of_a_run_that_did_not_begin(tmp_path: Path) -> None:
    with pytest.raises(KeyError), RunFolder(tmp_path / "new").owned(tiny(tmp_path), resume=False):
        raise KeyError
    (tmp_path / "empty").mkdir()
    with RunFolder(tmp_path / "empty").owned(tiny(tmp_path), resume=False):
        pass
    assert os.listdir(tmp_path) == ["empty"] and os.listdir(tmp_path / "empty") == []


def test_a_file_system_without_locks_trains_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "lockf", refuse)
    with RunFolder(tmp_path / "run").owned(tiny(tmp_path), resume=False) as locked:
        assert locked is False
    monkeypatch.setattr(locks, "fcntl", None)  # Windows
    with RunFolder(tmp_path / "run").owned(tiny(tmp_path), resume=False) as locked:
        assert locked is False


@pytest.mark.parametrize(
    ("machines", "launcher"),
    [(None, "torchrun --nproc-per-node 8 -m "), ("1", "torchrun --nproc-per-node 8 -m "),
     ("2", "torchrun --nnodes 2 --rdzv-backend c10d --rdzv-endpoint HOST:29500 --nproc-per-node 4 -m ")],
)  # fmt: skip
def test_the_command_that_goes_on_starts_as_many_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machines: str | None, launcher: str
) -> None:
    monkeypatch.delenv("GROUP_WORLD_SIZE", raising=False)
    if machines:
        monkeypatch.setenv("GROUP_WORLD_SIZE", machines)
    command = RunFolder(tmp_path).how_to_resume(8).splitlines()[1].strip()
    assert command == f"{launcher}coadvise train {tmp_path}/recipe.yaml run.output={tmp_path} --resume"
