"""The setup of a call: a scale on given data, with the settings that were changed."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from timm.models import is_model

from ..advice.identity import data_facts
from ..data.sources.opening import open_sources
from ..errors import RecipeError
from ..recipe.reading import apply_setting, builtin_recipes, recipe_from, validated
from ..recipe.yaml import parse_yaml
from ..system.digests import json_digest
from .scales import FAMILIES, Scale, ScaleTeachers
from .trainings import apply_to_families, require_fitting, sentences

# Settings that the arms and the planner decide.
_OWNED = (
    "name", "student", "teachers.seed", "teachers.drop_path", "loss", "advice", "run.seed", "run.output", "data.seed",
)  # fmt: skip


@dataclass(frozen=True)
class ExperimentSetup:
    """The data, settings and folder with which the experiments of a call are run.

    Attributes:
        data: fingerprint of the images and labels.
        weights: model → file of weights, or `timm` for timm's published ones: they stand for the run of seed 0.
        changed: the settings that were given in place of the scale's own.
        source: of the images, where they are not the scale's own.
        classes: names of the data's classes.
    """

    scale: Scale
    output: Path
    content: Mapping[str, Any]
    teachers: ScaleTeachers
    data: str
    train_images: int
    weights: Mapping[str, str]
    changed: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    source: str | None = None

    @property
    def title(self) -> str:
        """What the experiments are made on; images that were given are called by the last part of their name."""
        if self.source is None:
            chosen, size = self.content["data"].get("train_size"), self.content["data"]["image_size"]
            return self.scale.title_with(None if chosen is None else self.train_images, int(size))
        name = Path(self.source).resolve().name if Path(self.source).exists() else self.source.rpartition("/")[2]
        return f"{name}, {len(self.classes)} classes, with the settings for {self.scale.title}"

    def particulars(self) -> list[str]:
        """Differences from the paper beside data and sizes, in sentences for a report."""
        found = []
        if self.scale.weight != 1.0:
            found.append(
                f"λ is {self.scale.weight:g} for every advised token, in the paper 1. Only a teacher's top class "
                "(DeiT-KD) has the weight of the labels, as in DeiT."
            )
        if self.views is not None:
            found.append(
                f"Students see {self.views} views of each image in turn, on which the teachers' advice is stored. "
                "Those that learn from labels alone see the same ones. With views drawn anew in every epoch they may "
                "be better, and teachers may add less: “sweep” has both."
            )
        own, size = self.content["data"].get("image_size"), self.teachers.image_size
        if size not in (None, own):
            found.append(f"Models that teach see images of {size} × {size} pixels, students of {own} × {own}.")
        if any(one.augment is not None for one in self.teachers.ways().values()):
            found.append("Models that teach have an augmentation of their own.")
        found += sentences(self.teachers, self.content)
        return found

    @property
    def views(self) -> int | None:
        """Stored views, or None for live advice."""
        views = self.content["data"].get("views")
        return None if views is None else int(views)


def set_up(
    scale: Scale,
    output: Path,
    *,
    source: str | None = None,
    classes: str | None = None,
    settings: Sequence[str] = (),
    weights: Mapping[str, str] | None = None,
    say: Callable[[str], None] | None = None,
) -> ExperimentSetup:
    """The scale on given data, with `settings` in place of its own.

    Settings are `key=value` for all runs, `teachers.key=value` for teachers alone (earlier `school.key`, which is still
    understood), `teachers.resnet.key=value` for those of a family, and `weight=λ` for every advised token. `say` is
    told what the data are.

    Raises:
        RecipeError: a setting that does not fit, or no data given for a scale that has none of its own.
        DataError: no such data.
    """
    if source is None and scale.source is None:
        raise RecipeError(f"scale {scale.name} has no images of its own: give {scale.title} with --data FOLDER")
    changed = tuple(settings)
    weighted = [setting for setting in settings if setting.partition("=")[0].strip() == "weight"]
    if weighted:
        scale, settings = _with_weight(scale, weighted[-1]), [one for one in settings if one not in weighted]
    content = content_of(scale, source or scale.source, classes)
    settings = [re.sub(r"^\s*school\.", "teachers.", setting) for setting in settings]
    for setting in settings:
        _require_free(setting)
    _require_rate(content["teachers"], settings)
    of_teachers = [one for one in settings if one.partition("=")[0].strip().partition(".")[0] == "teachers"]
    given = [apply_setting(content, setting) for setting in settings if setting not in of_teachers]
    if any(setting.strip().startswith("teachers.augment.") for setting in settings):  # changes of what students see
        content["teachers"].setdefault("augment", copy.deepcopy(content["data"].get("augment", {})))
    apply_to_families(content["teachers"], settings)
    given += [apply_setting(content, setting) for setting in of_teachers]
    teachers = validated(ScaleTeachers, content["teachers"], "the settings teachers.*")
    content["teachers"] = {}
    if unknown := [name for name in weights or {} if not is_model(name)]:
        raise RecipeError(f"--weights {unknown[0]}: no model has that name; write for example rednet101=rednet101.pth")
    recipe = recipe_from(content, where=f"scale {scale.name}", given=given)
    require_fitting(teachers, recipe)
    for part in ("optim", "schedule"):  # arms compute with them: numbers, whatever they were written as
        plain = recipe.model_dump(mode="json")[part]
        content[part] = {key: plain[key] for key in content[part]}
    train, validation = open_sources(recipe.data, say)
    kept = ("images", "classes", "labels", "image names", "image contents")
    facts = [{key: data_facts(recipe.data, one)[key] for key in kept} for one in (train, validation)]
    names = tuple(train.class_names)
    return ExperimentSetup(
        scale, output, content, teachers, json_digest(facts), len(train), dict(weights or {}), changed, names, source
    )


def content_of(scale: Scale, source: str | None, classes: str | None) -> dict[str, Any]:
    """The settings of a scale for given data; under `teachers` how models that may teach are trained."""
    path = builtin_recipes()[scale.recipe]
    content = copy.deepcopy(parse_yaml(path.read_text(encoding="utf-8"), str(path)))
    content["loss"] = {}
    for part, changes in scale.settings.items():
        content[part] = {**content.get(part, {}), **changes}
    content["data"] |= {"views": scale.views, "classes": classes, "source": source}
    content["run"] = {
        **content.get("run", {}),
        "tensorboard": False,
        "allow_weak": True,
        "compile": "auto",
        "baselines": [],
    }
    # Each by itself: what two families share is not to change for both.
    content["teachers"] = {key: copy.deepcopy(value) for key, value in scale.teachers.items()}
    return content


def _with_weight(scale: Scale, setting: str) -> Scale:
    try:
        weight = float(setting.partition("=")[2])
    except ValueError:
        weight = -1.0
    if not 0 <= weight < math.inf:
        raise RecipeError(f"{setting}: the weight of the advised tokens must be a number ≥ 0, for example weight=3")
    return replace(scale, weight=weight)


def _require_rate(teachers: Mapping[str, Any], settings: Sequence[str]) -> None:
    """Refuse another optimizer of teachers at the scale's rate, which is meant for the optimizer that it was."""
    given = dict(setting.replace(" ", "").partition("=")[::2] for setting in settings)
    for key, name in given.items():
        found = re.fullmatch(rf"teachers\.(?:({'|'.join(FAMILIES)})\.)?optimizer", key)
        if found is None:
            continue
        ways = (teachers, teachers.get(found[1] or "") or {})
        if not any("lr" in way for way in ways):  # checked with the recipe's
            continue
        own = next((way["optimizer"] for way in reversed(ways) if way.get("optimizer")), "adamw")
        rate = key.removesuffix("optimizer") + "lr"
        if name != own and rate not in given and "teachers.lr" not in given:
            raise RecipeError(f"{key}={name}: the rate of this scale is meant for {own}; give {rate}, too")


def _require_free(setting: str) -> None:
    key = setting.partition("=")[0].strip()
    if key == "schedule.time":
        raise RecipeError(f"{setting}: arms are compared after the same number of epochs; give schedule.epochs=N")
    key = re.sub(rf"^teachers\.({'|'.join(FAMILIES)})\.", "teachers.", key)
    owned = next((part for part in _OWNED if key == part or key.startswith(f"{part}.")), None)
    if owned is not None:
        raise RecipeError(
            f"{setting}: the arms of the tables decide {owned}; data, optim, schedule, run, teachers and weight (λ) "
            "may be changed. A run of your own: "
            "`coadvise train OUTPUT/runs/RUN/recipe.yaml run.output=FOLDER key=value`"
        )
