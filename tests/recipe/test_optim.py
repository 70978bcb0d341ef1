"""Optimizers and schedules in a recipe: what goes together, what a teacher takes over, and old fingerprints."""

from pathlib import Path
from typing import Any

import pytest
from helpers.recipes import CNN, tiny

from coadvise.errors import RecipeError
from coadvise.recipe.reading import load_recipe
from coadvise.recipe.teacher import teacher_recipe


def refused(changes: dict[str, Any], words: str, **parts: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        tiny(Path("runs/x"), changes, **parts)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optim.name": "adam"}, "optim.name is 'adam', must be one of 'adamw', 'sgd' or 'lamb'"),
        ({"optim.name": "sgd", "optim.betas": [0.9, 0.99]}, "optim.betas is not a setting of optim.name=sgd"),
        ({"optim.momentum": 0.8}, "optim.momentum is not a setting of optim.name=adamw; leave it out"),
        ({"optim.name": "lamb", "schedule.head_epochs": 1}, "take adamw or sgd"),
        ({"schedule.name": "step"}, "schedule.name=step needs schedule.decay_epochs, such as 30"),
        ({"schedule.decay_epochs": 2}, "schedule.decay_epochs is of schedule.name=step; leave it out with cosine"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], words: str) -> None:
    refused(changes, words)


@pytest.mark.parametrize("wrong", [[3, 2], [], 0, "1,2", True])
def test_a_field_of_several_types_has_one_message(wrong: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        tiny(Path("x"), {"schedule.name": "step", "schedule.decay_epochs": wrong}, teachers={"conv": CNN})
    said = str(caught.value)
    assert said.startswith("1 problem in ") and "or an ascending list of such numbers, such as [60, 80]" in said


@pytest.mark.parametrize(("key", "words"), [("lr_batch", "≥ 1"), ("clip", "> 0"), ("ema", "between 0 and 1")])
def test_what_may_be_off_has_one_message(key: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        tiny(Path("x"), teachers={"conv": CNN | {"train": {"epochs": 1, key: "abc"}}})
    said = str(caught.value)
    assert said.startswith("1 problem in ") and f"{key} is 'abc', must be a" in said and f"{words}, or false" in said


def test_settings_at_their_defaults_go_with_every_optimizer() -> None:
    for name in ("adamw", "sgd", "lamb"):
        tiny(Path("x"), {"optim.name": name, "optim.momentum": 0.9, "optim.betas": [0.9, 0.999], "optim.eps": 1e-8})


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (
            {"optimizer": "sgd"},
            "train.optimizer is sgd, the recipe's is adamw: give teachers.conv.train.lr",
        ),
        ({"momentum": 0.8}, "teachers.conv.train.momentum is not a setting of adamw"),
        ({"schedule": "step"}, "teachers.conv.train.schedule=step needs teachers.conv.train.decay_epochs"),
        ({"decay_epochs": 3}, "teachers.conv.train.decay_epochs is of teachers.conv.train.schedule=step"),
    ],
)
def test_a_teacher_s_settings_that_do_not_go_together(train: dict[str, Any], words: str) -> None:
    refused({}, words, teachers={"conv": CNN | {"train": train}})


def test_an_sgd_teacher_of_an_adamw_student() -> None:
    train = {
        "epochs": 8, "optimizer": "sgd", "lr": 0.1, "lr_batch": 256, "momentum": 0.8, "clip": False, "ema": False,
        "schedule": "step", "decay_epochs": [3, 6], "decay_rate": 0.2, "warmup_lr": 0.01,
    }  # fmt: skip
    changes = {"optim.ema": 0.9, "optim.betas": [0.9, 0.99]}
    recipe = tiny(Path("runs/x"), changes, teachers={"conv": CNN | {"train": train}})
    one = teacher_recipe(recipe, "conv", Path("runs/x/teachers/conv"))
    assert (one.optim.name, one.optim.lr, one.optim.lr_batch, one.optim.momentum) == ("sgd", 0.1, 256, 0.8)
    assert one.optim.clip is one.optim.ema is None and one.optim.betas == (0.9, 0.999)
    assert (one.schedule.name, one.schedule.decay_epochs, one.schedule.decay_rate) == ("step", [3, 6], 0.2)
    assert (one.schedule.epochs, one.schedule.warmup_epochs, one.schedule.warmup_lr) == (8, 2, 0.01)
    assert (recipe.optim.name, recipe.schedule.name, recipe.optim.clip) == ("adamw", "cosine", 5.0)


def test_a_teacher_s_steps_shrink_with_its_epochs() -> None:
    changes = {"schedule.name": "step", "schedule.decay_epochs": 2}
    for train, expected in (({"epochs": 2}, ("step", 1)), ({"schedule": "cosine"}, ("cosine", None))):
        recipe = tiny(Path("runs/x"), changes, teachers={"conv": CNN | {"train": train}})
        one = teacher_recipe(recipe, "conv", Path("y")).schedule
        assert (one.name, one.decay_epochs) == expected


def test_a_teacher_s_augmentation_may_be_without_randaugment() -> None:
    train = {"augment": {"policy": "deit", "randaugment": None}}
    recipe = tiny(Path("runs/x"), teachers={"conv": CNN | {"train": train}})
    assert teacher_recipe(recipe, "conv", Path("y")).data.augment.randaugment is None


def test_fingerprints_of_recipes_without_them_stay() -> None:
    """As computed before there were other optimizers than AdamW."""
    assert tiny(Path("runs/x"), teachers={"conv": CNN}).fingerprint() == "07c381441a5b201c"
    assert load_recipe("cit-sak").fingerprint() == "cd4acfbb7143b81b"
