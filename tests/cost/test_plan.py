"""The plan of a run: live teachers against stored advice."""

from __future__ import annotations

import re
from unittest import mock

import pytest
from helpers import processes
from helpers.caches import QUIET, recipe_with
from helpers.recipes import CNN, tiny

from coadvise.data.sources.opening import open_sources
from coadvise.data.sources.unlabelled import open_for_training
from coadvise.recipe.reading import dump_recipe
from coadvise.training.train import train


def test_a_plan_adds_up(trained, tmp_path):
    from coadvise.cost.plan import plan_run

    recipe = recipe_with(trained, tmp_path, {"schedule.epochs": 40})
    plan = plan_run(recipe, rounds=1)
    assert plan.steps == 40 * 5 and plan.live_s > plan.cached_s > 0
    assert [way.views for way in plan.ways] == [10, 25, 40]
    assert [way.bytes for way in plan.ways] == [2 * 20 * 100 * views for views in (10, 25, 40)]
    for way in plan.ways:
        assert way.students == pytest.approx(way.write_s / (plan.live_s - plan.cached_s))
    assert plan.cosines == {} and plan.recommended == 10  # ten classes are stored whole
    assert plan.teachers == {}  # they are trained
    untrained = recipe_with(
        trained, tmp_path, {"optim.accumulate": 2}, teachers={"conv": {**CNN, "train": {"epochs": 7}}}
    )
    with (
        mock.patch("coadvise.cost.plan.open_for_training", wraps=open_for_training) as opened,
        mock.patch("coadvise.cost.step.open_for_training", wraps=open_for_training) as again,
    ):
        plan = plan_run(untrained, rounds=1)
    assert opened.call_count == 1 and not again.called
    assert plan.recommended is None and list(plan.teachers) == ["conv"]
    assert plan.teachers["conv"].steps == 7 * 5 and plan.teachers["conv"].seconds > 0


def test_the_cost_of_training_teachers_is_that_of_their_own_runs(tmp_path, monkeypatch):
    """Steps of a known length: 3 epochs of 5 steps of 2 s each and one batch of 0.5 s, twice for two micro-batches."""
    from coadvise.cost import plan

    recipes = []

    def known(recipe, sources, **options):
        recipes.append(recipe)
        return plan.StepCost(10, {"input": 0.5, "teacher conv": 1.0}, 2.0, 1, 1.0)

    monkeypatch.setattr(plan, "step_cost", known)
    monkeypatch.setattr(plan, "gradient_cosines", lambda recipe, source: None)
    teacher = {**CNN, "train": {"epochs": 3, "batch_size": 20}}
    found = plan.plan_run(tiny(tmp_path / "run", {"optim.accumulate": 2}, teachers={"conv": teacher}))
    assert [one.student.model for one in recipes] == ["cit_tiny", "resnet10"] and recipes[1].teachers == {}
    assert found.teachers == {"conv": plan.TrainingCost(3 * 5, 3 * 5 * 2 * 2.5)}
    assert (found.live_s, found.cached_s) == (4 * 5 * 2 * 2.5, 4 * 5 * 2 * 1.5)
    # z-scores need the logits of all ten classes, of two bytes each: no k is recommended that the loss refuses.
    asked = {"loss.advice": "standardised", "advice.top_k": 3}
    found = plan.plan_run(tiny(tmp_path / "whole", asked, teachers={"conv": teacher}))
    assert (found.recommended, found.cosines) == ("all", {})
    assert [way.bytes for way in found.ways] == [2 * 10 * 100 * way.views for way in found.ways]


@pytest.mark.parametrize("teachers", [pytest.param(True, marks=pytest.mark.slow), False])
def test_plan_says_what_teachers_cost(tmp_path, teachers):
    recipe = tiny(tmp_path / "run", teachers={"conv": CNN} if teachers else {})
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe))
    done = processes.run("coadvise", "plan", str(tmp_path / "r.yaml"), "--rounds", "1", environment={"COLUMNS": "150"})
    assert done.returncode == 0, done.stderr
    assert ("before that its teachers are trained: conv " in done.stdout) == teachers
    assert ("20 steps of 20 images: " in done.stdout) and ("labels alone" in done.stdout) != teachers
    assert ("stored advice" in done.stdout) == teachers
    counts = [tuple(map(int, pair)) for pair in re.findall(r"(\d+)/(\d+)  eta", done.stderr)]
    assert all(done <= whole for done, whole in counts) and "-" not in "".join(re.findall(r"eta (\S*)", done.stderr))


def test_gradients_of_a_real_student_from_cut_advice(tmp_path, write_folder, monkeypatch):
    """As `plan` measures them, against training losses cut by hand."""
    from coadvise.cost import plan

    monkeypatch.setattr(plan, "TOPS", (2, 5))
    source = write_folder(tmp_path / "photos", tuple(f"c{i:02d}" for i in range(30)), 3)
    changes = {"data.source": str(source), "data.train_size": None, "data.val_size": None, "schedule.epochs": 2}
    recipe = tiny(tmp_path / "run", changes, teachers={"conv": CNN})
    train(recipe, display=QUIET)
    cosines = plan.gradient_cosines(recipe, open_sources(recipe.data)[0])
    assert cosines is not None and list(cosines) == [2, 5]
    assert all(-1 <= value <= 1 + 1e-6 for value in cosines.values()) and cosines[5] > 0
