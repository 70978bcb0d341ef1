"""The page of all recipe keys, from the JSON schema that `coadvise schema` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from coadvise.recipe.reading import json_schema
from coadvise.recipe.yaml import flow_yaml

_HEAD = """\
---
description: Every key of a recipe, with its values, default and meaning.
---
# Recipe keys

A recipe is a YAML file. These are all of its keys, with the values that they take and their defaults; only
`name` and `data.source` have none and must be given. On the command line a key is set by its dotted name, as in
`optim.lr=1e-3`; `NAME` is the name of a teacher or a token. `coadvise recipe NAME --full` writes a recipe out
with every default, and `coadvise schema` prints what this page is made from, for editors. Numbers may be
written `1e-3`, switches `on` and `off`.

"""
_ONE_FOR_EACH = "NAME"


def text() -> str:
    """The page in Markdown."""
    whole = json_schema()
    return _HEAD + "\n".join(_part(whole, "", whole))


def _part(part: dict[str, Any], prefix: str, whole: dict[str, Any]) -> Iterator[str]:
    """Keys of a part, and below them the parts that it holds."""
    later = []
    for name, field in part["properties"].items():
        key = prefix + name
        inner, named = _inner(field, whole)
        if inner is None:
            yield from _entry(key, field, required=name in part.get("required", ()))
        else:
            later.append((f"{key}.{_ONE_FOR_EACH}" if named else key, inner, field))
    for key, inner, field in later:
        yield f"## `{key}` {{ #{key} }}\n"
        yield f"{_prose(field.get('description') or inner.get('description', ''))}\n"
        if key.endswith(".augment") and key != "data.augment":
            yield "Keys as those of [`data.augment`](#data.augment).\n"
            continue
        yield from _part(inner, f"{key}.", whole)


def _inner(field: dict[str, Any], whole: dict[str, Any]) -> tuple[dict[str, Any] | None, bool]:
    """The part that a field holds, and whether it holds one for each name."""
    if "$ref" in field:
        return whole["$defs"][field["$ref"].rpartition("/")[2]], False
    values = field.get("additionalProperties")
    if isinstance(values, dict) and "$ref" in values:
        return _inner(values, whole)[0], True
    for one in field.get("anyOf", ()):
        if "$ref" in one:
            return _inner(one, whole)
    return None, False


def _entry(key: str, field: dict[str, Any], required: bool) -> Iterator[str]:
    default = "must be given" if required else f"default `{flow_yaml(field.get('default'))}`"
    level = "###" if "." in key else "##"  # a page has no gap between its headings
    yield f"{level} `{key}` {{ #{key} }}\n"
    yield f"{kind(field)} · {default}\n{{ .type }}\n"
    yield f"{_prose(field.get('description', ''))}\n"


def _prose(description: str) -> str:
    return " ".join(description.split())


def kind(field: dict[str, Any]) -> str:
    """The values that a field takes, in words: `whole number ≥ 1, or null`."""
    if "anyOf" in field:
        words = [kind(one) for one in field["anyOf"]]
        return f"{', '.join(words[:-1])}, or {words[-1]}" if len(words) > 1 else words[0]
    if "const" in field:
        return f"`{flow_yaml(field['const'])}`"
    if "enum" in field:
        return ", ".join(f"`{flow_yaml(one)}`" for one in field["enum"])
    name = field.get("type")
    if name in ("integer", "number"):
        return ("whole number" if name == "integer" else "number") + _bounds(field)
    if name == "array":
        if "prefixItems" in field:
            inner = field["prefixItems"]
            return f"{len(inner)} numbers{_bounds(inner[0])}" if _alike(inner) else "; ".join(map(kind, inner))
        return f"list of: {kind(field['items'])}" if field.get("items") else "list"
    if name == "object":
        values = field.get("additionalProperties")
        return f"names, each with: {kind(values)}" if isinstance(values, dict) and values else "keys with values"
    return {"string": "text", "boolean": "`true` or `false`", "null": "`null`"}.get(str(name), "any value")


def _alike(inner: list[dict[str, Any]]) -> bool:
    return all(one == inner[0] and one.get("type") == "number" for one in inner)


def _bounds(field: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    # 10⁹ and 2³² are limits of what can be counted, and no advice.
    found = [f"{sign} {field[key]:g}" for key, sign in signs.items() if key in field and abs(field[key]) < 1e9]
    return f" {' and '.join(found)}" if found else ""
