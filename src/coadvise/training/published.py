"""Published weights, where they can be had: `pretrained: auto` becomes true or false before anything is recorded.

What a run's folder records is the recipe that ran. A resume goes on as its run began, whether the network is back or
gone.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ..errors import NoWeights
from ..models.factory import build_model
from ..models.hub import asks_the_hub
from ..recipe.reading import load_recipe, recipe_from
from ..recipe.schema import Recipe, Student, Teacher
from ..run.folder import RunFolder
from ..system.progress import Display

# Settings that hold loaded weights near to what they were; nothing is to be held of random ones.
_OF_LOADED = {
    "student": {"freeze_blocks": 0},
    "optim": {"layer_decay": None, "backbone_lr": 1.0},
    "schedule": {"head_epochs": 0},
}


def settled(
    recipe: Recipe, folder: RunFolder, accelerator: Accelerator, display: Display, given: Container[str] = ()
) -> Recipe:
    """The recipe with every `pretrained: auto` decided, the same on all processes; what was decided is shown.

    Args:
        given: parts that come from Python in place of the recipe's: `student`, `teachers.NAME`.
    """
    if not any(part.pretrained == "auto" for _, part in _parts(recipe)):
        return recipe
    notes: list[str] = []
    with accelerator.local_main_process_first():  # weights are downloaded once
        recipe = _decided(recipe, folder, given, notes)
    if accelerator.num_processes > 1:
        recipe = broadcast_object_list([recipe])[0]
    for note in notes:
        display.say(note)
    return recipe


def _parts(recipe: Recipe) -> Iterator[tuple[str, Student | Teacher]]:
    yield "student", recipe.student
    for name, teacher in recipe.teachers.items():
        yield f"teachers.{name}", teacher


def _decided(recipe: Recipe, folder: RunFolder, given: Container[str], notes: list[str]) -> Recipe:
    content = recipe.model_dump(mode="json")
    before = _recorded(folder, recipe)
    silent = False  # the Hub is asked once
    for section, part in _parts(recipe):
        if part.pretrained != "auto":
            continue
        place = content["student" if section == "student" else "teachers"]
        place = place if section == "student" else place[section.removeprefix("teachers.")]
        place["pretrained"] = False
        if part.checkpoint or section in given:
            continue
        if section in before:
            place["pretrained"] = before[section]
        else:
            asks = asks_the_hub(part.model, True, part.options)
            either = f"the published weights of {part.model} cannot be had either"
            why = either if silent and asks else _why_not(part, recipe)
            place["pretrained"] = not why
            if why:
                silent |= asks
                notes.append(_note(section, why))
        if section == "student" and not place["pretrained"]:
            for key, changes in _OF_LOADED.items():
                content[key] |= changes
    return recipe_from(content)


def _recorded(folder: RunFolder, recipe: Recipe) -> dict[str, Any]:
    """What an earlier start decided, by section. Teachers that are trained first have a run of their own."""
    found: dict[str, Any] = {}
    for name in recipe.teachers:
        file = folder.teacher(name).path / "recipe.yaml"
        if file.is_file():
            found[f"teachers.{name}"] = load_recipe(file).student.pretrained
    file = folder.path / "recipe.yaml"
    return found | {name: one.pretrained for name, one in _parts(load_recipe(file))} if file.is_file() else found


def _why_not(part: Student | Teacher, recipe: Recipe) -> str:
    """Why a model's weights cannot be had; empty where they can, and then they are on this machine afterwards."""
    size = getattr(part, "image_size", None) or recipe.data.image_size
    try:
        build_model(part.model, 2, image_size=size, small=part.small_stem, pretrained=True, options=part.options)
    except NoWeights as error:
        return error.why
    return ""


def _note(section: str, why: str) -> str:
    if section == "student":
        what = "the student starts from random weights, without layer_decay and other settings that are for loaded ones"
    else:
        what = f"teacher {section.removeprefix('teachers.')} starts from random weights"
    instead = ", the recipe `scratch` is made for random ones" if section == "student" else ""
    return f"{what}: {why}. Expect much lower accuracy; {section}.checkpoint=FILE takes weights from a file{instead}"
