"""What a run's advice is worth: its student beside the same one that was trained on the labels alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ..checkpoints.build import takes_tokens
from ..errors import RecipeError
from ..recipe.labels import labels_recipe
from ..recipe.schema import Recipe
from ..run.answers import Answers, both_right
from ..run.folder import RunFolder
from ..run.result import Baselines, LabelsAlone, RunResult
from ..significance import mcnemar
from .baselines import LABELS


def asks_for_labels(recipe: Recipe, given: bool, teachers: bool) -> bool:
    """Whether the student is to be trained without its teachers, too.

    Args:
        given: whether the student came from Python.
        teachers: whether there are any.

    Raises:
        RecipeError: that says nothing here, or cannot be done.
    """
    if LABELS not in recipe.run.baselines:
        return False
    if not teachers:
        raise RecipeError(
            f"run.baselines=labels, but recipe {recipe.name} has no teachers: it is the run itself; leave it out"
        )
    if recipe.loss.label_weight == 0:
        raise RecipeError(
            "run.baselines=labels, but with loss.label_weight=0 the student learns from its teachers alone: without "
            "them it would learn nothing; leave run.baselines=labels out, or give the labels a weight"
        )
    if given:
        raise RecipeError(
            "run.baselines=labels trains the recipe's own student anew, and this one was given from Python; leave it "
            "out, and train a second run without teachers"
        )
    return True


def without_teachers(recipe: Recipe, folder: RunFolder, labelled: int, unlabelled: int) -> tuple[Recipe, RunFolder]:
    """The recipe of the student alone, with as many updates, and the folder of its run.

    Args:
        labelled, unlabelled: training images of the run; those without labels are left out.
    """
    place, batch = RunFolder(folder.baselines / LABELS), recipe.optim.batch_size
    shorter = ((labelled + unlabelled) // batch) / max(labelled // batch, 1)
    return labels_recipe(recipe, place.path, takes_tokens(recipe.student.model), shorter), place


def with_labels_alone(result: RunResult, answers: Path, place: RunFolder) -> RunResult:
    """A result that knows what the advice was worth.

    Args:
        answers: file of the run's answers.
        place: the run without teachers, finished.
    """
    plain = place.result()
    advised, alone = both_right(Answers.read(answers), Answers.read(place.answers))
    changed = mcnemar(advised, alone)
    found = LabelsAlone(
        right=int(alone.sum()), samples=len(alone), alone=int((alone & ~advised).sum()),
        advised=int((advised & ~alone).sum()), p=changed.p, epochs=plain.epochs, seconds=plain.seconds,
        model=plain.student.model, parameters=plain.student.parameters,
    )  # fmt: skip
    return dataclasses.replace(result, baselines=dataclasses.replace(result.baselines or Baselines(), labels=found))
