"""`schedule.time`: as many epochs as fit into a time, by the pace of real steps on this machine.

The epochs are found once, before anything is trained, and the run is then one of so many epochs: its schedule ends
where it should, and what resumes it does not measure again. A machine that is busy meanwhile takes longer.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from ..data.sources.base import ImageSource
from ..data.sources.unlabelled import labelled_part, open_for_training
from ..errors import RecipeError
from ..models.answers import Answer
from ..recipe.schedule import seconds_in
from ..recipe.schema import Recipe
from ..recipe.teacher import WARMUP, teacher_recipe
from ..run.fitted import Fitted, as_fitted_before
from ..run.folder import RunFolder
from ..run.provenance import manifest
from ..system.clock import short_time
from ..system.locks import one_at_a_time
from ..system.progress import Display
from .baselines import LABELS
from .choosing import ENOUGH
from .labels import without_teachers
from .processes import on_main_process
from .student import new_student
from .teachers import given_teacher, teachers_to_time
from .trial import Pace, measure_pace

# Part of the time that measuring a training may take.
MEASURED = 0.05
# Epochs of the schedule while it is measured; they decide nothing.
PROVISIONAL = 1000


def fit_epochs(
    recipe: Recipe,
    folder: RunFolder,
    sources: tuple[ImageSource, ImageSource],
    accelerator: Accelerator,
    student: nn.Module | None,
    teachers: Mapping[str, nn.Module | Answer],
    display: Display,
) -> Fitted:
    """Find how many epochs of a recipe fit into its `schedule.time`, the training of its teachers and that on labels
    alone (`run.baselines`) counted.

    Args:
        student: own module, of which a copy is trained.
        teachers: own modules by name.

    Raises:
        RecipeError: not one epoch fits.
    """
    words, begun = recipe.schedule.time, time.monotonic()
    assert words is not None
    budget, world = seconds_in(words), accelerator.num_processes
    trial = Fitted(words, PROVISIONAL, 0.0, 0.0).applied(recipe)
    display.say(f"measuring how many epochs fit into {words}")
    first = trained_first(recipe, folder, teachers)

    def measured(trial: Recipe) -> tuple[Fitted, dict[str, Pace], Pace | None]:
        pace, before = measure_paces(trial, first, sources, accelerator, MEASURED * budget, student, teachers)
        alone = _labels_pace(trial, folder, sources, accelerator, MEASURED * budget)
        left = budget - (time.monotonic() - begun)
        if world > 1:  # each has measured a little else, and all must come to the same
            left, pace, before, alone = broadcast_object_list([left, pace, before, alone])
        return _fitted(recipe, words, left, pace, before, alone), before, alone

    images, fewest = len(sources[0]), 1 + recipe.schedule.head_epochs
    if recipe.run.compile == "auto" and accelerator.device.type == "cpu" and fewest * images < ENOUGH:
        # There only a long run fuses a CiT's blocks, and how long this one will be is not known before.
        found, before, alone = measured(recipe_with(trial, "run", compile=False))
        if found.epochs * images >= ENOUGH and recipe.student.model.startswith("cit_"):
            found, before, alone = measured(trial)
    else:
        found, before, alone = measured(trial)
    display.say(_said(recipe, found, before, alone))
    return found


def fitted_for_teachers(
    recipe: Recipe,
    folder: RunFolder,
    accelerator: Accelerator,
    own: Mapping[str, nn.Module | Answer],
    kept: Mapping[str, Path],
    display: Display,
) -> Recipe:
    """The recipe with the epochs that fit into its time, where teachers are trained for it before its student is.

    What is found is noted in the run's folder: another start goes on with it, and so does a training of the student
    with its teachers at hand. One from a cache finds its own epochs.

    Args:
        own: teachers by name that were given from Python.
        kept: weights of those that a cache has.

    Raises:
        RecipeError: not one epoch fits.
        RunError: the folder holds something else, or another process trains in it.
    """
    names = {name for name, settings in recipe.teachers.items() if settings.train is not None} - {*own, *kept}
    if recipe.schedule.time is None or not names:
        return recipe
    live = recipe_with(recipe, "advice", source="live")
    # Several processes that share no group, such as those that write a cache, measure once.
    alone = one_at_a_time(folder.teachers / ".time.lock")
    with alone if accelerator.is_main_process else contextlib.nullcontext():
        accelerator.wait_for_everyone()
        found = as_fitted_before(live, folder)
        if found.schedule.time is not None and not names.isdisjoint(trained_first(live, folder, own)):
            with on_main_process(accelerator, folder.owned(live, False)):
                with accelerator.local_main_process_first():
                    sources = open_for_training(recipe.data, [*recipe.teachers, *own], display.say_once)
                there = {name: {"train": None, "checkpoint": str(path)} for name, path in kept.items()}
                teachers = {name: one.model_copy(update=there.get(name, {})) for name, one in recipe.teachers.items()}
                timed = live.model_copy(update={"teachers": teachers})
                fitted = fit_epochs(timed, folder, sources, accelerator, None, own, display)
                found = fitted.applied(live)
                if accelerator.is_main_process:
                    folder.begin(found, manifest(fingerprint=found.fingerprint(), fitted=dataclasses.asdict(fitted)))
        accelerator.wait_for_everyone()
    return recipe.model_copy(update={"schedule": found.schedule})


def recipe_with(recipe: Recipe, part: str, **changes: Any) -> Recipe:
    """The recipe with settings of one part changed, which are known to fit."""
    return recipe.model_copy(update={part: getattr(recipe, part).model_copy(update=changes)})


def measure_paces(
    recipe: Recipe,
    first: Sequence[str],
    sources: tuple[ImageSource, ImageSource],
    accelerator: Accelerator,
    limit: float,
    student: nn.Module | None = None,
    teachers: Mapping[str, nn.Module | Answer] | None = None,
) -> tuple[Pace, dict[str, Pace]]:
    """The pace of a recipe's student, and of each of the teachers that are trained before it.

    Args:
        first: names of those teachers.
        limit: seconds after which no further step of one of them is begun.
        student: own module, of which a copy is trained.
        teachers: own modules by name.
    """
    classes, world, own = sources[0].class_names, accelerator.num_processes, teachers or {}
    before: dict[str, Pace] = {}
    labelled = (labelled_part(sources[0]), sources[1])
    for name in first:
        one = teacher_recipe(recipe, name, RunFolder.of(recipe).teacher(name).path)
        model = new_student(one, len(classes), world, None, (), f"teachers.{name}")
        before[name] = measure_pace(one, labelled, accelerator, model, {}, limit)
    advisors = {name: one for name, one in teachers_to_time(recipe, classes).items() if name not in own}
    advisors |= {name: given_teacher(name, model, classes) for name, model in own.items()}
    fresh = new_student(recipe, len(classes), world, copy.deepcopy(student), tuple(advisors))
    return measure_pace(recipe, sources, accelerator, fresh, advisors, limit), before


def _labels_pace(
    recipe: Recipe,
    folder: RunFolder,
    sources: tuple[ImageSource, ImageSource],
    accelerator: Accelerator,
    limit: float,
) -> Pace | None:
    """The pace of the same student on labels alone, an epoch being what it trains for each epoch of the run; None where
    it is not trained so."""
    if LABELS not in recipe.run.baselines:
        return None
    labelled = labelled_part(sources[0])
    one, _ = without_teachers(recipe, folder, len(labelled), len(sources[0]) - len(labelled))
    student = new_student(one, len(labelled.class_names), accelerator.num_processes, None, ())
    pace = measure_pace(one, (labelled, sources[1]), accelerator, student, {}, limit)
    return dataclasses.replace(pace, epoch=pace.epoch * one.schedule.epochs / recipe.schedule.epochs)


def trained_first(recipe: Recipe, folder: RunFolder, own: Mapping[str, nn.Module | Answer]) -> list[str]:
    """Teachers that are still to be trained for a run; a cache comes with its own."""
    if recipe.advice.source == "cache":
        return []
    names = (name for name, settings in recipe.teachers.items() if settings.train is not None and name not in own)
    return [name for name in names if not folder.teacher(name).finished]


def _fitted(
    recipe: Recipe, words: str, left: float, pace: Pace, before: Mapping[str, Pace], alone: Pace | None
) -> Fitted:
    """Solve for the epochs; a teacher whose own are not given is trained for as many as the student.

    Raises:
        RecipeError: not one epoch fits.
    """
    fixed, each = pace.of(0), pace.epoch
    for name, one in before.items():
        given = _own_epochs(recipe, name)
        fixed += one.of(given or 0)
        each += 0.0 if given else one.epoch
    first = fixed - pace.of(0)
    if alone is not None:
        fixed, each = fixed + alone.of(0), each + alone.epoch
    epochs, fewest = math.floor((left - fixed) / each), 1 + recipe.schedule.head_epochs
    if epochs < fewest:
        least = seconds_in(words) - left + fixed + fewest * each
        of = f", of which its teachers take {short_time(first)} first" if before else ""
        none = "not one epoch fits" if fewest == 1 else f"fewer than {fewest} epochs fit (schedule.head_epochs and one)"
        raise RecipeError(
            f"schedule.time {words}: {none}; a run of {'one' if fewest == 1 else fewest} takes {short_time(least)} "
            f"here{of}; give more time, fewer images (data.train_size), a smaller model, or advice=cache"
        )
    warmup = min(recipe.schedule.warmup_epochs, WARMUP * epochs)
    return Fitted(words, epochs, warmup, round(pace.epoch, 4))


def _own_epochs(recipe: Recipe, name: str) -> int | None:
    train = recipe.teachers[name].train
    return train.epochs if train is not None else None


def _said(recipe: Recipe, found: Fitted, before: Mapping[str, Pace], alone: Pace | None) -> str:
    said = f"{_short(found.epoch_seconds)} an epoch: {found.epochs} epochs in {found.time}"
    if before:
        seconds = {name: one.of(_own_epochs(recipe, name) or found.epochs) for name, one in before.items()}
        said += ", after " + ", ".join(f"{short_time(one)} for teacher {name}" for name, one in seconds.items())
    if alone is not None:
        said += f", before {short_time(alone.of(found.epochs))} on labels alone"
    if found.warmup_epochs < recipe.schedule.warmup_epochs:
        said += f"; the warm-up is {found.warmup_epochs:g} epochs in place of {recipe.schedule.warmup_epochs:g}"
    return said


def _short(seconds: float) -> str:
    """`0.25 s`, `1.8 s` or as `short_time`."""
    return f"{seconds:.2g} s" if seconds < 10 else short_time(seconds)
