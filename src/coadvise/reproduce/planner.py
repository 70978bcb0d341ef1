"""From an arm to its run: the recipe at a scale, and a name that is the same on every machine."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..advice.request import views_of
from ..models.tokens import TOKEN_STD
from ..paper.ablations import SEVEN_ARMS
from ..paper.arms import Arm
from ..paper.declared import Experiment
from ..recipe.reading import recipe_from
from ..recipe.schema import FREE, Recipe, flat
from ..recipe.teacher import apply_training, scaled
from ..system.digests import file_digest, json_digest
from .setup import ExperimentSetup

# Settings that depend on the machine: two machines may differ in them and still add to one table.
_LOCAL = (*FREE, "data.source", "data.val_source", "run.precision", "run.compile", "name")


# Largest file of pixels that the runs of a data seed share.
KEPT_VIEWS = 2**32

_VERSION = 1
"""Part of every run's name: to be raised when a change of the code makes old results incomparable."""


@dataclass(frozen=True)
class Planned:
    """A run to be made: an arm with a seed.

    Attributes:
        id: hash of everything that decides its numbers. With few epochs two arms may have the same, as the parts of a
            teacher's training have when they come to one epoch: these are runs of their own, known by their names.
        teachers: the runs of its teachers, by the name of their token.
    """

    arm: Arm
    seed: int
    id: str
    recipe: Recipe
    teachers: Mapping[str, Planned]

    @property
    def given(self) -> bool:
        """Whether its weights are given, or stay random, so that nothing is trained."""
        student = self.recipe.student
        return student.pretrained is True or student.checkpoint is not None or not self.arm.trained

    @property
    def name(self) -> str:
        """Name of its folder and its result file."""
        return f"{self.arm.id}.s{self.seed}.{self.id[:8]}"

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return Path(str(self.recipe.run.output))


class Planner:
    """Makes each run of a setup once."""

    def __init__(self, setup: ExperimentSetup) -> None:
        self.setup = setup
        self._known: dict[tuple[Arm, int], Planned] = {}

    def run(self, arm: Arm, seed: int) -> Planned:
        """The run of an arm with a seed.

        Raises:
            RecipeError: settings that do not fit the arm.
        """
        if (arm, seed) not in self._known:
            teachers = {one.name: self.run(one.arm, one.seed) for one in arm.teachers}
            content = self._content(arm, seed, teachers)
            where = f"arm {arm.id} at scale {self.setup.scale.name}"
            recipe = recipe_from(content, where=where)
            settings = {k: v for k, v in flat(recipe.content()).items() if k not in _LOCAL}
            settings = {k: v for k, v in settings.items() if not k.endswith(".checkpoint")}
            if recipe.data.augment.policy != "deit":  # where nothing is resized by it
                del settings["data.resizer"]
            known = {name: one.id for name, one in teachers.items()}
            parts = [_VERSION, settings, known, self.setup.data]
            if weights := self._weights(arm, seed):
                parts.append(_weights_digest(weights))
            if not arm.trained:
                parts.append("random weights")
            identity = json_digest(parts)
            folder = self.setup.output / "runs" / f"{arm.id}.s{seed}.{identity[:8]}"
            content["run"]["output"] = str(folder)
            if recipe.teachers and recipe.data.views is not None:
                stored = {"source": "cache", "folder": str(self.cache(recipe, seed)), "top_k": None}
                content["advice"] = {**content.get("advice", {}), **stored}
            if self._keeps_views(recipe):
                content["data"]["views_folder"] = str(self.setup.output / "views")
            self._known[arm, seed] = Planned(arm, seed, identity, recipe_from(content, where=where), teachers)
        return self._known[arm, seed]

    def _keeps_views(self, recipe: Recipe) -> bool:
        """Whether runs share the pixels of their views: drawn image by image, and few enough bytes."""
        data = recipe.data
        size = (data.views or 0) * self.setup.train_images * 3 * data.image_size**2
        return data.augment.policy == "deit" and 0 < size <= KEPT_VIEWS

    def given(self, arm: Arm) -> bool:
        """Whether an arm has given weights, which are those of seed 0 and its only ones."""
        return arm == Arm(arm.model) and arm.model in self.setup.weights

    def _weights(self, arm: Arm, seed: int) -> str | None:
        return self.setup.weights[arm.model] if self.given(arm) and seed == 0 else None

    def _content(self, arm: Arm, seed: int, teachers: Mapping[str, Planned]) -> dict[str, Any]:
        scale, content = self.setup.scale, copy.deepcopy(dict(self.setup.content))
        content["name"] = f"{arm.id}-s{seed}"
        content["student"] = self._student(arm)
        content["data"]["seed"] = content["run"]["seed"] = seed
        student = arm.is_transformer or arm.model in ("resnet10", "mixer_tiny")
        if student and scale.data_seed is not None:
            content["data"]["seed"] = scale.data_seed
        if arm.is_transformer and (teachers or arm.injected):
            _give_tokens(content["student"], arm)
        if not student:
            apply_training(content, self.setup.teachers.of(arm.model))
            if self.setup.teachers.image_size is not None:
                content["data"]["image_size"] = self.setup.teachers.image_size
        if given := self._weights(arm, seed):
            content["student"] |= {"pretrained": True} if given == "timm" else {"checkpoint": given}
        if arm.part != 1.0:
            for key in ("epochs", "warmup_epochs"):
                content["schedule"][key] = arm.part * content["schedule"].get(key, 0)
            content["schedule"]["epochs"] = max(1, round(content["schedule"]["epochs"]))
            if (decay := content["schedule"].get("decay_epochs")) is not None:
                content["schedule"]["decay_epochs"] = scaled(decay, arm.part)
        content["teachers"] = {
            one.name: {
                "model": teachers[one.name].recipe.student.model,
                "bias": one.bias,
                "checkpoint": str(teachers[one.name].folder / "best.safetensors"),
            }
            for one in arm.teachers
        }
        tokens = "single" if arm.tokens == "single" else "auto"
        weight = 1.0 if arm.advice == "hard" else scale.weight  # DeiT's: half labels, half the teacher's class
        if arm.change == "mean":  # N · KL(mean ‖ q) is the sum of KL(teacher ‖ q), up to what q does not change
            weight *= len(teachers)
        weights = dict.fromkeys(arm.advisers, weight * arm.weight)
        content["loss"] = {"tokens": tokens, "advice": arm.advice, "weights": weights, "gate": arm.gate}
        if arm.change != "none":
            content["advice"] = {"change": arm.change}
        if arm.temperature != 1.0:
            content["loss"]["temperatures"] = dict.fromkeys(arm.advisers, arm.temperature)
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

    def cache(self, recipe: Recipe, seed: int) -> Path:
        """Folder of the advice for a seed: other images, views or teachers have a folder of their own."""
        facts = [
            self.setup.data,
            recipe.data.model_dump(mode="json", exclude={"source", "val_source", "workers"}),
            views_of(recipe.data, recipe.schedule),
            self.run(_SOME_TEACHER, 0).id,  # changes with whatever changes the training of teachers
            sorted((model, _weights_digest(weights)) for model, weights in self.setup.weights.items()),
        ]
        # Families that are trained apart.
        facts += [self.run(_SOME_OF[one], 0).id for one in self.setup.teachers.ways() if one in _SOME_OF]
        return self.setup.output / "caches" / f"s{recipe.data.seed}.{json_digest(facts)[:8]}"


_SOME_TEACHER = Arm("resnet18")
_SOME_OF = {"regnety": Arm("regnety_002"), "rednet": Arm("rednet26")}


def _give_tokens(student: dict[str, Any], arm: Arm) -> None:
    """An advised transformer is a CiT; tokens that learn the labels are declared, others follow from the teachers."""
    if arm.tokens == "single" and not arm.injected and arm.stem == "patchify":
        return
    student["model"] = student["model"].replace("transformer_", "cit_")
    options: dict[str, Any] = {"inference": "average"} if arm.advice == "hard" else {}  # as DeiT answers
    options |= {"stem": arm.stem} if arm.stem != "patchify" else {}
    options |= {"token_std": round(arm.token_std * TOKEN_STD, 9)} if arm.token_std != 1.0 else {}
    if options:
        student["options"] = {**student.get("options", {}), **options}
    if arm.injected:
        student["tokens"] = {bias: bias for bias in arm.injected}


def in_order(planner: Planner, experiments: Sequence[Experiment], seeds: int) -> list[Planned]:
    """All runs that some experiments need, the most important first, each after the runs of its teachers.

    What a primary question needs comes first, one part of it after the other, then the seven arms, all with all of
    their seeds; then everything else, seed by seed.
    """
    arms = list(dict.fromkeys(arm for experiment in experiments for arm in experiment.arms()))
    wanted = [
        (value.arm, seed)
        for experiment in experiments
        for contrast in experiment.contrasts
        if contrast.primary
        for seed in range(seeds)
        for value in contrast.values
    ]
    wanted += [(arm, seed) for seed in range(seeds) for arm in SEVEN_ARMS if arm in arms]
    single = _single_runs(experiments)
    wanted += [
        (arm, seed)
        for seed in range(seeds)
        for arm in arms
        if (arm not in single or seed in single[arm]) and not (planner.given(arm) and seed)
    ]
    ordered: dict[str, Planned] = {}
    for arm, seed in wanted:
        run = planner.run(arm, seed)
        for teacher in run.teachers.values():
            ordered.setdefault(teacher.name, teacher)
        ordered.setdefault(run.name, run)
    return list(ordered.values())


def _single_runs(experiments: Iterable[Experiment]) -> dict[Arm, set[int | None]]:
    """Arms of which only certain seeds are shown."""
    seeds = defaultdict[Arm, set[int | None]](set)
    for value in (value for experiment in experiments for value in experiment.values()):
        seeds[value.arm].add(value.seed)
    return {arm: found for arm, found in seeds.items() if None not in found}


def column_recipe(planner: Planner, run: Planned, name: str) -> Recipe:
    """The recipe that stores one teacher's advice for a student and all others that see the same images."""
    one = next(teacher for teacher in run.arm.teachers if teacher.name == name)
    arm = Arm("transformer_tiny", (one,), part=run.arm.part, mixing=run.arm.mixing)
    return planner.run(arm, run.seed).recipe


def _weights_digest(weights: str) -> str:
    return weights if weights == "timm" else file_digest(Path(weights))
