"""A run that cannot go on says in one message what happened, and how to go on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import processes
from helpers.recipes import CNN, tiny
from helpers.runs import interrupted, run
from safetensors import SafetensorError
from torch import nn

from coadvise.checkpoints import writing
from coadvise.checkpoints.build import build_student
from coadvise.errors import Interrupted, LoaderError, RunError, WriteError
from coadvise.recipe.reading import dump_recipe
from coadvise.run.folder import RunFolder
from coadvise.training import caching
from coadvise.training import train as training
from coadvise.training.failures import explained

BEGIN = RunFolder.begin


def full_disk(folder: RunFolder) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    folder.metrics = Path("/dev/full")


def gone(folder: RunFolder) -> None:
    shutil.rmtree(folder.path)


def no_tensorboard(folder: RunFolder) -> None:
    (folder.path / "tensorboard").touch()


def no_result(folder: RunFolder) -> None:
    (folder.path / "result.json" / "in the way").mkdir(parents=True)


@pytest.mark.parametrize(
    ("happens", "file", "reason"),
    [
        (full_disk, "/dev/full", "No space left on device"),
        (gone, "metrics.jsonl", "No such file or directory"),
        (no_tensorboard, "tensorboard of .*run", "File exists|Not a directory"),
        (no_result, "result.json", "Is a directory"),
    ],
)
def test_a_file_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, happens: Callable[[RunFolder], None], file: str, reason: str
) -> None:
    monkeypatch.setattr(RunFolder, "begin", lambda self, *facts: (BEGIN(self, *facts), happens(self)))
    with pytest.raises(WriteError, match=f"cannot write to .*{file}: ({reason}); once that is mended, ") as caught:
        run(tiny(tmp_path / "run", {"run.tensorboard": happens is no_tensorboard}))
    way = str(caught.value).partition("; once that is mended, ")[2]
    if happens is gone:
        assert way == "use the same command again"
    elif happens is no_result:
        assert way.startswith("go on from the last checkpoint with:\n  coadvise train ") and way.endswith(" --resume")
    else:
        assert way.startswith("start again (no checkpoint is there yet) with:\n  coadvise train ")


def test_a_checkpoint_for_which_there_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(tiny(tmp_path / "run"), 7)
    before = (tmp_path / "run" / "last.safetensors").read_bytes()

    def refuse(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(writing, "save_file", refuse)
    with pytest.raises(WriteError, match=r"No space left on device.*; once that is mended, go on from the last"):
        run(tiny(tmp_path / "run"), resume=True)
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before
    assert not [name for name in os.listdir(tmp_path / "run") if name.endswith(".tmp")]


def test_a_teachers_failure_names_the_command_of_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunFolder, "begin", lambda self, *facts: (BEGIN(self, *facts), full_disk(self)))
    with pytest.raises(WriteError, match=r"; once that is mended, use the same command again$"):
        run(tiny(tmp_path / "run", teachers={"conv": CNN}))


def test_an_interruption_at_once_says_what_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "load_teachers", stop)
        with pytest.raises(Interrupted, match=r"^stopped without saving; use the same command again$"):
            run(tiny(tmp_path / "run"))
    interrupted(tiny(tmp_path / "run"), 7)
    monkeypatch.setattr(training, "train_epoch", stop)
    with pytest.raises(Interrupted, match=r"^stopped without saving; go on from the last checkpoint with:\n  coadvise"):
        run(tiny(tmp_path / "run"), resume=True)


WITH = "with:\n  torchrun --nproc-per-node 2 -m coadvise train RUN/recipe.yaml run.output=RUN --resume"


@pytest.mark.parametrize(
    ("there", "way"),
    [
        ((), "use the same command again"),
        (("teachers/conv/last.safetensors",), "use the same command again"),
        (("recipe.yaml",), f"start again (no checkpoint is there yet) {WITH}"),
        (("recipe.yaml", "last.safetensors"), f"go on from the last checkpoint {WITH}"),
    ],
)
def test_ended_loader_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: Any, way: str) -> None:
    """Whatever they were working for, the message has one way on, with the launcher of two processes."""
    for name in there:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def lost(*_: object, **__: object) -> None:
        raise LoaderError("a loader process has ended (SIGKILL)")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("accelerate.state.AcceleratorState._shared_state", {})
    monkeypatch.setattr(training, "_train", lost)
    monkeypatch.setattr(caching, "_cache", lost)
    with pytest.raises(LoaderError) as caught:
        run(tiny(tmp_path))
    assert str(caught.value) == f"a loader process has ended (SIGKILL); {way}".replace("RUN", str(tmp_path))
    with pytest.raises(
        LoaderError, match=r"^a loader process has ended .*; everything written so far is kept, the same"
    ):
        caching.cache_advice(tiny(tmp_path))


@pytest.mark.parametrize("error", [RuntimeError("gloo: Connection closed by peer"), RuntimeError("a bug")])
def test_only_the_loss_of_another_process_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    with pytest.raises(RuntimeError), explained(RunFolder(tmp_path)):
        raise error  # there is no other
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("accelerate.state.AcceleratorState._shared_state", {})
    lost = "gloo" in str(error)
    with pytest.raises(RunError if lost else RuntimeError), explained(RunFolder(tmp_path)):
        raise error


NCCL = """NCCL error in: /pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3690, invalid usage (run with \
NCCL_DEBUG=WARN for details), NCCL version 2.27.5
ncclInvalidUsage: This usually reflects invalid usage of NCCL library.
Last error:
Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 50000"""


def test_processes_that_cannot_meet_are_not_called_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what NCCL gives as the cause, at the end of its message, is there."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("accelerate.state.AcceleratorState._shared_state", {})
    with pytest.raises(RunError) as caught, explained(RunFolder(tmp_path)):
        raise torch.distributed.DistBackendError(NCCL)
    cause = "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 50000"
    assert str(caught.value).startswith(f"the processes of this run cannot work together ({cause}); ")
    assert "killed" not in str(caught.value)


@pytest.mark.parametrize(
    ("room", "words"), [(6, "; 5 would fit: optim.accumulate=4 makes the same updates ("), (0, "; give a smaller")]
)
def test_too_little_memory_for_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, words: str) -> None:
    """Twenty images at once: ten do not fit either, five do. What is tried lies in memory as a batch does."""
    layouts = set()

    def refuse(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if torch.is_grad_enabled():
            layouts.add(inputs[0].stride())
        if torch.is_grad_enabled() and len(inputs[0]) > room:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 GB")

    def built(*args: Any, **options: Any) -> nn.Module:
        student = build_student(*args, **options)
        next(student.children()).register_forward_pre_hook(refuse)
        return student

    monkeypatch.setattr("coadvise.training.student.build_student", built)
    with pytest.raises(RunError, match=r"^out of memory with 20 images at once") as caught:
        run(tiny(tmp_path / "run"))
    assert words in str(caught.value) and "DefaultCPUAllocator" in str(caught.value)
    assert len(layouts) == 1


KILLED = """
import os, signal, sys, torch
from coadvise.cli.main import main
real, steps, killed = torch.optim.AdamW.step, [], sys.argv.pop(1)
def step(self, *args, **options):
    steps.append(1)
    if len(steps) == 4 and os.environ["RANK"] == killed:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *args, **options)
torch.optim.AdamW.step = step
main()
"""


@pytest.mark.parametrize("killed", ["0", "1"])
def test_the_others_of_a_killed_process_say_how_to_go_on(tmp_path: Path, killed: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(tiny(tmp_path / "run", {"run.checkpoint_every": 2})))
    done = processes.run_together("-c", KILLED, killed, "train", str(path), "--quiet")
    assert done[int(killed)].returncode == -9
    other = done[1 - int(killed)]
    assert other.returncode == 2 and "Traceback" not in other.stderr, other.stderr
    said = "another process of this run has ended; if it has given no message it was killed"
    assert said in other.stderr and "torchrun --nproc-per-node 2 -m coadvise train" in other.stderr
    assert "killed, perhaps for want of memory; go on from the last checkpoint with:" in other.stderr
    assert "gloo" not in other.stderr and "peer" not in other.stderr, other.stderr  # words of the library below


FULL = """
import os, torch
from coadvise.cli.main import main
from coadvise.training.trained import Trained
real, steps = Trained.forward, []
def refuse(_):
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 GB")
def forward(self, x, *others):
    steps.append(1)
    if len(steps) == 3 and os.environ["RANK"] == "1":  # in the middle of the third backward pass
        middle = list(self.student.parameters())[2]
        middle.register_hook(lambda grad: refuse(grad) if len(x) > 5 else None)
    return real(self, x, *others)
Trained.forward = forward
main()
"""


def test_a_process_without_memory_says_so_while_the_others_wait_for_it(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(tiny(tmp_path / "run")))
    waits, full = processes.run_together("-c", FULL, "train", str(path), "--quiet")
    assert waits.returncode == full.returncode == 2 and "Traceback" not in waits.stderr + full.stderr
    assert "error: out of memory with 10 images at once; " in full.stderr, full.stderr
    assert "error: another process of this run has ended" in waits.stderr, waits.stderr
