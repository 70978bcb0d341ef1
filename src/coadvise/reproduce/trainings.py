"""How models that teach are trained at a scale: settings that are given for them, and sentences for a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import RecipeError
from ..recipe.optim import Optim, training_problems
from ..recipe.reading import apply_setting, validated
from ..recipe.schedule import Schedule
from ..recipe.schema import Recipe
from ..recipe.teacher import apply_training, scaled
from .scales import FAMILIES, ScaleTeachers

_TITLES = {"resnet": "ResNets", "regnety": "RegNetYs", "rednet": "RedNets", "teachers": "Models that teach"}
_NAMES = {"adamw": "AdamW", "sgd": "SGD with Nesterov's momentum", "lamb": "LAMB"}


def apply_to_families(teachers: Any, settings: Sequence[str]) -> None:
    """Apply settings to families: `teachers.epochs=3` holds for those with epochs of their own, too, unless
    `teachers.resnet.epochs` is given as well. A family's warm-up and steps change in proportion to its epochs.

    Args:
        teachers: content of the scale's teachers, changed in place.
        settings: all that are given; what is not of a family is left to do.

    Raises:
        RecipeError: a setting that cannot be applied.
    """
    given = [setting.strip().removeprefix("teachers.") for setting in settings if setting.strip()[:9] == "teachers."]
    keys = [setting.partition("=")[0].strip() for setting in given]
    before = {family: dict(own) for family in FAMILIES if isinstance(own := teachers.get(family), dict)}
    for setting, key in zip(given, keys, strict=True):
        for family, own in before.items():
            if key.partition(".")[0] in own:
                apply_setting(teachers[family], setting)
    for setting, key in zip(given, keys, strict=True):
        if key.partition(".")[0] in FAMILIES:
            apply_setting(teachers, setting)
    for family, own in before.items():
        now = teachers[family]
        if isinstance(now, dict) and isinstance(now.get("epochs"), int) and own.get("epochs"):
            for key in ("warmup_epochs", "decay_epochs"):
                if own.get(key) is not None and key not in keys and f"{family}.{key}" not in keys:
                    now[key] = scaled(own[key], now["epochs"] / own["epochs"])


def require_fitting(teachers: ScaleTeachers, recipe: Recipe) -> None:
    """Refuse settings that do not go together.

    Raises:
        RecipeError: names all of them.
    """
    ways = {name if name == "teachers" else f"teachers.{name}": one for name, one in teachers.ways().items()}
    problems = [p for place, one in ways.items() for p in training_problems(place, one, recipe.optim, recipe.schedule)]
    if problems:
        raise RecipeError("; ".join(problems))


def sentences(teachers: ScaleTeachers, content: Mapping[str, Any]) -> Iterator[str]:
    """By what models that teach are trained, where they have an optimizer or a schedule of their own.

    Args:
        content: of the students' recipe.
    """
    for name, one in teachers.ways().items():
        if one.optimizer is None and one.schedule is None:
            continue
        own: dict[str, Any] = {part: dict(content.get(part, {})) for part in ("data", "optim", "schedule")}
        apply_training(own, one)
        place = f"teachers.{name}"
        said = _said(validated(Optim, own["optim"], place), validated(Schedule, own["schedule"], place))
        yield f"{_TITLES[name]} are trained by {said}."


def _said(optim: Optim, schedule: Schedule) -> str:
    images = optim.lr_batch or optim.batch_size
    words = [
        f"{_NAMES[optim.name]} ({optim.momentum:g})" if optim.name == "sgd" else _NAMES[optim.name],
        f"at {optim.lr:g} for {images} images",
        f"{optim.batch_size} at once",
        f"weight decay {optim.weight_decay:g}",
        f"{schedule.epochs} epochs" + (f", {schedule.warmup_epochs:g} of warm-up" if schedule.warmup_epochs else ""),
    ]
    decay = schedule.decay_epochs
    if schedule.name == "cosine":
        words.append("a cosine")
    elif isinstance(decay, list):
        words.append(f"times {schedule.decay_rate:g} after {', '.join(f'{one:g}' for one in decay)}")
    else:
        words.append(f"times {schedule.decay_rate:g} after every {decay:g}")
    return ", ".join(words)
