"""The epochs that a run was fitted to, where its recipe gives a time: noted in `manifest.json`, read by a resume."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from ..errors import RunError
from ..recipe.reading import load_recipe
from ..recipe.schedule import seconds_in
from ..recipe.schema import Recipe
from ..system.files import read_json
from .folder import RunFolder


@with_config(ConfigDict(extra="ignore"))
@dataclass(frozen=True)
class Fitted:
    """What `schedule.time` came to.

    Attributes:
        time: as the recipe gives it.
        epoch_seconds: of an epoch, its evaluation counted, as measured.
    """

    time: str
    epochs: int
    warmup_epochs: float
    epoch_seconds: float

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe of the run itself: so many epochs, and no time."""
        resolved = {"epochs": self.epochs, "warmup_epochs": self.warmup_epochs, "time": None}
        return recipe.model_copy(update={"schedule": recipe.schedule.model_copy(update=resolved)})


_ADAPTER = TypeAdapter(Fitted)


def fitted_facts(folder: RunFolder, recipe: Recipe) -> dict[str, Any]:
    """What the manifest keeps of the fit, once the epochs are known: nothing where it was of another recipe."""
    found = _read(folder)
    same = found is not None and found.applied(recipe) == recipe
    return {"fitted": dataclasses.asdict(found)} if found is not None and same else {}


def as_fitted_before(recipe: Recipe, folder: RunFolder) -> Recipe:
    """The recipe with the epochs that an earlier start of its run was fitted to; as it is where there was none.

    Raises:
        RunError: the run that the folder holds was not fitted, or to another time.
    """
    time = recipe.schedule.time
    if time is None:
        return recipe
    found, begun = _read(folder), folder.finished or folder.last.is_file()
    elsewhere = "or choose another folder with run.output=FOLDER"
    if found is None and begun:
        epochs = load_recipe(folder.path / "recipe.yaml").schedule.epochs
        raise RunError(
            f"{folder.path} holds a run of {epochs} epochs that was not fitted to a time; in place of schedule.time "
            f"give schedule.epochs={epochs}, {elsewhere}"
        )
    if found is None:
        return recipe
    if seconds_in(found.time) != seconds_in(time):
        if begun:
            raise RunError(
                f"{folder.path} holds a run that was fitted to {found.time} ({found.epochs} epochs), not to {time}; "
                f"use schedule.time={found.time}, {elsewhere}"
            )
        return recipe
    resolved = found.applied(recipe)
    same = begun or load_recipe(folder.path / "recipe.yaml").fingerprint() == resolved.fingerprint()
    return resolved if same else recipe


def _read(folder: RunFolder) -> Fitted | None:
    path = folder.path / "manifest.json"
    if not (path.is_file() and (folder.path / "recipe.yaml").is_file()):
        return None
    content = read_json(path)
    noted = content.get("fitted") if isinstance(content, dict) else None
    if noted is None:
        return None
    try:
        return _ADAPTER.validate_python(noted)
    except ValidationError as error:
        raise RunError(f"{path} is damaged: 'fitted' is {noted}; put back the file that the run wrote") from error
