"""The pre-registered experiment as it is planned: order, shared views, shared advice, and its plan's numbers."""

import re
from pathlib import Path

import pytest

from coadvise.paper.kinds import BOTH_KINDS, KINDS_EXPERIMENT, SEEDS, SETS, TWO_CONV, TWO_INV
from coadvise.reproduce.planner import Planner, in_order
from coadvise.reproduce.scales import find_scale
from coadvise.reproduce.setup import set_up

PLAN = Path(__file__).resolve().parents[2] / "docs" / "experiment.md"


@pytest.fixture
def planner(tmp_path: Path) -> Planner:
    sizes = ["data.train_size=200", "data.val_size=40"]
    return Planner(set_up(find_scale("cifar-long"), tmp_path, source="digits", settings=sizes))


def test_the_first_part_comes_first_and_seed_by_seed(planner: Planner) -> None:
    runs = [run for run in in_order(planner, [KINDS_EXPERIMENT], SEEDS) if run.arm.is_transformer]
    first = [(run.arm, run.seed) for run in runs[: 2 * SETS * SEEDS]]
    assert {arm for arm, _ in first} == {*BOTH_KINDS, *TWO_CONV}
    assert [seed for _, seed in first] == [seed for seed in range(SEEDS) for _ in range(2 * SETS)]
    assert {run.arm for run in runs[2 * SETS * SEEDS : 3 * SETS * SEEDS]} == {*TWO_INV}
    assert len(runs) == 3 * SETS * SEEDS + SEEDS


def test_students_share_views_and_advice_and_teachers_do_not(planner: Planner) -> None:
    runs = in_order(planner, [KINDS_EXPERIMENT], 2)
    students = [run for run in runs if run.arm.is_transformer]
    assert {run.recipe.data.seed for run in students} == {0} and {run.seed for run in students} == {0, 1}
    assert {run.recipe.run.seed for run in students} == {0, 1}
    assert len({run.recipe.advice.folder for run in students if run.teachers}) == 1
    assert len({run.recipe.data.views_folder for run in students}) == 1
    teachers = [run for run in runs if not run.arm.is_transformer]
    assert len(teachers) == 2 * SETS and {run.recipe.data.seed for run in teachers} == {0, 1, 2}
    assert {run.recipe.optim.name for run in teachers} == {"sgd"}
    assert {run.recipe.data.augment.policy for run in students} == {"deit"}


def test_the_plan_states_the_settings_that_are_run(planner: Planner) -> None:
    text = PLAN.read_text(encoding="utf-8")
    (student,) = (run.recipe for run in in_order(planner, [KINDS_EXPERIMENT], 1) if run.arm == BOTH_KINDS[0])
    teacher = planner.run(BOTH_KINDS[0].teachers[0].arm, 0).recipe
    row = lambda name: next(line for line in text.splitlines() if line.startswith(f"| {name} "))
    options = student.student.options
    assert f"width {options['embed_dim']}, depth {options['depth']}, {options['num_heads']} heads, patch " in row(
        "student"
    )
    assert "no drop path" in row("student") and "drop_path_rate" not in options
    assert f"{student.schedule.epochs} epochs" in row("passes") and f"{student.data.views}, each" in row("views")
    assert f"batch {student.optim.batch_size}" in row("optimizer")
    assert f"{student.schedule.warmup_epochs:g} epochs of warm-up" in row("optimizer")
    assert f"clip {student.optim.clip:g}" in row("optimizer")
    augment = student.data.augment
    assert augment.mix_probability == 1 and (augment.mixup, augment.cutmix, augment.erasing) == (0.8, 1.0, 0.25)
    assert student.loss.weights == {"resnet18": 1.0, "rednet26": 1.0} and not student.loss.temperatures
    words = row("teachers")
    assert (
        f"{teacher.schedule.epochs} epochs" in words and f"{teacher.optim.lr:g} for {teacher.optim.lr_batch}" in words
    )
    assert f"momentum {teacher.optim.momentum:g}" in words and "weight decay 5e-4" in words
    assert teacher.optim.weight_decay == 5e-4
    sets, seeds = (int(word) for word in re.findall(r"(\d) sets × (\d) seeds", text)[0])
    assert (sets, seeds) == (SETS, SEEDS)
