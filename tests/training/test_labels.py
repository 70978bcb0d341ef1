"""The same student on labels alone: that it is the same, and that the difference is counted rightly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.recipes import CNN, tiny
from helpers.runs import QUIET, interrupted, run, weights
from safetensors import safe_open
from scipy import stats
from torch import nn

from coadvise.errors import RecipeError
from coadvise.recipe.labels import labels_recipe
from coadvise.reports.run import run_report
from coadvise.run.result import RunResult
from coadvise.run.standing import verdict_of
from coadvise.training.train import train

SHORT = {"schedule.epochs": 2, "schedule.warmup_epochs": 0, "optim.ema": 0.5}
TOKENS = {"conv": "conv"}


def answers(folder: Path) -> torch.Tensor:
    """Whether each image is named rightly."""
    with safe_open(str(folder / "answers.safetensors"), framework="pt") as file:
        return file.get_tensor("output.class") == file.get_tensor("label")


def test_a_run_says_what_the_advice_added(tmp_path: Path) -> None:
    """Cut off while the second student is trained, too: against a recipe that was written without teachers."""
    asked = {**SHORT, "run.baselines": ["auto", "labels"]}
    recipe = tiny(tmp_path / "run", asked, teachers={"conv": CNN})
    assert recipe.fingerprint() == tiny(tmp_path / "run", SHORT, teachers={"conv": CNN}).fingerprint()
    # After 5 updates of the teacher and 10 of the student, in the third of those without advice.
    interrupted(recipe, step=18)
    plain = tmp_path / "run" / "baselines" / "labels"
    assert (plain / "last.safetensors").is_file() and not (tmp_path / "run" / "result.json").exists()
    found = run(recipe, resume=True)
    run(tiny(tmp_path / "alone", {**SHORT, "student.tokens": TOKENS}))
    one, other = weights(plain), weights(tmp_path / "alone")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    co, alone = answers(tmp_path / "run"), answers(plain)
    assert found.baselines is not None and found.baselines.labels is not None and not found.baselines.probes
    labels = found.baselines.labels
    assert (labels.right, labels.samples) == (int(alone.sum()), 101)
    assert (labels.advised, labels.alone) == (int((co & ~alone).sum()), int((alone & ~co).sum()))
    if changed := labels.advised + labels.alone:
        expected = min(1.0, 2 * stats.binom.cdf(min(labels.advised, labels.alone), changed, 0.5))
        assert labels.p == pytest.approx(expected)
    assert RunResult.read(tmp_path / "run" / "result.json") == found
    said = verdict_of(found, tmp_path / "run")
    assert said is not None and said.others[0].startswith(f"Co-advised {100 * co.float().mean():.1f} %, labels alone")
    assert "trained on labels alone" in run_report(tmp_path / "run").read_text()


def test_a_result_without_it_is_written_as_before(tmp_path: Path) -> None:
    run(tiny(tmp_path / "run", SHORT, teachers={"conv": CNN}))
    assert "labels" not in json.dumps(json.loads((tmp_path / "run" / "result.json").read_text()).get("baselines"))


def test_the_recipe_without_teachers_keeps_everything_else(tmp_path: Path) -> None:
    teachers = {"conv": CNN, "inv": CNN}
    loss = {"weights": {"conv": 2.0}, "temperatures": {"inv": 3.0}, "label_weight": 0.5}
    whole = tiny(tmp_path / "run", {"run.baselines": ["labels"]}, teachers=teachers, loss=loss)
    found = labels_recipe(whole, tmp_path / "x", takes_tokens=True)
    assert found.tokens() == whole.tokens() and found.loss.weights == {"conv": 2.0} and found.loss.label_weight == 0.5
    same = ("data", "optim", "schedule")
    assert all(getattr(found, part) == getattr(whole, part) for part in same) and not found.teachers
    single = {"model": "vit_tiny_patch16_224"}
    one = labels_recipe(tiny(tmp_path / "run", teachers=teachers, student=single), tmp_path / "x", takes_tokens=False)
    assert one.student.tokens is None and not one.adds_tokens
    own = tiny(tmp_path / "run", teachers=teachers, student=single, loss={"tokens": "own"})
    assert labels_recipe(own, tmp_path / "x", takes_tokens=False).tokens() == own.tokens()


def test_warm_up_stays_shorter_than_the_epochs(tmp_path: Path) -> None:
    changes = {"schedule.epochs": 2, "schedule.warmup_epochs": 1.9, "schedule.head_epochs": 1, "data.unlabelled": "x"}
    whole = tiny(tmp_path, changes, teachers={"conv": CNN})
    for shorter in (1.0, 1.2, 1.25, 1.74, 2.5):
        found = labels_recipe(whole, tmp_path / "x", True, shorter).schedule
        assert found.epochs == round(2 * shorter)
        assert found.warmup_epochs / found.epochs == pytest.approx(1.9 / 2) and found.head_epochs < found.epochs


@pytest.mark.parametrize(("decay", "expected"), [([60, 80], [300, 400]), (30, 150)])
def test_the_rate_goes_down_at_the_same_part(tmp_path: Path, decay: Any, expected: Any) -> None:
    changes = {"schedule.epochs": 100, "schedule.name": "step", "schedule.decay_epochs": decay, "data.unlabelled": "x"}
    whole = tiny(tmp_path, {**changes, "loss.apart": 0.5}, teachers={"conv": CNN, "inv": CNN})
    found = labels_recipe(whole, tmp_path / "x", True, 5.0)
    assert found.schedule.decay_epochs == expected and found.schedule.epochs == 500 and found.loss.apart == 0.5


def test_where_it_says_nothing_it_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    recipe = tiny(tmp_path / "run", {"run.baselines": "labels"})
    with pytest.raises(RecipeError, match="has no teachers: it is the run itself"):
        run(recipe)
    with pytest.raises(RecipeError, match="without them it would learn nothing"):
        run(tiny(tmp_path / "run", {"run.baselines": "labels", "loss.label_weight": 0}, teachers={"conv": CNN}))
    advised = tiny(tmp_path / "run", {"run.baselines": "labels"}, teachers={"conv": CNN})
    with pytest.raises(RecipeError, match="given from Python"):
        train(advised, student=nn.Linear(3, 10), display=QUIET)
    assert not (tmp_path / "run").exists()
