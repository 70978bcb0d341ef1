"""Early stopping: when it comes, what it leaves, and that a resume and several processes decide alike."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import processes
from helpers.recipes import CNN, tiny, with_weights
from helpers.runs import assert_same_run, interrupted, run

from coadvise.recipe.reading import dump_recipe
from coadvise.recipe.schema import Recipe
from coadvise.run.folder import read_metrics
from coadvise.system.progress import Display
from coadvise.training.train import train

# A learning rate that soon changes nothing: the accuracy stands still.
STILL = {"schedule.epochs": 30, "schedule.patience": 2, "schedule.warmup_epochs": 0, "optim.lr": 1e-9}


def evaluations(folder: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "eval"]


def naive_end(accuracies: list[float], patience: int) -> int | None:
    """Number of evaluations after which a loop that counts bad ones stops."""
    best, bad = -1.0, 0
    for number, value in enumerate(accuracies, 1):
        best, bad = (value, 0) if value > best else (best, bad + 1)
        if bad == patience:
            return number
    return None


@pytest.mark.parametrize(("every", "patience"), [pytest.param(1, 2, marks=pytest.mark.slow), (3, 1)])
def test_it_ends_where_a_counting_loop_ends(tmp_path: Path, every: int, patience: int) -> None:
    changes = {"schedule.epochs": 20, "run.eval_every": every, "optim.lr": 3e-4, "optim.ema": 0.5}
    whole = run(tiny(tmp_path / "whole", changes))
    better = [max(line["metrics"]["accuracy/class"], line["ema"]["accuracy/class"]) for line in
              evaluations(tmp_path / "whole")]  # fmt: skip
    end = naive_end(better, patience)
    assert end is not None and whole.stopped_early is None and whole.epochs == 20
    result = run(tiny(tmp_path / "early", {**changes, "schedule.patience": patience}))
    assert len(evaluations(tmp_path / "early")) == end and result.epochs == end * every < 20
    assert result.steps == end * every * 5 and result.images_seen == result.steps * 20
    assert result.best.value == max(better[:end]) and result.best.epoch == every * (better.index(max(better[:end])) + 1)
    written = json.loads((tmp_path / "early" / "result.json").read_text())
    assert written["stopped_early"] == {"planned": 20, "patience": patience}
    assert "stopped_early" not in json.loads((tmp_path / "whole" / "result.json").read_text())


def test_teachers_take_part_in_the_evaluation_that_is_reported(tmp_path: Path) -> None:
    run(tiny(tmp_path / "teachers", {"schedule.epochs": 1, "schedule.warmup_epochs": 0}, teachers={"conv": CNN}))
    teachers = {"conv": with_weights(tmp_path / "teachers")["conv"]}
    result = run(tiny(tmp_path / "run", STILL, teachers=teachers))
    assert result.epochs == 3 and "teacher/conv" in result.final and "kl/conv|class" in result.final
    assert ["teacher/conv" in line["metrics"] for line in evaluations(tmp_path / "run")] == [False, False, True]


def stopping(folder: Path) -> Recipe:
    return tiny(folder, {**STILL, "optim.ema": 0.9, "run.checkpoint_every": 3})


def test_a_resumed_run_stops_at_the_same_step(tmp_path: Path) -> None:
    """Also one that was cut off between its last evaluation and its result."""
    run(stopping(tmp_path / "a"))
    recipe = stopping(tmp_path / "b")
    interrupted(recipe, 12)
    run(recipe, resume=True)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "result.json").unlink()
    result = run(recipe, resume=True)
    assert result.epochs == 3 and result.stopped_early is not None
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_two_processes_stop_together(tmp_path: Path) -> None:
    recipe = tiny(tmp_path / "run", STILL)
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe))
    done = processes.run_together("coadvise", "train", str(tmp_path / "r.yaml"), "--quiet")
    assert all(one.returncode == 0 for one in done), [one.stderr[-2000:] for one in done]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["epochs"] == 3


def test_it_is_said(tmp_path: Path) -> None:
    class Told(Display):
        def say(self, message: str) -> None:
            said.append(message)

    said: list[str] = []
    train(tiny(tmp_path / "run", STILL), display=Told())
    assert said[-1].startswith("stopped early, after 3 of 30 epochs: 2 evaluations in a row were no better than ")
    assert said[-1].endswith("after epoch 1, whose weights are kept")
