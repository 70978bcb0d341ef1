"""The recipe by which a teacher is trained before the student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .optim import OWN
from .reading import recipe_from
from .schema import Recipe, TeacherTraining

# The warm-up is at most this part of the epochs, where these are fitted to a time.
WARMUP = 0.2
# Where the settings of a teacher's training stand in a recipe: their names there, and here.
_PLACES = {
    "schedule": {"name": "schedule"}
    | {key: key for key in ("epochs", "warmup_epochs", "warmup_lr", "min_lr", "decay_epochs", "decay_rate")},
    "optim": {"name": "optimizer"}
    | {key: key for key in ("lr", "lr_batch", "momentum", "weight_decay", "clip", "ema", "batch_size")},
    "data": {"augment": "augment"},
}
_START = {"model", "small_stem", "pretrained", "checkpoint", "checkpoint_weights"}


def scaled(decay: float | list[float], factor: float) -> float | list[float]:
    """The epochs at which a learning rate decays, in a schedule of another length."""
    return [factor * one for one in decay] if isinstance(decay, list) else factor * decay


def apply_training(content: dict[str, Any], train: TeacherTraining) -> None:
    """Put the settings of a teacher in place of the student's, in the content of a recipe."""
    content["data"]["views"] = None  # views recur for the sake of stored advice
    content["data"].pop("unlabelled", None)  # a teacher learns from labels alone
    # Without `exclude_none`, which would drop `augment.randaugment: null`, too.
    given = {key: value for key, value in train.model_dump(mode="json").items() if value is not None}
    schedule, optim = content["schedule"], content["optim"]
    if train.epochs is not None:
        warmup, timed = schedule.get("warmup_epochs", 0), schedule.pop("time", None) is not None
        # A shorter schedule warms up for the same part of it; with a time, nothing is known of its epochs.
        part = min(warmup, WARMUP * train.epochs) if timed else warmup * train.epochs / schedule["epochs"]
        given.setdefault("warmup_epochs", part)
        if (decay := schedule.get("decay_epochs")) is not None:
            schedule["decay_epochs"] = scaled(decay, train.epochs / schedule["epochs"])
    for part, keys in _PLACES.items():
        values = {name: given[key] for name, key in keys.items() if key in given}
        content[part] |= {name: None if value is False else value for name, value in values.items()}
    for key in {key for keys in OWN.values() for key in keys} - set(OWN[optim.get("name", "adamw")]):
        optim.pop(key, None)  # what is said of the student's optimizer
    if schedule.get("name", "cosine") == "cosine":
        for key in ("decay_epochs", "decay_rate"):
            schedule.pop(key, None)


def teacher_recipe(recipe: Recipe, name: str, output: Path) -> Recipe:
    """The recipe by which a teacher is trained: the student's data and schedule, labels only.

    What `teachers.NAME.train` gives takes the place of the recipe's own setting.
    """
    settings = recipe.teachers[name]
    train = settings.train or TeacherTraining()
    content = recipe.model_dump(mode="json")
    options = dict(settings.options)
    if train.drop_path is not None:
        options["drop_path_rate"] = train.drop_path
    content["name"] = f"{recipe.name}-{name}"[:200]
    content["teachers"], content["loss"], content["advice"] = {}, {}, {}
    # What is said of the student's tokens and layers.
    content["optim"] |= {"token_lr": 1.0, "layer_decay": None, "backbone_lr": 1.0}
    content["schedule"]["head_epochs"] = 0
    start = settings.model_dump(mode="json", include=_START)
    content["student"] = start | {"options": options}
    apply_training(content, train)
    content["data"]["views_folder"] = None  # of views that recur
    for key in ("mean", "std", "image_size"):
        if getattr(settings, key) is not None:
            content["data"][key] = getattr(settings, key)
    content["run"] |= {"baselines": []}  # the run of the student measures them
    content["run"] |= {"output": str(output), "seed": train.seed if train.seed is not None else recipe.run.seed}
    return recipe_from(content, where=f"teachers.{name}.train")
