"""Reading recipes: YAML, overrides, and every problem explained at once."""

from __future__ import annotations

import copy
import difflib
import os
import shlex
import stat
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ..errors import RecipeError, did_you_mean, escaped, few, require, shortened
from .fields import kinds
from .problems import explain, type_at
from .schema import Part, Recipe
from .yaml import dump_yaml, parse_yaml, read_text

# Parts that may be written as a single value, and the field it stands for.
SHORT = {"advice": "source"}
_SHOWN = 10  # problems that a message names


def builtin_recipes() -> dict[str, Path]:
    """The recipes that come with coadvise, by name."""
    folder = Path(str(resources.files("coadvise"))) / "recipe" / "builtin"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a file, or a built-in one by name, and apply `key=value` overrides.

    Args:
        source: path to a YAML file, or a name listed by `builtin_recipes`.
        overrides: such as `schedule.epochs=10`; the value is YAML, and `null` removes a default.

    Raises:
        RecipeError: every problem at once, each with its place.
    """
    require(source, (str, os.PathLike), "a recipe's source", "give the path of a YAML file, or a name", RecipeError)
    how = 'give a list of texts, such as ["schedule.epochs=10"]'
    require(overrides, (list, tuple), "overrides", how, RecipeError)
    for override in overrides:
        require(override, str, "an override", how, RecipeError)
    known = builtin_recipes()
    path, where = Path(source), str(source)
    if not _readable(path):
        if where not in known:
            raise RecipeError(_no_recipe(path, known))
        path, where = known[where], f"the built-in recipe {where}"
    content = parse_yaml(read_text(path), where)
    if not isinstance(content, dict):
        raise RecipeError(f"{where} is no recipe: expected keys such as name, data and student at the top")
    given = [apply_setting(content, override) for override in overrides]
    for key, other in (("time", "epochs"), ("epochs", "time")):  # the command line's replaces the file's
        if f"schedule.{key}" in given and f"schedule.{other}" not in given and content["schedule"][key] is not None:
            content["schedule"].pop(other, None)
    return recipe_from(content, where, given)


def _readable(path: Path) -> bool:
    """Whether it is a file, or a pipe as shells make of `<(…)`."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # no file has a name of 5000 letters, or one with a NUL
        return False
    return stat.S_ISREG(mode) or stat.S_ISFIFO(mode)


def _no_recipe(path: Path, known: Collection[str]) -> str:
    if os.path.isfile(path / "recipe.yaml"):
        recipe = path / "recipe.yaml"
        words = shlex.join(["coadvise", "train", str(recipe), f"run.output={path}", "--resume"])
        return f"{path} is a folder; the recipe of that run is {recipe}. To go on with the run:\n  {words}"
    if os.path.isdir(path):
        inside = sorted(file.name for file in path.glob("*.y*ml"))
        if inside:
            return f"{path} is a folder, not a recipe; give a file in it: {few(inside)}"
        images = shlex.join(["coadvise", "train", "folder", f"data.source={path}"])
        return f"{path} is a folder without recipes; give a YAML file. To train on images in that folder:\n  {images}"
    if os.path.exists(path):
        return f"{path} is no file that can be read to its end; give a YAML file, or a pipe"
    beside = [*path.parent.glob("*.yaml"), *path.parent.glob("*.yml")] if os.path.isdir(path.parent) else []
    named = {file.name.casefold(): file for file in sorted(beside)}
    if near := difflib.get_close_matches(path.name.casefold(), named, n=1, cutoff=0.8):
        hint = f" (did you mean {named[near[0]]}?)"
    else:
        hint = did_you_mean(shortened(str(path)), known)
    return f"there is no recipe file '{shortened(str(path), 200)}', and no built-in recipe of that name{hint}"


def apply_setting(content: dict[str, Any], override: str) -> str:
    """Put one `key=value` into the content of a recipe.

    Returns:
        The key, written in full.

    Raises:
        RecipeError: not of the form key=value, or a value that is not YAML.
    """
    if escaped(override) != override:
        raise RecipeError(
            f"'{escaped(override)}' is not UTF-8, so no file of a run can hold it; rename that file, or link to it"
        )
    key, equals, value = override.partition("=")
    key = key.strip()
    key = f"{key}.{SHORT[key]}" if key in SHORT else key
    *path, last = key.split(".")
    if not equals or not all((*path, last)):
        raise RecipeError(f"'{override}' is no setting; write key=value, for example schedule.epochs=10")
    place = content
    for part in path:
        if part in SHORT and isinstance(place.get(part), str):
            place[part] = {SHORT[part]: place[part]}
        if place.get(part) is None:
            place[part] = {}
        place = place[part]
        if not isinstance(place, dict):
            raise RecipeError(f"'{override}': {part} is a single value and has no keys of its own")
    # A path may look like anything: `photos #2`, `{a,b}/*.tar`, `2024: spring`. YAML means what is quoted, or nothing.
    nothing = value.strip().lower() in ("", "null", "~")
    if path == ["teachers"] and nothing:
        _leave_out(content, last)
        return key
    plain = _takes_text(key) and not nothing and value.strip()[0] not in "'\""
    place[last] = value.strip() if plain else parse_yaml(value, f"the value of {key}")
    return key


def _leave_out(content: dict[str, Any], teacher: str) -> None:
    """Train without one of a recipe's teachers, and with nothing that is said of it alone."""
    if teacher not in content["teachers"]:
        hint = did_you_mean(teacher, content["teachers"])
        raise RecipeError(f"teachers.{teacher}=null leaves a teacher out, but there is no teacher '{teacher}'{hint}")
    del content["teachers"][teacher]
    loss, student = content.get("loss"), content.get("student")
    said = [loss.get(name) for name in ("weights", "temperatures")] if isinstance(loss, dict) else []
    said += [student.get(name) for name in ("tokens", "read_at")] if isinstance(student, dict) else []
    for one in said:
        if isinstance(one, dict):
            one.pop(teacher, None)


def _takes_text(key: str) -> bool:
    """Whether a setting takes text alone, such as a path or a name."""
    return kinds(type_at(key.split("."))) - {type(None)} == {str}


def recipe_from(content: Mapping[str, Any], where: str = "recipe", given: Sequence[str] = ()) -> Recipe:
    """Validate a mapping.

    Args:
        where: what the content is, for messages.
        given: keys that were set on the command line, and not there.

    Raises:
        RecipeError: `2 problems in my.yaml: optim.lrr is unknown (did you mean lr?); …`
    """
    return validated(Recipe, content, where, given)


PartType = TypeVar("PartType", bound=Part)


def validated(kind: type[PartType], content: Mapping[str, Any], where: str, given: Sequence[str] = ()) -> PartType:
    """Validate a recipe, or one part of a recipe.

    Raises:
        RecipeError: names every problem.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        items = [dict(item) for item in error.errors(include_url=False)]
        problems = [line for item in items[:_SHOWN] for line in explain(item, kind)]
        problems += _problems_behind(content, items) if kind is Recipe else []
        if len(items) > _SHOWN:
            problems.append(f"and {len(items) - _SHOWN} more")
        count = "1 problem" if len(problems) == 1 else f"{max(len(problems), len(items))} problems"
        raise RecipeError(f"{count} {_at(items, where, given)}: " + "; ".join(problems)) from None


def _at(items: list[dict[str, Any]], where: str, given: Sequence[str]) -> str:
    """Where the problems come from: nobody looks into a file for what stands on the command line."""
    places = [".".join(map(str, item["loc"])) for item in items]
    typed = [any(f"{place}.".startswith(f"{key}.") for key in given) for place in places]
    if given and all(typed):
        return "on the command line"
    inside = any(key.startswith(f"{place}.") for place in places for key in given)  # of options, which are one field
    mixed = any(typed) or inside or (given and "" in places)  # a problem between fields has no place
    return f"in {where} with the settings of the command line" if mixed else f"in {where}"


def _problems_behind(content: Mapping[str, Any], items: list[dict[str, Any]]) -> list[str]:
    """Problems between fields; pydantic looks for them only once every field is valid, so leave out the bad ones."""
    if any(item["loc"][:1] == ("teachers",) and len(item["loc"]) < 3 for item in items):
        return []  # without a teacher, what names it seems wrong
    rest = copy.deepcopy(dict(content))
    dropped = False
    for item in items:
        place: Any = rest
        for part in item["loc"][:-1]:
            place = place.get(part) if isinstance(place, dict) else None
        if item["loc"] and isinstance(place, dict):
            dropped |= place.pop(item["loc"][-1], None) is not None
    if not dropped:
        return []
    try:
        Recipe.model_validate(rest)
    except ValidationError as error:
        bad = [".".join(map(str, item["loc"])) for item in items]
        lines = [
            line for item in error.errors() if item["type"] == "value_error" for line in explain(dict(item), Recipe)
        ]
        return [line for line in lines if not any(_asks_for(place, line) for place in bad)]
    return []


def _asks_for(place: str, line: str) -> bool:
    """Whether a problem is that a setting is missing, which was left out for its own problem; also of a teacher's."""
    name = place.rpartition(".")[2]
    return f" needs {place}," in line or (place.startswith("schedule.") and f".train.{name}," in line)


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every default written out, so that it stays valid when defaults change."""
    return dump_yaml(recipe.model_dump(mode="json"))


def json_schema() -> dict[str, Any]:
    """JSON schema of recipes, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}
