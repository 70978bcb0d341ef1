"""The recipe of a run's student without its teachers: what the advice is to be measured by."""

from __future__ import annotations

from pathlib import Path

from .reading import recipe_from
from .schema import Recipe
from .teacher import scaled


def labels_recipe(recipe: Recipe, output: Path, takes_tokens: bool, shorter: float = 1.0) -> Recipe:
    """The same student, start, data, order, augmentation and schedule; every token learns the labels.

    Args:
        takes_tokens: whether the student's model is made with advised tokens.
        shorter: how many times fewer updates an epoch has without the images that have no labels; so many times more
            epochs are trained.
    """
    content = recipe.model_dump(mode="json")
    tokens = recipe.tokens() if takes_tokens or recipe.adds_tokens else {}
    content["name"] = f"{recipe.name}-labels"[:200]
    content["teachers"], content["advice"] = {}, {}
    if takes_tokens or recipe.adds_tokens:
        content["student"]["tokens"] = tokens
    weights = {name: weight for name, weight in recipe.loss.weights.items() if name in tokens}
    loss = {"label_weight": recipe.loss.label_weight, "weights": weights, "apart": recipe.loss.apart if tokens else 0.0}
    # Tokens that are declared are tokens of their own.
    content["loss"] = loss | ({"tokens": recipe.loss.tokens} if recipe.loss.tokens != "own" else {})
    content["run"] |= {"baselines": [], "output": str(output)}
    if recipe.data.unlabelled is not None:
        content["data"]["unlabelled"] = None
        schedule = recipe.schedule
        epochs = max(round(schedule.epochs * shorter), 1)
        # Parts of the epochs as they were rounded: what fits into a schedule fits into this one.
        part = epochs / schedule.epochs
        content["schedule"] |= {
            "epochs": epochs, "warmup_epochs": schedule.warmup_epochs * part,
            "head_epochs": round(schedule.head_epochs * part),
        }  # fmt: skip
        if schedule.decay_epochs is not None:
            content["schedule"]["decay_epochs"] = scaled(schedule.decay_epochs, part)
        content["run"]["eval_every"] = max(round(recipe.run.eval_every * shorter), 1)
    return recipe_from(content, where="run.baselines=labels")
