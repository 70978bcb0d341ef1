"""Epochs that fit into a time, with steps whose cost is given; and proposals that are valid recipes everywhere."""

import dataclasses
import itertools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from coadvise.cost import fitting
from coadvise.cost.fitting import MARGIN, START, FittedProposal, fit_proposal
from coadvise.cost.proposal import DataFacts, GivenTeacher, Setting, image_size, propose
from coadvise.data.sources.digits import Digits
from coadvise.errors import RecipeError
from coadvise.recipe.commented import commented
from coadvise.recipe.reading import recipe_from
from coadvise.recipe.schema import Recipe
from coadvise.recipe.yaml import parse_yaml
from coadvise.training import fitting as measuring
from coadvise.training.trial import Pace

FACTS = DataFacts("digits", train=1400, validation=360, classes=10, fewest=140, most=140, side=8)
GIVEN = GivenTeacher("resnet18", "conv", "some.safetensors", 0.9, True, 96)
SOURCES = Digits("train"), Digits("validation")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """Epochs of 10 s of a student and of 5 s of its teachers, 1 s to begin with, 2 s for a check of the teachers and
    0.5 s for an evaluation; the recipes that were measured, which takes no time."""
    seen: list[Recipe] = []

    def pace(recipe: Recipe, *_: Any) -> Pace:
        seen.append(recipe)
        return Pace(1.0, 10.0 if recipe.teachers else 5.0, 2.0 if recipe.teachers else 0.0, 0.5)

    monkeypatch.setattr(measuring, "measure_pace", pace)
    monkeypatch.setattr(measuring, "new_student", lambda *_: None)
    monkeypatch.setattr(measuring, "teachers_to_time", lambda *_: {})
    monkeypatch.setattr(fitting, "time", SimpleNamespace(monotonic=lambda: 50.0))
    return seen


def fit(settings: Sequence[Setting], given: Sequence[str], seconds: float) -> FittedProposal:
    return fit_proposal(settings, given, SOURCES, 50.0 + seconds)


def test_epochs_are_what_the_time_allows(steps: list[Recipe]) -> None:
    fitted = fit(propose(FACTS, "cpu", GIVEN, "x"), [], 1000 + START)
    epochs = int((1000 * MARGIN - 1 - 2 - 10 * 0.5) / 10)
    assert fitted.epochs == epochs == fitted.recipe.schedule.epochs
    assert fitted.student == 1 + 2 + 5 + 10 * epochs and not fitted.teachers
    assert fitted.seconds <= 1000 + START
    assert len(steps) == 1 and -(-epochs // fitted.recipe.run.eval_every) <= 10


def test_teachers_from_random_weights_share_a_part_of_the_time(steps: list[Recipe]) -> None:
    fitted = fit(propose(FACTS, "cpu", None, "x"), [], 400 + START)
    assert [recipe.student.model for recipe in steps] == ["resnet10", "rednet26", "cit_tiny"]
    assert set(fitted.teachers) == {"conv", "inv"} and fitted.seconds <= 400 + START
    for name, teacher in fitted.recipe.teachers.items():
        assert teacher.train is not None and teacher.train.epochs == int((400 * MARGIN * 0.2 - 1 - 5) / 5)
        assert fitted.teachers[name] == 1 + 5 + 5 * teacher.train.epochs
    assert fitted.student >= 0.5 * 400 * MARGIN


def test_settings_of_the_user_take_the_place_of_those_proposed(steps: list[Recipe]) -> None:
    given = ["schedule.epochs=7", "student.options.depth=2", "data.val_size=50", "teachers={}", "run.seed=3"]
    fitted = fit(propose(FACTS, "cpu", None, "x"), given, 200)
    recipe = fitted.recipe
    assert (recipe.schedule.epochs, recipe.student.options["depth"], recipe.data.val_size) == (7, 2, 50)
    assert not recipe.teachers and recipe.run.seed == 3
    text = commented([], fitted.settings)
    assert sum("as you said" in reason for _, _, reason in fitted.settings) == 5
    assert recipe_from(parse_yaml(text, "it"), "it") == recipe
    with pytest.raises(RecipeError, match="lrr"):
        fit(propose(FACTS, "cpu", None, "x"), ["optim.lrr=1"], 200)


def test_too_little_time_still_gives_a_recipe(steps: list[Recipe]) -> None:
    fitted = fit(propose(FACTS, "cpu", None, "x"), [], 1.0)
    assert fitted.epochs == 1 and fitted.recipe.schedule.warmup_epochs == 0


@pytest.mark.parametrize(("device", "teacher"), itertools.product(("cpu", "cuda"), (None, GIVEN)))
def test_proposals_are_valid_for_any_data(device: Any, teacher: GivenTeacher | None, steps: list[Recipe]) -> None:
    sizes = np.unique(np.geomspace(4, 5000, 12).astype(int)).tolist()
    for side, train in itertools.product(sizes, (20, 560, 200_000)):
        facts = dataclasses.replace(FACTS, side=side, train=train, unreadable=1)
        fitted = fit(propose(facts, device, teacher, "x"), [], 100)
        size = fitted.recipe.data.image_size
        assert size <= max(side, 8) and size % fitted.recipe.student.options["patch_size"] == 0
        assert fitted.recipe.optim.batch_size <= train and fitted.recipe.data.on_error == "skip"
        assert all(reason for key, _, reason in fitted.settings if key in ("data.image_size", "optim.lr"))


def test_a_graphics_processor_sees_larger_images() -> None:
    assert (image_size(400, "cpu")[:2], image_size(400, "cuda")[:2]) == ((64, 8), (224, 16))
    assert image_size(8, "cuda")[:2] == (8, 2)
