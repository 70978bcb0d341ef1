"""The plan of a run: live teachers against stored advice."""

from __future__ import annotations

import pytest
from helpers.caches import QUIET, recipe_with
from helpers.recipes import CNN, tiny

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
    untrained = recipe_with(trained, tmp_path, teachers={"conv": CNN})
    assert plan_run(untrained, rounds=1).recommended is None


def test_gradients_of_a_real_student_from_cut_advice(tmp_path, write_folder, monkeypatch):
    """As `plan` measures them, against training losses cut by hand."""
    from coadvise.cost import plan

    monkeypatch.setattr(plan, "TOPS", (2, 5))
    source = write_folder(tmp_path / "photos", tuple(f"c{i:02d}" for i in range(30)), 3)
    changes = {"data.source": str(source), "data.train_size": None, "data.val_size": None, "schedule.epochs": 2}
    recipe = tiny(tmp_path / "run", changes, teachers={"conv": CNN})
    train(recipe, display=QUIET)
    cosines = plan.gradient_cosines(recipe)
    assert cosines is not None and list(cosines) == [2, 5]
    assert all(-1 <= value <= 1 + 1e-6 for value in cosines.values()) and cosines[5] > 0
