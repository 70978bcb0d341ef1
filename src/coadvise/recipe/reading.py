"""Reading recipes: YAML, overrides, and every problem explained at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import ValidationError

from ..errors import RecipeError, did_you_mean
from .schema import Part, Recipe
from .yaml import dump_yaml, parse_yaml

# Parts that may be written as a single value, and the field it stands for.
SHORT = {"advice": "source"}


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
    path = Path(source)
    if not path.is_file():
        known = builtin_recipes()
        if str(source) not in known:
            hint = did_you_mean(str(source), known)
            raise RecipeError(f"there is no recipe file '{source}', and no built-in recipe of that name{hint}")
        path = known[str(source)]
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from error
    content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        raise RecipeError(f"{path} is no recipe: expected keys such as name, data and student at the top")
    for override in overrides:
        apply_setting(content, override)
    return recipe_from(content, where=str(path))


def apply_setting(content: dict[str, Any], override: str) -> None:
    """Put one `key=value` into the content of a recipe.

    Raises:
        RecipeError: not of the form key=value, or a value that is not YAML.
    """
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"'{override}' is no setting; write key=value, for example schedule.epochs=10")
    key = f"{key.strip()}.{SHORT[key.strip()]}" if key.strip() in SHORT else key.strip()
    *path, last = key.split(".")
    place = content
    for part in path:
        if part in SHORT and isinstance(place.get(part), str):
            place[part] = {SHORT[part]: place[part]}
        if place.get(part) is None:
            place[part] = {}
        place = place[part]
        if not isinstance(place, dict):
            raise RecipeError(f"'{override}': {part} is a single value and has no keys of its own")
    place[last] = parse_yaml(value, f"the value of {key}")


def recipe_from(content: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Validate a mapping.

    Raises:
        RecipeError: `2 problems in my.yaml: optim.lrr is unknown (did you mean lr?); …`
    """
    return validated(Recipe, content, where)


PartType = TypeVar("PartType", bound=Part)


def validated(kind: type[PartType], content: Mapping[str, Any], where: str) -> PartType:
    """Validate a recipe, or one part of a recipe.

    Raises:
        RecipeError: names every problem.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        items = [dict(item) for item in error.errors()]
        problems = [line for item in items for line in _explain(item, kind)]
        problems += _problems_behind(content, items) if kind is Recipe else []
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise RecipeError(f"{count} in {where}: " + "; ".join(problems)) from None


def _problems_behind(content: Mapping[str, Any], items: list[dict[str, Any]]) -> list[str]:
    """Problems between fields; pydantic looks for them only once every field is valid, so leave out the bad ones."""
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
        return [line for item in error.errors() if item["type"] == "value_error" for line in _explain(dict(item))]
    return []


_LIMITS = {"greater_than": ">", "greater_than_equal": "≥", "less_than": "<", "less_than_equal": "≤"}


def _explain(item: dict[str, Any], whole: type[Part] = Recipe) -> list[str]:
    """One validation error of pydantic in plain words."""
    location = [str(part) for part in item["loc"]]
    place, kind, value, context = ".".join(location), item["type"], item["input"], item.get("ctx", {})
    if kind == "extra_forbidden":
        return [f"{place} is unknown{did_you_mean(location[-1], _fields_at(location[:-1], whole))}"]
    if kind == "missing":
        return [f"{place} is missing"]
    if kind in _LIMITS:
        (limit,) = context.values()
        return [f"{place} is {value}, must be {_LIMITS[kind]} {limit:g}"]
    if kind == "literal_error":
        return [f"{place} is {value!r}, must be one of {context['expected']}"]
    if kind == "value_error":
        return str(context["error"]).split("\n")
    message = item["msg"].removeprefix("Input should be ")
    return [f"{place or 'the recipe'} is {value!r}, must be {message}"]


def _fields_at(location: Sequence[str], whole: type[Part]) -> list[str]:
    """Known keys at a place of the recipe."""
    part, names = whole, iter(location)
    for name in names:
        annotation = part.model_fields[name].annotation
        found = _part_in(annotation)
        if found is None:
            return []
        part = found
        if get_origin(annotation) is dict:
            next(names, None)  # a teacher's name
    return list(part.model_fields)


def _part_in(annotation: Any) -> type[Part] | None:
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    return next((part for inner in get_args(annotation) if (part := _part_in(inner))), None)


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every default written out, so that it stays valid when defaults change."""
    return dump_yaml(recipe.model_dump(mode="json"))


def json_schema() -> dict[str, Any]:
    """JSON schema of recipes, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}
