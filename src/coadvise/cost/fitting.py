"""How many epochs of a proposal fit into a given time, by a few steps that are measured on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.loader import TrainLoader
from ..data.sources.base import ImageSource
from ..errors import RecipeError
from ..recipe.reading import apply_setting, recipe_from
from ..recipe.schema import Recipe
from ..recipe.teacher import teacher_recipe
from ..recipe.yaml import flow_yaml
from ..system.clock import short_time
from ..system.devices import choose_device
from ..system.progress import QUIET, Display
from .proposal import Setting
from .step import StepCost, step_cost

START = 20.0
"""Seconds before the first step and after the last: libraries, the data, the check of the teachers, the result."""
MARGIN = 0.85
"""Part of the time that is planned for: other work slows a machine down."""
_OF_TEACHERS = 0.4  # part of the time in which teachers from random weights are trained
_EVALUATIONS = 10
_MOST, _MOST_OF_TEACHERS = 1000, 100
FEWEST = 10
"""Epochs below which a run is hardly worth its time."""


@dataclass(frozen=True)
class Fitted:
    """A proposal with its epochs.

    Attributes:
        settings: all of them, in the order of a recipe.
        epochs: of the student.
        steps: updates of an epoch.
        teachers: name → seconds that its training takes.
        student: seconds.
    """

    settings: list[Setting]
    recipe: Recipe
    epochs: int
    steps: int
    teachers: dict[str, float]
    student: float

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return START + sum(self.teachers.values()) + self.student


def fit_epochs(
    settings: Sequence[Setting],
    given: Sequence[str],
    sources: tuple[ImageSource, ImageSource],
    seconds: float,
    display: Display = QUIET,
) -> Fitted:
    """Measure steps of a proposal and choose its epochs.

    Args:
        settings: without a schedule.
        given: `key=value` settings of the user, which take the place of those proposed.
        seconds: that the run may take.

    Raises:
        CoadviseError: settings, data and models that do not fit each other.
    """
    asked = asked_for(given)
    settings = _merged(settings, asked)
    training = [name for name in _teacher_names(settings) if _learns(settings, f"teachers.{name}")]
    trained = [Setting(f"teachers.{name}.train.epochs", 1) for name in training]
    recipe = _recipe([*settings, *trained, Setting("schedule.epochs", 1), _NO_WARMUP])
    usable = max(seconds - START, 0.0) * MARGIN
    teachers: dict[str, float] = {}
    for i, setting in enumerate(trained):
        name = training[i]
        epoch = _epoch_seconds(teacher_recipe(recipe, name, Path("runs")), sources, display)
        epochs = asked.get(setting.key) or _between(usable * _OF_TEACHERS / len(training) / epoch, _MOST_OF_TEACHERS)
        trained[i], teachers[name] = Setting(setting.key, epochs), epochs * epoch
    epoch = _epoch_seconds(recipe, sources, display)
    epochs = asked.get("schedule.epochs") or _between((usable - sum(teachers.values())) / epoch, _MOST)
    steps = len(sources[0]) // recipe.optim.batch_size
    why = (
        f"what fits into the time: an epoch of {steps} updates takes {short_time(epoch)} here (measured)"
        if epochs < _MOST
        else "more is seldom worth its time"
    )
    schedule = [
        Setting("schedule.epochs", epochs, why),
        Setting("schedule.warmup_epochs", epochs // 20),
        Setting("run.eval_every", max(1, epochs // _EVALUATIONS), f"about {_EVALUATIONS} times in all"),
    ]
    own = [_said(one, asked) for one in (*trained, *schedule)]
    keys = {one.key for one in own}
    whole = [*(one for one in settings if one.key not in keys), *own]
    return Fitted(whole, _recipe(whole), epochs, steps, teachers, epochs * epoch)


_AS_SAID = "as you said"
_NO_WARMUP = Setting("schedule.warmup_epochs", 0)


def _between(epochs: float, most: int) -> int:
    return max(1, min(int(epochs), most))


def _epoch_seconds(recipe: Recipe, sources: tuple[ImageSource, ImageSource], display: Display) -> float:
    """Seconds of an epoch, its share of the evaluations included."""
    cost = step_cost(recipe, rounds=3, display=display)
    step = _step_seconds(recipe, cost, sources[0])
    steps = len(sources[0]) // recipe.optim.batch_size
    # An answer without learning takes about a third of the step, and every epoch has at most a fifth of an evaluation.
    evaluation = len(sources[1]) / recipe.optim.batch_size * step / 3
    return steps * recipe.optim.accumulate * step + evaluation / 5


def _step_seconds(recipe: Recipe, cost: StepCost, source: ImageSource) -> float:
    """Seconds of a step: on a CPU loader processes and the step share the cores, a GPU works beside them."""
    stays = TrainLoader(source, recipe.data, 1).stays
    if choose_device(recipe.run.device).type == "cpu" or stays or not recipe.data.workers:
        return cost.whole + (0.0 if stays else cost.parts["input"])
    return max(cost.whole, cost.parts["input"])


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
