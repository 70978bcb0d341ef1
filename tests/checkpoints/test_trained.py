"""Models that are rebuilt from their files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from helpers.recipes import CNN, tiny

from coadvise.checkpoints.build import build_student
from coadvise.checkpoints.model_file import save_model
from coadvise.checkpoints.teachers import build_teacher
from coadvise.checkpoints.trained import load_trained
from coadvise.errors import CheckpointError, ModelError
from coadvise.recipe.schema import Teacher


def test_a_model_that_cannot_be_made_is_that_of_its_file(tmp_path: Path) -> None:
    """Its header names a model that this version does not know, or options that it does not take."""
    recipe = tiny(tmp_path / "run", student={key: CNN[key] for key in ("model", "options", "small_stem")})
    model = build_student(recipe.student, {}, 3, 8)
    for changes, words in (
        ({"model": "resnet11"}, "no model is called 'resnet11'"),
        ({"options": {"depths": 3}}, "depths"),
    ):
        other = recipe.model_copy(update={"student": recipe.student.model_copy(update=changes)})
        path = tmp_path / "other.safetensors"
        save_model(path, model, other, ("a", "b", "c"), weights="student", epoch=1, metrics={})
        with pytest.raises(
            CheckpointError, match=f"other.safetensors describes a model that cannot be made: .*{words}"
        ):
            load_trained(path)
    settings = Teacher(model="resnet10", checkpoint=str(path))
    with pytest.raises(ModelError, match=r"teacher conv, as .*other.safetensors and the recipe describe it: .*depths"):
        build_teacher("conv", settings, ("a", "b", "c"))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_answer_nothing(tmp_path: Path, value: float) -> None:
    recipe = tiny(tmp_path / "run", student={key: CNN[key] for key in ("model", "options", "small_stem")})
    model = build_student(recipe.student, {}, 3, 8)
    last = list(model.parameters())[-1]
    last.data.view(-1)[-1] = value
    path = tmp_path / "odd.safetensors"
    save_model(path, model, recipe, ("a", "b", "c"), weights="student", epoch=1, metrics={})
    with pytest.raises(CheckpointError, match=r"odd\.safetensors is damaged .* is not finite"):
        load_trained(path)
