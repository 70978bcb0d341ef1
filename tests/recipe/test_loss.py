"""Which settings of the loss go together, said before anything is trained; and that they change no earlier recipe."""

from pathlib import Path
from typing import Any

import pytest
from helpers.recipes import CNN, INN, tiny
from helpers.runs import QUIET

from coadvise.errors import RecipeError
from coadvise.recipe.schema import Recipe
from coadvise.training.train import train

BOTH = {"conv": CNN, "inv": INN}


def recipe(place: Path, changes: dict[str, Any], teachers: dict[str, Any] = BOTH) -> Recipe:
    return tiny(place / "run", changes, teachers=teachers)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss.dist": {"intra": 0}}, "loss.dist goes with loss.advice=dist"),
        ({"loss.advice": "dist", "loss.decoupled": {"beta": 8}}, "loss.decoupled goes with loss.advice=decoupled"),
        ({"loss.advice": "dist", "loss.dist": {"intra": 0, "inter": 0}}, "leaves no advice"),
        ({"loss.gate_drop": 0.5}, "loss.gate_drop goes with"),
        ({"loss.gate": "right", "loss.gate_drop": 0.5}, "loss.gate_drop goes with"),
        ({"loss.gate": "random", "loss.gate_drop": 1}, "leaves no advice"),
        ({"loss.gate": "right", "loss.advice": "dist"}, "loss.dist.intra=0"),
        ({"loss.advice": "standardised", "advice": "cache"}, "advice.top_k=null"),
        ({"loss.advice": "decoupled", "data.unlabelled": "photos"}, "needs the class of every image"),
        ({"loss.gate": "right", "data.unlabelled": "photos"}, "needs the class of every image"),
        ({"loss.gate": "right", "data.balance": "weights"}, "take data.balance=sampling"),
        ({"loss.advice": "dist", "data.labels": "several"}, "for images of one class each"),
        ({"loss.gate": "right", "data.labels": "several"}, "for images of one class each"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match="1 problem in") as caught:
        recipe(tmp_path, changes)
    assert words in str(caught.value)


def test_the_harder_of_one_teacher_is_refused(tmp_path: Path) -> None:
    for teachers, changes in (({"conv": CNN}, {}), (BOTH, {"advice.change": "mean"})):
        with pytest.raises(RecipeError, match="chooses between teachers, and one advises"):
            recipe(tmp_path, {"loss.gate": "harder", **changes}, teachers)


def test_the_harder_of_none_is_refused_once_it_is_known_who_advises(tmp_path: Path) -> None:
    """Teachers may come from Python, too."""
    alone = recipe(tmp_path, {"loss.gate": "harder"}, {})
    with pytest.raises(RecipeError, match="chooses between teachers, and there is none; add another, or leave it out"):
        train(alone, display=QUIET)
    with pytest.raises(RecipeError, match="chooses between teachers, and one advises"):
        train(alone, teachers={"conv": lambda images: images.mean(dim=(2, 3))}, display=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"loss.advice": "dist", "loss.dist": {"intra": 0}, "loss.gate": "harder", "loss.gate_drop": 0.5},
        {"loss.advice": "standardised", "advice": {"source": "cache", "top_k": None}},
        {"loss.advice": "decoupled", "loss.gate": "right", "data.balance": "sampling"},
        {"loss.gate": "right", "data.balance": "weights", "data.augment.mixup": 0, "data.augment.cutmix": 0},
        {"loss.gate": "random", "data.unlabelled": "photos", "loss.advice": "standardised"},
        {"loss.gate": "harder", "data.labels": "several", "loss.advice": "hard"},
    ],
)
def test_what_goes_together_is_taken_and_is_another_recipe(tmp_path: Path, changes: dict[str, Any]) -> None:
    others = {key: value for key, value in changes.items() if not key.startswith("loss.")}
    assert recipe(tmp_path, changes).fingerprint() != recipe(tmp_path, others).fingerprint()


def test_a_recipe_that_says_nothing_of_them_is_what_it_was(tmp_path: Path) -> None:
    content = recipe(tmp_path, {"loss.weights": {"conv": 2.0}}).content()
    weights = {"conv": 2.0}
    assert content["loss"] == {
        "label_weight": 1.0, "weights": weights, "temperatures": {}, "advice": "soft", "tokens": "auto",
    }  # fmt: skip
