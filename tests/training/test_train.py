"""A run from start to end: what it learns, what it writes, and which folders it refuses."""

import shlex
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from helpers.recipes import CNN, INN, tiny
from helpers.runs import QUIET, run, weights
from torch import nn

from coadvise.errors import ModelError, RunError
from coadvise.models.teachers import FrozenTeacher
from coadvise.recipe.reading import dump_recipe, load_recipe
from coadvise.run.folder import read_metrics
from coadvise.system.progress import Display
from coadvise.training.checkpoint import Checkpoint
from coadvise.training.train import train


def test_the_whole_chain(tmp_path: Path) -> None:
    """Two teachers are trained, measured and used; every file is there and says what was done."""
    recipe = tiny(tmp_path / "run", teachers={"conv": CNN, "inv": INN})
    result = run(recipe)
    assert set(result.final) >= {
        "accuracy/class", "accuracy/conv", "accuracy/inv", "accuracy/average", "teacher/conv", "teacher/inv",
        "kl/conv|conv", "kl/conv|inv", "kl_reverse/inv|conv", "kl_reverse/inv|class",
    }  # fmt: skip
    assert result.teachers["inv"].bias == "inv" and result.teachers["conv"].samples == 101
    assert result.steps == 4 * (100 // 20) and result.images_seen == 400
    assert result.data.train == 100 and result.data.val == 101
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "recipe.yaml", "manifest.json", "metrics.jsonl", "last.safetensors", "best.safetensors", "result.json",
        "answers.safetensors", "pictures.json", "attention.json", "teachers",
    }  # fmt: skip
    lines = list(read_metrics(tmp_path / "run" / "metrics.jsonl"))
    train_lines = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in train_lines] == list(range(2, 21, 2))
    for line in train_lines:
        assert line["loss"] == pytest.approx(sum(line["terms"].values()), rel=1e-5)
        assert set(line["terms"]) == {"class", "conv", "inv"}
    assert [line["epoch"] for line in lines if line["kind"] == "eval"] == [1, 2, 3, 4]


def test_the_data_are_told_before_anything_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, however many runs of one command share them."""

    class Told(Display):
        lines: ClassVar[list[str]] = []

        def say(self, message: str) -> None:
            self.lines.append(message)

    def built(*_: object, **__: object) -> None:
        raise RunError("something is built")

    monkeypatch.setattr("coadvise.training.train.new_student", built)
    display = Told()
    for number in range(2):
        with pytest.raises(RunError, match="something is built"):
            train(tiny(tmp_path / f"run{number}"), display=display)
    assert [line.partition(" (")[0] for line in display.lines] == [
        "training: 100 images of 10 classes", "validation: 101 images of 10 classes",
    ]  # fmt: skip


@pytest.mark.parametrize("every", [3, 5, 10])
def test_checkpoints_come_every_so_many_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    """Also where that is a multiple of an epoch's five steps, and no evaluation follows."""
    saved: list[int] = []
    monkeypatch.setattr(Checkpoint, "save", lambda self, state: saved.append(state.count.step))
    run(tiny(tmp_path / "run", {"run.checkpoint_every": every, "run.eval_every": 4}))
    assert saved == sorted({*range(every, 21, every), 20})


def test_ema_is_evaluated_too(tmp_path: Path) -> None:
    result = run(tiny(tmp_path / "run", {"optim.ema": 0.5}))
    assert set(result.ema) == set(result.final)
    state = weights(tmp_path / "run")
    assert not torch.equal(state["ema.head.weight"], state["model.head.weight"])


def test_a_finished_run_is_not_overwritten(tmp_path: Path) -> None:
    recipe = tiny(tmp_path / "run")
    run(recipe)
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    for resume in (False, True):
        with pytest.raises(RunError, match="holds a finished run"):
            run(recipe, resume=resume)
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_finished_run_that_is_to_go_on_for_longer(tmp_path: Path) -> None:
    """The printed command trains on from its weights, in another folder."""
    short = {"schedule.epochs": 2}
    before = run(tiny(tmp_path / "run", short))
    for resume in (False, True):
        with pytest.raises(RunError, match="finished after 2 epochs, and cannot go on to 3: ") as caught:
            run(tiny(tmp_path / "run", {"schedule.epochs": 3}), resume=resume)
    _, name, recipe, *settings = shlex.split(str(caught.value).splitlines()[-1])
    best, output = (f"{tmp_path}/run{end}" for end in ("/best.safetensors", "-more"))
    assert name == "train" and settings[:2] == ["schedule.epochs=1", "schedule.warmup_epochs=0"]
    assert settings[2:] == [f"student.checkpoint={best}", f"run.output={output}"]
    more = load_recipe(recipe, [*settings, "schedule.min_lr=1e-12", "optim.lr=1e-12"])
    after = run(more)
    assert after.final["accuracy/class"] == before.best.value and after.epochs == 1


def test_one_that_began_with_its_heads_or_went_down_in_steps_goes_on_too(tmp_path: Path) -> None:
    steps = {"schedule.name": "step", "schedule.decay_epochs": [2, 2.5]}
    changes = {"schedule.epochs": 3, "schedule.head_epochs": 2, **steps}
    run(tiny(tmp_path / "run", changes))
    with pytest.raises(RunError, match="finished after 3 epochs, and cannot go on to 5: ") as caught:
        run(tiny(tmp_path / "run", {**changes, "schedule.epochs": 5}))
    _, _, recipe, *settings = shlex.split(str(caught.value).splitlines()[-1])
    more = load_recipe(recipe, settings).schedule
    assert (more.epochs, more.head_epochs) == (2, 0)
    assert more.decay_epochs == pytest.approx([2 * 2 / 3, 2.5 * 2 / 3])


def test_a_teacher_is_not_the_student(tmp_path: Path) -> None:
    """What teaches does not learn, be it a part alone that both have."""
    student = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 10))
    for teacher in (student, FrozenTeacher(nn.Sequential(nn.Flatten(), student[1]))):
        with pytest.raises(ModelError, match=r"'old' and the student share weights.*copy\.deepcopy\(model\)"):
            train(tiny(tmp_path / "run"), student=student, teachers={"old": teacher}, display=QUIET)
    with pytest.raises(ModelError, match="nothing to learn: no parameter has requires_grad"):
        train(tiny(tmp_path / "run"), student=student, display=QUIET)
    assert not (tmp_path / "run").exists()


def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing to resume"):
        run(tiny(tmp_path / "none"), resume=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(RunError, match="holds other files"):
        run(tiny(tmp_path / "photos"))
    with pytest.raises(RunError, match="fp16 needs a GPU"):
        run(tiny(tmp_path / "run", {"run.precision": "fp16"}))
    with pytest.raises(ModelError, match="BatchNorm"):
        run(tiny(tmp_path / "run", {"student.model": "cit_tiny_sa", "optim.batch_size": 1}))
    with pytest.raises(ModelError, match="no advised tokens"):
        run(tiny(tmp_path / "run", student={"model": "resnet10", "tokens": {"conv": "conv"}}))


def test_killed_between_the_first_two_files_of_a_run(tmp_path: Path) -> None:
    """The folder is still the run's own; one with somebody else's manifest is not."""
    run(tiny(tmp_path / "whole", teachers={}))
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "manifest.json").write_bytes((tmp_path / "whole" / "manifest.json").read_bytes())
    assert run(tiny(tmp_path / "cut", teachers={})).steps == 20
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text('{"name": "a web page"}')
    with pytest.raises(RunError, match="holds other files"):
        run(tiny(tmp_path / "other", teachers={}))
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["manifest.json"]


def test_the_advice_of_an_error_can_be_followed(tmp_path: Path) -> None:
    """A start that left no checkpoint does not bind the next one to its settings."""
    changes = {"optim.lr": 1e30, "optim.clip": None, "schedule.warmup_lr": 1e20}
    with pytest.raises(RunError, match=r"lower optim\.lr"):
        run(tiny(tmp_path / "run", changes))
    run(tiny(tmp_path / "run"))


def test_a_folder_of_the_user_is_not_taken_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.yaml").write_text("# my notes\n" + dump_recipe(tiny(tmp_path / "mine")))
    with pytest.raises(RunError, match="holds other files"):
        run(tiny(tmp_path / "mine"))
    assert "# my notes" in (tmp_path / "mine" / "recipe.yaml").read_text()
