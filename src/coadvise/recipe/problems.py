"""What is wrong with a recipe, in plain words: the place of each problem, and the setting that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_origin

from ..errors import did_you_mean, shortened
from .schema import Part, Recipe

# What else people call settings.
_ALSO = {
    "dataset": "data.source", "folder": "data.source", "path": "data.source", "images": "data.source",
    "learning_rate": "optim.lr", "batch": "optim.batch_size", "bs": "optim.batch_size", "wd": "optim.weight_decay",
    "img_size": "data.image_size", "size": "data.image_size", "num_workers": "data.workers", "amp": "run.precision",
}  # fmt: skip
# The setting that is meant where a single value is given for a part.
_FIRST = {
    "Data": "source", "Augmentation": "policy", "Student": "model", "Teacher": "model", "TeacherTraining": "epochs",
    "Advice": "source", "Loss": "advice", "Optim": "lr", "Schedule": "epochs", "Run": "output",
}  # fmt: skip
_LIMITS = {"greater_than": ">", "greater_than_equal": "≥", "less_than": "<", "less_than_equal": "≤"}


def explain(item: dict[str, Any], whole: type[Part] = Recipe) -> list[str]:
    """One validation error of pydantic in plain words."""
    location = [shortened(str(part)) for part in item["loc"]]
    place, kind, context = ".".join(location) or "the recipe", item["type"], item.get("ctx", {})
    value = shortened(repr(item["input"]))
    if kind == "extra_forbidden":
        return [f"{place or repr('')} is unknown{_hint(location, whole)}"]
    if location[-1:] == ["[key]"]:
        return [f"{'.'.join(location[:-2])}: {value} is no key; keys are words"]
    if kind == "missing":
        return [f"{place} is missing"]
    if kind in _LIMITS:
        (limit,) = context.values()
        return [f"{place} is {value}, must be {_LIMITS[kind]} {limit:{',' if isinstance(limit, int) else 'g'}}"]
    if kind == "literal_error":
        return [f"{place} is {value}, must be one of {context['expected']}"]
    if kind == "value_error":
        return [line if item["loc"] == () else f"{place}: {line}" for line in str(context["error"]).split("\n")]
    if kind in ("model_type", "model_attributes_type"):
        return [f"{place} is {value}, but stands for several settings{_inside(place, item['input'], context)}"]
    words = {
        "dict_type": "must be keys with values, such as {conv: 1}",
        "invalid_key": "but keys are words",
        "int_parsing_size": "must be a smaller number",
        "string_pattern_mismatch": "must be of letters, digits, '.', '_' and '-', and begin with a letter or a digit",
        "string_too_long": f"must have at most {context.get('max_length')} characters",
    }
    message = words.get(kind, f"must be {item['msg'].removeprefix('Input should be ')}")
    return [f"{place} is {value}, {message}"]


def meant(word: str, inside: str = "") -> str | None:
    """The setting that somebody probably means: `epochs` → `schedule.epochs`; one that is inside a part comes first."""
    word = shortened(word.replace("-", "_"))
    if word in Recipe.model_fields:
        part = part_in(Recipe.model_fields[word].annotation)
        first = _FIRST[part.__name__] if part and word != "teachers" else ""
        return f"{word}.{first}".rstrip(".")
    named = [path for path in _paths(Recipe) if path.rpartition(".")[2] == word]
    here = [path for path in named if inside and path.startswith(f"{inside}.")]
    plain = [path for path in named if ".NAME." not in path]
    return " or ".join((here or plain or named)[:2]) or _ALSO.get(word)


def _hint(location: Sequence[str], whole: type[Part]) -> str:
    """What may be meant by an unknown key: a setting of that name elsewhere, or one with a name like it."""
    *parts, word = location
    part = part_in(type_at(parts, whole))
    near = did_you_mean(word, part.model_fields if part else ())
    if whole is not Recipe:
        return near
    name = parts[1] if parts[:1] == ["teachers"] and len(parts) > 1 else "NAME"
    other = meant(word, ".".join("NAME" if i == 1 and parts[0] == "teachers" else p for i, p in enumerate(parts)))
    if other is None and "did you mean" not in near:
        paths = {path.rpartition(".")[2]: path for path in reversed(list(_paths(Recipe)))}
        alike = difflib.get_close_matches(word, paths, n=1, cutoff=0.75)
        other = paths[alike[0]] if alike else None
    return near if other is None else f" (did you mean {other.replace('NAME', name)}?)"


def _inside(place: str, value: Any, context: dict[str, Any]) -> str:
    first = _FIRST.get(context.get("class_name", ""))
    if first is None:
        return ""
    given = value if isinstance(value, (str, int, float)) and not isinstance(value, bool) else "…"
    return f"; write for example {place}.{first}={shortened(str(given))}"


def setting_names() -> list[str]:
    """Dotted names of all settings of a recipe but those of single teachers."""
    return [path for path in _paths(Recipe) if ".NAME." not in path]


def _paths(part: type[Part], prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings; those of a teacher have the name NAME, and come last."""
    later = []
    for name, field in part.model_fields.items():
        inner = part_in(field.annotation)
        if inner is None:
            yield prefix + name
        elif get_origin(field.annotation) is dict:
            later.append((inner, f"{prefix}{name}.NAME."))
        else:
            yield from _paths(inner, f"{prefix}{name}.")
    for inner, place in later:
        yield from _paths(inner, place)


def type_at(location: Sequence[str], whole: type[Part] = Recipe) -> Any:
    """The type of what stands at a place of the recipe; None where nothing can stand."""
    found: Any = whole
    names = iter(location)
    for name in names:
        part = part_in(found)
        if part is None or name not in part.model_fields:
            return None
        found = part.model_fields[name].annotation
        if part_in(found) and get_origin(found) is dict:
            next(names, None)  # a teacher's name
    return found


def part_in(annotation: Any) -> type[Part] | None:
    """The part of a recipe that a field holds, alone or by name; None where it holds plain values."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    return next((part for inner in get_args(annotation) if (part := part_in(inner))), None)
