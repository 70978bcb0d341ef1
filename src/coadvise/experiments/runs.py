"""From an arm to its run: the recipe at a scale, and a name that is the same on every machine."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from timm.models import is_model

from ..advice_cache import data_facts, views_of
from ..data.sources import open_sources
from ..errors import RecipeError
from ..models.cit import TOKEN_STD
from ..recipe import FREE, Recipe, flat
from ..recipe_file import apply_setting, builtin_recipes, parse_yaml, recipe_from, validated
from .ablations import SEVEN_ARMS
from .arms import Arm
from .declared import Experiment
from .scales import Scale, School

# What a scale's own machine decides; two machines may differ in it and still add to one table.
_LOCAL = (*FREE, "data.source", "data.val_source", "run.precision", "run.compile", "name")
# What the arms decide, and the planner.
_OWNED = ("name", "student", "teachers", "loss", "advice", "run.seed", "run.output", "data.seed")
_VERSION = 1
"""Part of every run's name: to be raised when a change of the code makes old results incomparable."""


@dataclass(frozen=True)
class Setup:
    """Where and on what the experiments of a call are run.

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
    school: Mapping[str, Any]
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
            return self.scale.title
        name = Path(self.source).resolve().name if Path(self.source).exists() else self.source.rpartition("/")[2]
        return f"{name}, {len(self.classes)} classes, with the settings for {self.scale.title}"

    def particulars(self) -> list[str]:
        """What differs from the paper beside data and sizes, in sentences for a report."""
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
        own = self.content["data"].get("image_size")
        if self.school.get("image_size", own) != own:
            size = self.school["image_size"]
            found.append(f"Models that teach see images of {size} × {size} pixels, students of {own} × {own}.")
        if "augment" in self.school:
            found.append("Models that teach have an augmentation of their own.")
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
) -> Setup:
    """The scale on given data, with `settings` in place of its own: `key=value`; `school.key=value` for teachers;
    `weight=λ` for every advised token.

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
    path = builtin_recipes()[scale.recipe]
    content = copy.deepcopy(parse_yaml(path.read_text(encoding="utf-8"), str(path)))
    content["teachers"], content["loss"] = {}, {}
    for part, changes in scale.settings.items():
        content[part] = {**content.get(part, {}), **changes}
    content["data"] = {**content["data"], "views": scale.views, "classes": classes}
    content["data"]["source"] = source or scale.source
    content["run"] = {**content.get("run", {}), "tensorboard": False, "allow_weak": True, "compile": "auto"}
    content["school"] = copy.deepcopy(dict(scale.school))
    if any(setting.startswith("school.augment.") for setting in settings):  # changes of what the students see
        content["school"].setdefault("augment", copy.deepcopy(content["data"].get("augment", {})))
    for setting in settings:
        _require_free(setting)
        apply_setting(content, setting)
    school = content.pop("school")
    school = validated(School, school, "the settings school.*").model_dump(exclude_none=True, exclude_unset=True)
    unknown = [name for name in weights or {} if not is_model(name)]
    if unknown:
        raise RecipeError(f"--weights {unknown[0]}: no model has that name; write for example rednet101=rednet101.pth")
    recipe = recipe_from(content, where=f"scale {scale.name}")
    for part in ("optim", "schedule"):  # arms compute with them: numbers, whatever they were written as
        plain = recipe.model_dump(mode="json")[part]
        content[part] = {key: plain[key] for key in content[part]}
    train, validation = open_sources(recipe.data)
    kept = ("images", "classes", "labels", "image names", "image contents")
    facts = [{key: data_facts(recipe, one)[key] for key in kept} for one in (train, validation)]
    names = tuple(train.class_names)
    return Setup(
        scale, output, content, school, _digest(facts), len(train), dict(weights or {}), changed, names, source
    )


def _with_weight(scale: Scale, setting: str) -> Scale:
    try:
        weight = float(setting.partition("=")[2])
    except ValueError:
        weight = -1.0
    if not 0 <= weight < math.inf:
        raise RecipeError(f"{setting}: the weight of the advised tokens must be a number ≥ 0, for example weight=3")
    return replace(scale, weight=weight)


def _require_free(setting: str) -> None:
    key = setting.partition("=")[0].strip()
    owned = next((part for part in _OWNED if key == part or key.startswith(f"{part}.")), None)
    if owned is not None:
        raise RecipeError(
            f"{setting}: the arms of the tables decide {owned}; data, optim, schedule, run, school and weight (λ) may "
            "be changed. A run of your own: `coadvise train OUTPUT/runs/RUN/recipe.yaml run.output=FOLDER key=value`"
        )


@dataclass(frozen=True)
class Planned:
    """A run to be made: an arm with a seed.

    Attributes:
        id: hash of everything that decides its numbers.
        advisers: the runs of its teachers, by the name of their token.
    """

    arm: Arm
    seed: int
    id: str
    recipe: Recipe
    advisers: Mapping[str, Planned]

    @property
    def given(self) -> bool:
        """Whether its weights are given, so that nothing is trained."""
        return self.recipe.student.pretrained or self.recipe.student.checkpoint is not None

    @property
    def name(self) -> str:
        """Name of its folder and its result file."""
        return f"{self.arm.id}.s{self.seed}.{self.id[:8]}"

    @property
    def folder(self) -> Path:
        """Of the run."""
        return Path(str(self.recipe.run.output))


class Planner:
    """Makes each run of a setup once."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._known: dict[tuple[Arm, int], Planned] = {}

    def run(self, arm: Arm, seed: int) -> Planned:
        """The run of an arm with a seed.

        Raises:
            RecipeError: settings that do not fit the arm.
        """
        if (arm, seed) not in self._known:
            advisers = {one.name: self.run(one.arm, one.seed) for one in arm.advisers}
            content = self._content(arm, seed, advisers)
            where = f"arm {arm.id} at scale {self.setup.scale.name}"
            recipe = recipe_from(content, where=where)
            settings = {k: v for k, v in flat(recipe.content()).items() if k not in _LOCAL}
            settings = {k: v for k, v in settings.items() if not k.endswith(".checkpoint")}
            if recipe.data.augment.policy != "deit":  # where nothing is resized by it
                del settings["data.resizer"]
            known = {name: one.id for name, one in advisers.items()}
            parts = [_VERSION, settings, known, self.setup.data]
            if weights := self._weights(arm, seed):
                parts.append(_weights_digest(weights))
            identity = _digest(parts)
            folder = self.setup.output / "runs" / f"{arm.id}.s{seed}.{identity[:8]}"
            content["run"]["output"] = str(folder)
            content["advice"] = self._advice(recipe, seed)
            self._known[arm, seed] = Planned(arm, seed, identity, recipe_from(content, where=where), advisers)
        return self._known[arm, seed]

    def given(self, arm: Arm) -> bool:
        """Whether an arm has given weights, which are those of seed 0 and its only ones."""
        return arm == Arm(arm.model) and arm.model in self.setup.weights

    def _weights(self, arm: Arm, seed: int) -> str | None:
        return self.setup.weights[arm.model] if self.given(arm) and seed == 0 else None

    def _content(self, arm: Arm, seed: int, advisers: Mapping[str, Planned]) -> dict[str, Any]:
        scale = self.setup.scale
        content = copy.deepcopy(dict(self.setup.content))
        content["name"] = f"{arm.id}-s{seed}"
        content["student"] = self._student(arm)
        content["data"]["seed"] = content["run"]["seed"] = seed
        if arm.is_transformer and (advisers or arm.injected):
            _give_tokens(content["student"], arm)
        if not (arm.is_transformer or arm.model in ("resnet10", "mixer_tiny")):
            _school(content, self.setup.school)
        if weights := self._weights(arm, seed):
            content["student"] |= {"pretrained": True} if weights == "timm" else {"checkpoint": weights}
        if arm.part != 1.0:
            for key in ("epochs", "warmup_epochs"):
                content["schedule"][key] = arm.part * content["schedule"].get(key, 0)
            content["schedule"]["epochs"] = max(1, round(content["schedule"]["epochs"]))
        content["teachers"] = {
            one.name: {
                "model": advisers[one.name].recipe.student.model,
                "bias": one.bias,
                "checkpoint": str(advisers[one.name].folder / "best.safetensors"),
            }
            for one in arm.advisers
        }
        tokens = "single" if arm.tokens == "single" else "auto"
        weight = 1.0 if arm.advice == "hard" else scale.weight  # DeiT's: half labels, half the teacher's class
        weight *= arm.weight
        content["loss"] = {
            "tokens": tokens,
            "advice": arm.advice,
            "weights": dict.fromkeys(advisers, weight),
        }
        if arm.temperature != 1.0:
            content["loss"]["temperatures"] = dict.fromkeys(advisers, arm.temperature)
        token_lr = arm.token_lr * content["optim"].get("token_lr", 1.0)
        content["optim"]["token_lr"] = token_lr if arm.is_transformer else 1.0
        if not arm.mixing:
            content["data"]["augment"] = {**content["data"].get("augment", {}), "mixup": 0.0, "cutmix": 0.0}
        if arm.live:
            content["data"]["views"] = None
        return content

    def _student(self, arm: Arm) -> dict[str, Any]:
        """The scale's model; of the recipe's own student, transformers keep the drop path."""
        student = self.setup.scale.model(arm.model)
        rate = self.setup.content.get("student", {}).get("options", {}).get("drop_path_rate")
        if arm.is_transformer and rate is not None:
            student["options"] = {"drop_path_rate": rate, **student.get("options", {})}
        return student

    def _advice(self, recipe: Recipe, seed: int) -> dict[str, Any]:
        if not recipe.teachers or recipe.data.views is None:
            return {}
        return {"source": "cache", "folder": str(self.cache(recipe, seed)), "top_k": None}

    def cache(self, recipe: Recipe, seed: int) -> Path:
        """Folder of the advice for a seed: other images, views or teachers have a folder of their own."""
        facts = [
            self.setup.data,
            recipe.data.model_dump(mode="json", exclude={"source", "val_source", "workers"}),
            views_of(recipe),
            self.run(_SOME_TEACHER, 0).id,  # changes with whatever changes the training of teachers
            sorted((model, _weights_digest(weights)) for model, weights in self.setup.weights.items()),
        ]
        return self.setup.output / "caches" / f"s{seed}.{_digest(facts)[:8]}"


_SOME_TEACHER = Arm("resnet18")


def _give_tokens(student: dict[str, Any], arm: Arm) -> None:
    """An advised transformer is a CiT; tokens that learn the labels are declared, others follow from the teachers."""
    if arm.tokens == "single" and not arm.injected and arm.stem == "patchify":
        return
    if arm.advice == "hard":
        student["options"] = {**student.get("options", {}), "inference": "average"}  # as DeiT answers
    student["model"] = student["model"].replace("transformer_", "cit_")
    if arm.stem != "patchify":
        student["options"] = {**student.get("options", {}), "stem": arm.stem}
    if arm.token_std != 1.0:
        student["options"] = {**student.get("options", {}), "token_std": round(arm.token_std * TOKEN_STD, 9)}
    if arm.injected:
        student["tokens"] = {bias: bias for bias in arm.injected}


def _school(content: dict[str, Any], school: Mapping[str, Any]) -> None:
    """Settings of a model that may teach: its schedule is its own, and its views never recur."""
    content["data"]["views"] = None
    schedule, optim = content["schedule"], content["optim"]
    if "epochs" in school:
        schedule["warmup_epochs"] = schedule.get("warmup_epochs", 0) * school["epochs"] / schedule["epochs"]
        schedule["epochs"] = school["epochs"]
    for key in ("lr", "weight_decay", "batch_size"):
        if key in school:
            optim[key] = school[key]
    if "image_size" in school:
        content["data"]["image_size"] = school["image_size"]
    if "augment" in school:
        content["data"]["augment"] = dict(school["augment"])


def in_order(planner: Planner, experiments: Sequence[Experiment], seeds: int) -> list[Planned]:
    """All runs that some experiments need, the most telling first, each after the runs of its teachers.

    The seven arms come first with all of their seeds, then everything else, seed by seed.
    """
    wanted: list[tuple[Arm, int]] = []
    arms = {arm for experiment in experiments for arm in experiment.arms()}
    wanted += [(arm, seed) for seed in range(seeds) for arm in SEVEN_ARMS if arm in arms]
    single = _single_runs(experiments)
    for seed in range(seeds):
        for experiment in experiments:
            wanted += [
                (arm, seed)
                for arm in experiment.arms()
                if (arm not in single or seed in single[arm]) and not (planner.given(arm) and seed)
            ]
    ordered: dict[str, Planned] = {}
    for arm, seed in wanted:
        run = planner.run(arm, seed)
        for adviser in run.advisers.values():
            ordered.setdefault(adviser.id, adviser)
        ordered.setdefault(run.id, run)
    return list(ordered.values())


def _single_runs(experiments: Iterable[Experiment]) -> dict[Arm, set[int]]:
    """Arms of which only certain seeds are shown."""
    seeds: dict[Arm, set[int | None]] = {}
    for experiment in experiments:
        for value in experiment.values():
            seeds.setdefault(value.arm, set()).add(value.seed)
    return {arm: {s for s in found if s is not None} for arm, found in seeds.items() if None not in found}


def column_recipe(planner: Planner, run: Planned, name: str) -> Recipe:
    """The recipe that stores one teacher's advice for a student and all others that see the same images."""
    one = next(adviser for adviser in run.arm.advisers if adviser.name == name)
    arm = Arm("transformer_tiny", (one,), part=run.arm.part, mixing=run.arm.mixing)
    return planner.run(arm, run.seed).recipe


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _weights_digest(weights: str) -> str:
    return weights if weights == "timm" else file_digest(Path(weights))


def file_digest(path: Path) -> str:
    """Hash of a file's content.

    A model's file holds its recipe and the paths in it: a training repeated in another folder has another hash.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
