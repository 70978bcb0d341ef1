"""The teachers that a folder of experiments holds, as a recipe of a student that all of them advise."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..paper.arms import BIASES, Arm
from ..paper.beyond import BEYOND
from ..paper.imagenet import EXPERIMENTS
from ..recipe.reading import apply_setting, load_recipe, recipe_from
from ..recipe.schema import Recipe
from ..run.folder import RunFolder
from ..system.files import read_json
from .planner import Planner
from .scales import find_scale
from .setup import ExperimentSetup, set_up

MARK = "reproduce.json"
_STUDENTS = {arm.model for one in (*EXPERIMENTS.values(), *BEYOND) for arm in one.arms() if arm.teachers}


def mark_of(setup: ExperimentSetup) -> dict[str, Any]:
    """What a folder notes of the call that used it last: all that decides which of its runs are that call's."""
    classes = setup.content["data"].get("classes")
    return {
        "scale": setup.scale.name,
        "changed": list(setup.changed),
        "source": setup.source,
        "classes": None if classes is None else str(classes),
        "weights": dict(setup.weights),
    }


def recipe_of_teachers(folder: Path, settings: Sequence[str] = ()) -> Recipe:
    """The recipe of the labels-only student, with every finished run in the folder that may teach as a teacher.

    Those are the runs of models that are no students of any experiment, trained on labels alone for the full number of
    epochs, with the settings that the folder was last used with: a folder may have runs of others. Images and
    augmentation are the student's.

    Args:
        settings: `key=value` in place of the recipe's.

    Raises:
        RunError: no such run has finished, none with these settings, or the mark of the folder is damaged.
    """
    mark = read_json(folder / MARK, "begin anew in another folder")
    runs = [place for place in sorted((folder / "runs").glob("*.s*")) if _teaches(place)]
    if not runs:
        raise RunError(
            f"{folder} holds no finished run of a teacher; start it with `coadvise reproduce`, which trains teachers "
            "before their students, and use this command when some are there"
        )
    scale = find_scale(str(mark.get("scale")))
    earlier = "weights" not in mark  # a version that noted less
    if earlier:
        own = load_recipe(runs[0] / "recipe.yaml").data
        mark |= {"source": None if own.source == scale.source else own.source, "classes": own.classes}
    weights = {model: file for model, file in mark.get("weights", {}).items() if file == "timm" or Path(file).is_file()}
    changed = list(mark.get("changed", ()))
    setup = set_up(scale, folder, source=mark["source"], classes=mark["classes"], settings=changed, weights=weights)
    planner = Planner(setup)
    known = [
        place
        for place in runs
        if planner.run(Arm(_model(place)), _seed(place)).name == place.name or (earlier and _given(place))
    ]
    if twice := [one for one, other in itertools.pairwise(known) if _name(one) == _name(other)]:
        raise RunError(
            f"{folder} holds several runs that may be {_name(twice[0])}; use `coadvise reproduce` in it once more, so "
            "that it notes which of them is meant"
        )
    if not known:
        raise RunError(
            f"the teachers in {folder} are of other settings than it was last used with ({folder / MARK}); train those "
            "of these settings with `coadvise reproduce`, or use another folder"
        )
    content = planner.run(Arm("transformer_tiny"), 0).recipe.model_dump(mode="json")
    content["name"], content["data"]["views"] = folder.resolve().name, None
    content["teachers"] = {_name(place): _teacher(place) for place in known}
    content["run"]["output"] = str(folder)
    given = [apply_setting(content, setting) for setting in settings]
    return recipe_from(content, where=f"the teachers in {folder}", given=given)


def _teaches(place: Path) -> bool:
    model, *others = place.name.split(".")
    # Students have teachers between model and seed, teachers of Figure 4a a part of the epochs behind their name.
    if len(others) != 2 or "-" in model or model in _STUDENTS or not model.startswith(tuple(BIASES)):
        return False
    return RunFolder(place).whole


def _given(place: Path) -> bool:
    """Whether its weights were brought along (`--weights`), so that no settings made them."""
    student = load_recipe(place / "recipe.yaml").student
    return student.pretrained is True or student.checkpoint is not None


def _name(place: Path) -> str:
    """`resnet18` for seed 0, `resnet18-s1` for another."""
    return _model(place) + (f"-s{_seed(place)}" if _seed(place) else "")


def _teacher(place: Path) -> dict[str, Any]:
    model = _model(place)
    return {"model": f"run:{place}", "bias": next(bias for family, bias in BIASES.items() if model.startswith(family))}


def _model(place: Path) -> str:
    return place.name.partition(".")[0]


def _seed(place: Path) -> int:
    return int(place.name.split(".")[1].removeprefix("s"))
