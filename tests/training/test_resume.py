"""A resumed run is the uninterrupted one, bit for bit."""

import os
import signal
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from helpers import processes
from helpers.recipes import CNN, tiny
from helpers.runs import assert_same_run, interrupted, photographs, run
from torch import nn

from coadvise.checkpoints.build import build_student
from coadvise.errors import CheckpointError, Interrupted, RunError
from coadvise.recipe.reading import dump_recipe
from coadvise.run.folder import read_metrics
from coadvise.training.checkpoint import Checkpoint

FULL = {"optim.ema": 0.9, "student.options.proj_drop_rate": 0.1, "run.checkpoint_every": 3}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of the recipe FULL that nothing interrupted."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(tiny(folder / "run", FULL))
    return folder / "run"


@pytest.mark.parametrize("step", [1, 4, 5, 7, 13])
def test_resume_after_ctrl_c_equals_uninterrupted(uninterrupted: Path, tmp_path: Path, step: int) -> None:
    """In the middle of an epoch (5 steps), at its end, and between log lines."""
    recipe = tiny(tmp_path / "b", FULL)
    interrupted(recipe, step)
    assert not (tmp_path / "b" / "result.json").exists()
    run(recipe, resume=True)
    assert_same_run(uninterrupted, tmp_path / "b")


def test_resume_after_sigkill_equals_uninterrupted(tmp_path: Path) -> None:
    """A real process is killed at several moments, each time resumed, until it finishes."""
    changes = {**FULL, "schedule.epochs": 12}
    teachers = {"conv": CNN}
    run(tiny(tmp_path / "a", changes, teachers=teachers))
    recipe = tiny(tmp_path / "b", changes, teachers=teachers)
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    killed = 0
    for after_lines in (1, 9, 17, None):
        last = tmp_path / "b" / "last.safetensors"
        started = processes.start("coadvise", "train", str(path), "--quiet", *(["--resume"] if last.exists() else []))
        while started.process.is_alive():
            lines = sum(1 for _ in read_metrics(tmp_path / "b" / "metrics.jsonl"))
            if after_lines is not None and lines >= after_lines and last.exists():
                started.process.kill()
                killed += 1
                break
            time.sleep(0.002)
        done = started.wait()
    assert killed == 3 and done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_a_channels_last_student_resumes_alike(tmp_path: Path) -> None:
    """Its weights and moments lie alike in memory again, which is what the fused AdamW walks through."""
    changes = {"student": {key: CNN[key] for key in ("model", "options", "small_stem")}}
    build, real, states = build_student, Checkpoint.restore, []
    noted = lambda self, state, steps: (real(self, state, steps), states.append(state))
    last = lambda *args, **options: build(*args, **options).to(memory_format=torch.channels_last)
    with (
        mock.patch("helpers.runs.build_student", last),
        mock.patch("coadvise.training.student.build_student", last),
        mock.patch.object(Checkpoint, "restore", noted),
    ):
        run(tiny(tmp_path / "a", **changes))
        recipe = tiny(tmp_path / "b", **changes)
        interrupted(recipe, 7)
        run(recipe, resume=True)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    (state,) = states
    for parameter, moments in state.optimizer.state.items():
        assert {parameter.stride()} == {moments[key].stride() for key in ("exp_avg", "exp_avg_sq")}
        assert parameter.is_contiguous(memory_format=torch.channels_last) or parameter.dim() != 4


def test_views_that_recur_resume_alike(tmp_path: Path) -> None:
    changes = {"data.views": 2, "data.augment.repeats": 3}
    run(tiny(tmp_path / "a", changes))
    recipe = tiny(tmp_path / "b", changes)
    interrupted(recipe, 12)
    run(recipe, resume=True)
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_an_unfinished_run_is_continued_on_request_only(tmp_path: Path) -> None:
    recipe = tiny(tmp_path / "run")
    interrupted(recipe, 7)
    with pytest.raises(RunError, match="go on with --resume"):
        run(recipe)
    with pytest.raises(RunError, match=r"another recipe \(optim.lr 0.001 → 0.002\)"):
        run(tiny(tmp_path / "run", {"optim.lr": 2e-3}), resume=True)
    with pytest.raises(RunError, match=r"optim\.batch_size 20 → 10"):
        run(tiny(tmp_path / "run", {"optim.batch_size": 10}), resume=True)
    run(tiny(tmp_path / "run", {"run.log_every": 4, "data.workers": 1}), resume=True)


def test_images_that_were_moved_need_a_link(tmp_path: Path) -> None:
    """It is what the refusal says, and it does."""
    photographs(tmp_path / "old", 8)
    changes = {"data.source": str(tmp_path / "old"), "data.train_size": None, "data.val_size": None}
    interrupted(tiny(tmp_path / "run", changes), 3)
    (tmp_path / "old").rename(tmp_path / "new")
    moved = changes | {"data.source": str(tmp_path / "new")}
    with pytest.raises(RunError, match=r"same settings \(data that only moved need a link at the old place\), or"):
        run(tiny(tmp_path / "run", moved), resume=True)
    with pytest.raises(RunError, match="use the same settings, or"):
        run(tiny(tmp_path / "run", moved | {"optim.lr": 2e-3}), resume=True)
    (tmp_path / "old").symlink_to(tmp_path / "new")
    run(tiny(tmp_path / "run", changes), resume=True)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    recipe = tiny(tmp_path / "run")
    interrupted(recipe, 7)
    last = tmp_path / "run" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"last\.safetensors cannot be read"):
        run(recipe, resume=True)


def test_other_data_or_teachers_are_not_resumed(tmp_path: Path) -> None:
    photos = Path(photographs(tmp_path / "photos", 30))
    changes = {"data.source": str(photos), "data.train_size": None, "data.val_size": None}
    recipe = tiny(tmp_path / "run", changes)
    seen = 0

    def hook(module: nn.Module, inputs: Any) -> None:
        nonlocal seen
        seen += module.training
        if module.training and seen == 6:
            os.kill(os.getpid(), signal.SIGINT)

    from coadvise.checkpoints.build import build_student

    torch.manual_seed(0)
    student = build_student(recipe.student, recipe.tokens(), 3, recipe.data.image_size)
    student.patch_embed.register_forward_pre_hook(hook)
    with pytest.raises(Interrupted):
        run(recipe, student=student)
    (photos / "train" / "dark" / "000.png").unlink()
    with pytest.raises(RunError, match="training labels changed"):
        run(recipe, resume=True)
