"""What may be shown to everybody: a recipe and names of models without the folders of the machine."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from ..recipe.reading import recipe_from
from ..recipe.schema import Recipe
from ..run.result import RunResult

_PATHS = (
    "source", "val_source", "unlabelled", "classes", "views_folder", "checkpoint", "folder", "output",
    "file", "checkpoint_path", "cache_dir",
)  # fmt: skip
"""Settings that are paths, also where these are relative; the last ones are options of timm's models."""
_NAMED = ("hf", "hf-hub", "hf_hub", "transformers", "timm")
"""What stands before the name of a model or of data on the Hub, which may be OWNER/NAME; a folder may be there, too."""


def public(recipe: Recipe) -> Recipe:
    """A recipe in which files and folders are named without the folders that they are in."""
    return recipe_from(_cleaned(recipe.content()), where="the recipe")


def public_result(result: RunResult) -> RunResult:
    """A result in which models and data are named so."""
    probes = () if result.baselines is None else result.baselines.probes
    return replace(
        result,
        student=replace(result.student, model=public_name(result.student.model)),
        teachers={name: replace(one, model=public_name(one.model)) for name, one in result.teachers.items()},
        data=replace(result.data, source=public_name(result.data.source, path=True)),
        baselines=None if result.baselines is None else replace(
            result.baselines, probes=tuple(replace(one, model=public_name(one.model)) for one in probes)
        ),
    )  # fmt: skip


def public_name(text: str, *, path: bool = False) -> str:
    """The name of a model or of data, which may be a path, without its folders: `run:/home/me/pets` → `run:pets`.

    Args:
        path: whether it is one even where it does not look so, `photographs/pets`.
    """
    kind, colon, rest = text.partition(":")
    if kind == "torchvision":
        return f"{kind}{colon}{rest.partition('@')[0]}"  # NAME@FOLDER
    if colon and re.fullmatch(r"[A-Za-z][\w-]+", kind):  # a single letter is a drive
        return f"{kind}:{public_name(rest, path=kind not in _NAMED)}"
    outside = re.match(r"[/\\~.]|[A-Za-z]:[/\\]", text)
    if not (path or outside or text.count("/") > 1):
        return text
    last = re.split(r"[/\\]", text.rstrip("/\\"))[-1]
    return "images" if last.startswith("~") or not last.strip(".") else last


def _cleaned(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _cleaned(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [_cleaned(one, key) for one in value]
    return public_name(value, path=key in _PATHS) if isinstance(value, str) else value
