"""`schedule.time`: the epochs that fit, and that the run is then the one of so many epochs, resumed or not."""

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.recipes import CNN, tiny
from helpers.runs import assert_same_run, interrupted, run
from torch import nn

from coadvise.data.sources.opening import open_sources
from coadvise.errors import RecipeError, RunError
from coadvise.models.teachers import FrozenTeacher
from coadvise.recipe.reading import dump_recipe, load_recipe, recipe_from
from coadvise.recipe.schedule import seconds_in
from coadvise.recipe.schema import Recipe
from coadvise.run.fitted import Fitted
from coadvise.run.folder import RunFolder
from coadvise.system.progress import Display
from coadvise.training import fitting, trial
from coadvise.training.caching import cache_advice
from coadvise.training.headroom import Asking, measure_headroom
from coadvise.training.processes import start_processes
from coadvise.training.student import new_student
from coadvise.training.train import train
from coadvise.training.trial import Pace


def timed(folder: Path, time: str, changes: dict[str, Any] | None = None, **parts: Any) -> Recipe:
    return tiny(folder, {"schedule.time": time, "schedule.epochs": None, "optim.ema": 0.9, **(changes or {})}, **parts)


class Told(Display):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def known_pace(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An epoch of a student takes 2 s, one of a teacher 1 s; all else 3 s. The names of what was measured."""
    measured: list[str] = []

    def measure(recipe: Recipe, *_: Any) -> Pace:
        measured.append(recipe.student.model)
        return Pace(1.0, 1.0 if recipe.student.model == "resnet10" else 2.0, 2.0)

    monkeypatch.setattr(fitting, "measure_pace", measure)
    monkeypatch.setattr(fitting, "time", SimpleNamespace(monotonic=lambda: 0.0))
    return measured


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90m", 5400), ("600s", 600), ("1h30m", 5400), ("1.5h", 5400), ("1h 5s", 3605)]
)
def test_times_as_people_write_them(text: str, seconds: float) -> None:
    assert seconds_in(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "2 hours", "h", "-1h", "0s", "30m1h", "nan", "1e3s"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="is no time; write for example 2h"):
        seconds_in(text)


def test_time_and_epochs_exclude_each_other(tmp_path: Path) -> None:
    content = {"name": "mine", "data": {"source": "digits"}, "schedule": {"epochs": 3, "time": "2h"}}
    with pytest.raises(RecipeError, match=r"1 problem in recipe: schedule: time 2h and epochs 3 exclude each other"):
        recipe_from(content)
    with pytest.raises(RecipeError, match=r"schedule.time: '2' is no time; write for example 2h, 90m"):
        recipe_from(content | {"schedule": {"time": 2}})
    # On the command line either takes the place of the other in the file.
    assert load_recipe("digits", ["schedule.time=90m"]).schedule.time == "90m"
    (tmp_path / "timed.yaml").write_text(dump_recipe(timed(tmp_path, "2h")))
    assert load_recipe(tmp_path / "timed.yaml").schedule.time == "2h"
    schedule = load_recipe(tmp_path / "timed.yaml", ["schedule.epochs=7"]).schedule
    assert schedule.time is None and schedule.epochs == 7
    with pytest.raises(RecipeError, match="of the command line: schedule: time 2h and epochs 3 exclude"):
        load_recipe("digits", ["schedule.epochs=3", "schedule.time=2h"])


def test_as_many_epochs_as_fit(tmp_path: Path, known_pace: list[str]) -> None:
    """14 s: 3 s beside the epochs leave 5 of 2 s. The run is that of 5 epochs, bit for bit."""
    display = Told()
    result = train(timed(tmp_path / "a", "14s"), display=display)
    plain = run(tiny(tmp_path / "plain", {"schedule.epochs": 5, "optim.ema": 0.9}))
    assert result.epochs == 5 and result.fingerprint == plain.fingerprint
    assert_same_run(tmp_path / "plain", tmp_path / "a")
    assert "2 s an epoch: 5 epochs in 14s" in display.lines


def test_the_training_of_teachers_counts(tmp_path: Path, known_pace: list[str]) -> None:
    """One with 9 epochs of its own takes 12 s of 44, one without as many epochs as the student."""
    display = Told()

    def fit(train: dict[str, Any]) -> int:
        recipe = timed(tmp_path / "run", "44s", teachers={"conv": {**CNN, "train": train}})
        accelerator, sources = start_processes(recipe.run, recipe.optim), open_sources(recipe.data)
        return fitting.fit_epochs(recipe, RunFolder.of(recipe), sources, accelerator, None, {}, display).epochs

    assert fit({"epochs": 9}) == 14 and known_pace == ["resnet10", "cit_tiny"]
    assert display.lines[-1] == "2 s an epoch: 14 epochs in 44s, after 12 s for teacher conv"
    assert fit({}) == 12
    words = (
        "schedule.time 44s: not one epoch fits; a run of one takes 2 min here, of which its teachers take 2 min first"
    )
    with pytest.raises(RecipeError, match=words):
        fit({"epochs": 100})


def test_the_student_on_labels_alone_counts(tmp_path: Path, known_pace: list[str]) -> None:
    """Of 26 s both take 3 s beside the epochs and the teacher 4 s; an epoch of 2 s costs twice as much."""
    later = {"conv": {**CNN, "train": {"epochs": 1}}}
    recipe = timed(tmp_path / "run", "26s", {"run.baselines": "labels"}, teachers=later)
    accelerator, sources = start_processes(recipe.run, recipe.optim), open_sources(recipe.data)
    display = Told()
    found = fitting.fit_epochs(recipe, RunFolder.of(recipe), sources, accelerator, None, {}, display)
    assert found.epochs == 4 and known_pace == ["resnet10", "cit_tiny", "cit_tiny"]
    said = "2 s an epoch: 4 epochs in 26s, after 4 s for teacher conv, before 11 s on labels alone; the warm-up is 0.8"
    assert display.lines[-1].startswith(said)


def test_a_long_warm_up_is_shortened(tmp_path: Path, known_pace: list[str]) -> None:
    display = Told()
    train(timed(tmp_path / "run", "10s", {"schedule.warmup_epochs": 5}), display=display)
    assert "2 s an epoch: 3 epochs in 10s; the warm-up is 0.6 epochs in place of 5" in display.lines
    schedule = load_recipe(tmp_path / "run" / "recipe.yaml").schedule
    assert (schedule.epochs, schedule.time, schedule.warmup_epochs) == (3, None, pytest.approx(0.6))


def test_teachers_of_a_cache_are_those_of_the_training(tmp_path: Path, known_pace: list[str]) -> None:
    """Of 25 s the three take 9 s beside their epochs, the second teacher's two 2 s, all others 3 s each.

    Another start, as after Ctrl-C while the second was trained, goes on with these, and so does the training.
    """
    teachers = {"conv": CNN | {"train": {}}, "twice": CNN | {"train": {"epochs": 2, "seed": 1}}}
    changes = {"data.views": 2, "advice.folder": str(tmp_path / "cache")}
    recipe = timed(tmp_path / "a", "25s", changes, teachers=teachers)
    folder, count = cache_advice(recipe, display=Told())
    assert folder == tmp_path / "cache" and count > 0 and known_pace == ["resnet10", "resnet10", "cit_tiny"]
    known_pace.clear()
    places = [tmp_path / "a" / "teachers" / name for name in teachers]
    schedules = [load_recipe(place / "recipe.yaml").schedule for place in places]
    assert [(one.epochs, one.time) for one in schedules] == [(4, None), (2, None)]
    first = (places[0] / "best.safetensors").read_bytes()
    for gone in (folder, places[1]):
        shutil.rmtree(gone)
    cache_advice(recipe, display=Told())
    assert known_pace == [] and (places[0] / "best.safetensors").read_bytes() == first
    assert run(recipe).epochs == 4 and known_pace == []
    elsewhere = timed(
        tmp_path / "b", "1s", changes, teachers=teachers
    )  # less than an epoch, and nothing is to be trained
    for verify in (True, False):
        cache_advice(elsewhere, verify=verify, display=Told())
    assert known_pace == [] and not (tmp_path / "b" / "recipe.yaml").exists()
    assert load_recipe(places[1] / "recipe.yaml").schedule == schedules[1]


def test_teachers_that_headroom_trains_are_those_of_the_training(tmp_path: Path, known_pace: list[str]) -> None:
    teachers = {"conv": CNN | {"train": {}}, "twice": CNN | {"train": {"epochs": 2, "seed": 1}}}
    recipe = timed(tmp_path / "run", "25s", teachers=teachers)
    measure_headroom(recipe, Asking(images=20, views=1, resamples=20, train=True), Told())
    known_pace.clear()
    assert run(recipe).epochs == 4 and known_pace == []


def test_files_of_others_stay_when_teachers_are_trained_for_a_cache(tmp_path: Path, known_pace: list[str]) -> None:
    (tmp_path / "run").mkdir()
    for name in ("recipe.yaml", "metrics.jsonl"):
        (tmp_path / "run" / name).write_text("mine")
    changes = {"data.views": 2, "advice.folder": str(tmp_path / "cache")}
    with pytest.raises(RunError, match="holds other files"):
        cache_advice(timed(tmp_path / "run", "25s", changes, teachers={"conv": CNN}), display=Told())
    assert known_pace == []
    assert {path.name: path.read_text() for path in (tmp_path / "run").iterdir() if path.is_file()} == {
        "recipe.yaml": "mine", "metrics.jsonl": "mine",
    }  # fmt: skip


def test_a_short_run_on_a_cpu_is_measured_as_it_will_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a CiT are fused there in runs of many images alone, which takes less time for each."""
    recipe = timed(tmp_path / "run", "21s", {"run.device": "cpu"})
    pace = {False: 2.0, "auto": 1.0}
    monkeypatch.setattr(fitting, "measure_pace", lambda one, *_: Pace(1.0, pace[one.run.compile], 2.0))
    monkeypatch.setattr(fitting, "time", SimpleNamespace(monotonic=lambda: 0.0))
    accelerator, sources = start_processes(recipe.run, recipe.optim), open_sources(recipe.data)
    arguments = (recipe, RunFolder.of(recipe), sources, accelerator, None, {}, Told())
    assert fitting.fit_epochs(*arguments).epochs == 9
    monkeypatch.setattr(fitting, "ENOUGH", 900)  # 9 epochs of 100 images
    assert fitting.fit_epochs(*arguments).epochs == 18
    pace[False] = 100.0  # an epoch of it would not fit, and is not what will run
    monkeypatch.setattr(fitting, "ENOUGH", 100)
    assert fitting.fit_epochs(*arguments).epochs == 18


@pytest.mark.slow
def test_a_resume_measures_no_more(tmp_path: Path, known_pace: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run(timed(tmp_path / "a", "24s"))
    recipe = timed(tmp_path / "b", "24s")
    interrupted(recipe, 7)
    noted = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert noted["fitted"] == {"time": "24s", "epochs": 10, "warmup_epochs": 1.0, "epoch_seconds": 2.0}
    known_pace.clear()
    with pytest.raises(RunError, match=r"was fitted to 24s \(10 epochs\), not to 50s; use schedule.time=24s"):
        run(timed(tmp_path / "b", "50s"), resume=True)
    with pytest.raises(RunError, match=r"another recipe \(optim.lr 0.001 → 0.002\)"):
        run(timed(tmp_path / "b", "24s", {"optim.lr": 2e-3}), resume=True)
    interrupted_again = load_recipe(tmp_path / "b" / "recipe.yaml", [f"run.output={tmp_path / 'b'}"])
    assert interrupted_again.schedule.epochs == 10
    run(recipe, resume=True)
    assert known_pace == [] and json.loads((tmp_path / "b" / "manifest.json").read_text()) == noted
    assert_same_run(tmp_path / "a", tmp_path / "b")
    with pytest.raises(RunError, match="holds a finished run"):
        run(recipe)


def test_a_run_that_was_not_fitted_is_not_resumed_as_one(tmp_path: Path) -> None:
    interrupted(tiny(tmp_path / "run", {"optim.ema": 0.9}), 7)
    with pytest.raises(RunError, match=r"a run of 4 epochs that was not fitted to a time; in place of schedule.time"):
        run(timed(tmp_path / "run", "1h"), resume=True)


class Slow(nn.Module):
    """A teacher that takes 50 ms for a batch."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return torch.zeros(len(images), 10)


def test_the_pace_is_that_of_real_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """5 steps an epoch of two micro-batches; 101 validation images are 3 batches, seen by the teacher twice."""
    monkeypatch.setattr(trial, "SECONDS", 0.1)
    recipe = tiny(tmp_path / "run", {"optim.accumulate": 2, "optim.ema": 0.9})
    accelerator, sources = start_processes(recipe.run, recipe.optim), open_sources(recipe.data)
    student = new_student(recipe, 10, 1, None, ("slow",))
    slow = {"slow": FrozenTeacher(Slow())}
    single = recipe.model_copy(update={"loss": recipe.loss.model_copy(update={"tokens": "single"})})
    pace = trial.measure_pace(single, sources, accelerator, student, slow, 60.0)
    step = 2 * 0.05
    assert pace.start >= step and pace.epoch >= 5 * step and pace.teachers >= 2 * 3 * 0.04
    assert pace.epoch < 20 * 5 * step  # of a student that needs next to nothing
    assert pace.of(10) == pytest.approx(pace.start + 10 * pace.epoch + pace.teachers)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_measuring_changes_nothing_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Teachers, generators and Accelerate's counters are as if no step had been on trial."""
    monkeypatch.setattr(trial, "SECONDS", 0.1)
    two = Fitted("1h", 2, 0.4, 1.0)
    monkeypatch.setattr(fitting, "_fitted", lambda *_: two)
    parts: dict[str, Any] = {"teachers": {"conv": {**CNN, "train": {}}}}
    run(timed(tmp_path / "a", "1h", {"optim.accumulate": 2}, **parts))
    changes = {"schedule.epochs": 2, "schedule.warmup_epochs": 0.4, "optim.accumulate": 2, "optim.ema": 0.9}
    run(tiny(tmp_path / "plain", changes, **parts))
    assert_same_run(tmp_path / "plain", tmp_path / "a")
    assert_same_run(tmp_path / "plain" / "teachers" / "conv", tmp_path / "a" / "teachers" / "conv")
