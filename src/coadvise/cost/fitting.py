"""How many epochs of a proposal fit into a given time, by a few steps that are measured on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..data.sources.base import ImageSource
from ..errors import RecipeError
from ..recipe.reading import apply_setting, recipe_from
from ..recipe.schema import Recipe
from ..recipe.yaml import flow_yaml
from ..system.clock import short_time
from ..system.progress import QUIET, Display
from ..training.fitting import MEASURED, PROVISIONAL, measure_paces
from ..training.processes import start_processes
from ..training.trial import Pace
from .proposal import Setting

START = 15.0
"""Seconds before a run's set-up and after its last evaluation: libraries, the data, the result."""
MARGIN = 0.85
"""Part of the time that is planned for: other work slows a machine down."""
_OF_TEACHERS = 0.4  # part of the time in which teachers from random weights are trained
_EVALUATIONS = 10
_MOST, _MOST_OF_LOADED, _MOST_OF_TEACHERS = 1000, 50, 100
FEWEST = 10
"""Epochs below which a run is hardly worth its time."""


@dataclass(frozen=True)
class FittedProposal:
    """A proposal with its epochs.

    Attributes:
        settings: all of them, in the order of a recipe.
        epochs: of the student.
        steps: updates of an epoch.
        teachers: name → seconds that its training takes.
        student: seconds.
        epoch: seconds of one of its epochs.
    """

    settings: list[Setting]
    recipe: Recipe
    epochs: int
    steps: int
    teachers: dict[str, float]
    student: float
    epoch: float

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return START + sum(self.teachers.values()) + self.student

    @property
    def enough(self) -> float:
        """Seconds that have to be given after the look at the images, for the student to get `FEWEST` epochs."""
        student = self.student + self.epoch * max(FEWEST - self.epochs, 0)
        beside = max(sum(self.teachers.values()), student * _OF_TEACHERS / (1 - _OF_TEACHERS) if self.teachers else 0)
        return START + (beside + student) / MARGIN


def fit_proposal(
    settings: Sequence[Setting],
    given: Sequence[str],
    sources: tuple[ImageSource, ImageSource],
    deadline: float,
    display: Display = QUIET,
) -> FittedProposal:
    """Measure steps of a proposal, as `schedule.time` does, and choose its epochs.

    Args:
        settings: without a schedule.
        given: `key=value` settings of the user, which take the place of those proposed.
        deadline: when the run should be over, on the monotonic clock.

    Raises:
        CoadviseError: settings, data and models that do not fit each other.
    """
    asked = asked_for(given)
    settings = _merged(settings, asked)
    training = [name for name in _teacher_names(settings) if _learns(settings, f"teachers.{name}")]
    trained = [Setting(f"teachers.{name}.train.epochs", PROVISIONAL) for name in training]
    seldom = Setting("run.eval_every", PROVISIONAL)  # evaluations are counted, not shared among the epochs
    recipe = _recipe([*settings, *trained, Setting("schedule.epochs", PROVISIONAL), _NO_WARMUP, seldom])
    display.say("measuring how long an epoch takes")
    limit = MEASURED * max(deadline - time.monotonic(), 0.0)
    accelerator = start_processes(recipe.run, recipe.optim)
    pace, before = measure_paces(recipe, training, sources, accelerator, limit)
    usable = max(deadline - time.monotonic() - START, 0.0) * MARGIN
    teachers: dict[str, float] = {}
    for i, (name, setting) in enumerate(zip(training, trained, strict=True)):
        epochs, teachers[name] = _fitting(
            before[name], usable * _OF_TEACHERS / len(training), _MOST_OF_TEACHERS, asked.get(setting.key)
        )
        trained[i] = Setting(setting.key, epochs)
    loaded = bool(recipe.student.pretrained or recipe.student.checkpoint)
    most = _MOST_OF_LOADED if loaded else _MOST
    epochs, student = _fitting(pace, usable - sum(teachers.values()), most, asked.get("schedule.epochs"))
    steps = len(sources[0]) // recipe.optim.batch_size
    why = (
        f"what fits into the time: an epoch of {steps} updates takes {short_time(pace.epoch)} here (measured)"
        if epochs < most
        else "more is seldom worth its time"
    )
    schedule = [
        Setting("schedule.epochs", epochs, why),
        Setting("schedule.warmup_epochs", epochs // (10 if loaded else 20)),
        Setting("run.eval_every", math.ceil(epochs / _EVALUATIONS), f"about {_EVALUATIONS} times in all"),
    ]
    own = [_said(one, asked) for one in (*trained, *schedule)]
    keys = {one.key for one in own}
    whole = [*(one for one in settings if one.key not in keys), *own]
    return FittedProposal(whole, _recipe(whole), epochs, steps, teachers, student, pace.epoch)


_AS_SAID = "as you said"
_NO_WARMUP = Setting("schedule.warmup_epochs", 0)


def _fitting(pace: Pace, seconds: float, most: int, given: int | None) -> tuple[int, float]:
    """Epochs that fit into a time, or those that are given, and the seconds that they take: all of them with so many
    evaluations."""
    fixed = pace.of(0) + _EVALUATIONS * pace.evaluation
    epochs = given or max(1, min(int((seconds - fixed) / pace.epoch), most))
    return epochs, fixed + epochs * pace.epoch - max(_EVALUATIONS - epochs, 0) * pace.evaluation


def _teacher_names(settings: Sequence[Setting]) -> list[str]:
    return list(dict.fromkeys(key.split(".")[1] for key, _, _ in settings if key.startswith("teachers.")))


def _learns(settings: Sequence[Setting], teacher: str) -> bool:
    """Whether a teacher starts from random weights."""
    weights = (f"{teacher}.checkpoint", f"{teacher}.pretrained")
    return not any(setting.value for setting in settings if setting.key in weights)


def asked_for(given: Sequence[str]) -> dict[str, Any]:
    """The user's own settings by their dotted names."""
    found: dict[str, Any] = {}
    for text in given:
        content: dict[str, Any] = {}
        key = apply_setting(content, text)
        for part in key.split("."):
            content = content[part]
        found[key] = content
    return found


def _said(one: Setting, asked: Mapping[str, Any]) -> Setting:
    return Setting(one.key, asked[one.key], _AS_SAID) if one.key in asked else one


def _merged(settings: Sequence[Setting], asked: Mapping[str, Any]) -> list[Setting]:
    """The settings, with what the user asked for in place of what was proposed."""
    found: list[Setting] = []
    rest = dict(asked)
    for one in settings:
        if any(one.key.startswith(f"{key}.") for key in asked):
            continue  # of a part that is given as a whole
        _, value, reason = _said(one, rest)
        rest.pop(one.key, None)
        inside = [key for key in rest if key.startswith(f"{one.key}.") and isinstance(value, dict)]
        for key in inside:  # of options, which are one setting
            value = {**value, key.removeprefix(f"{one.key}."): rest.pop(key)}
            reason = "; ".join(filter(None, (one.reason, f"{key} {_AS_SAID}")))
        found.append(Setting(one.key, value, reason))
    return [*found, *(Setting(key, value, _AS_SAID) for key, value in rest.items())]


def _recipe(settings: Sequence[Setting]) -> Recipe:
    content: dict[str, Any] = {}
    for key, value, _ in settings:
        *path, last = key.split(".")
        place = content
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise RecipeError(f"{key}={flow_yaml(value)}: {part} is a single value and has no keys of its own")
        place[last] = value
    return recipe_from(content, where="the proposal")
