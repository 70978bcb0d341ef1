"""`coadvise recipes`, `recipe`, `schema` and `models`: listing and checking recipes, and listing models."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

import typer

from ..system.screen import Table
from .arguments import RecipeName, Settings, out

_LOOKED_AT = 10
"""Models of a list that are made, without weights, to see what their bias is; of a longer one, names tell it."""


def recipes() -> None:
    """List the built-in recipes: what each does, and what it costs.

    Example:

        coadvise recipes
    """
    from ..recipe.reading import builtin_recipes

    table = Table("recipe", "what it does")
    for name, path in builtin_recipes().items():
        comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        table.add_row(name, comments[0].lstrip("# ") if comments else "")
    out.print(table)


def recipe(
    source: RecipeName,
    settings: Settings = None,
    full: Annotated[bool, typer.Option("--full", help="write out every default")] = False,
) -> None:
    """Check a recipe and print it; a good start for one of your own.

    Examples:

        coadvise recipe folder > my.yaml

        coadvise recipe my.yaml optim.lr=1e-3 --full
    """
    from ..recipe.reading import builtin_recipes, dump_recipe, load_recipe

    checked = load_recipe(source, settings or [])
    path = Path(source) if Path(source).is_file() else builtin_recipes().get(source)
    if full or settings or path is None:  # a pipe is read once
        print(dump_recipe(checked), end="")
    else:
        print(path.read_text(encoding="utf-8"), end="")


def schema() -> None:
    """Print the JSON schema of recipes, for editors.

    Example:

        coadvise schema > recipe.schema.json
    """
    from ..recipe.reading import json_schema

    print(json.dumps(json_schema(), indent=1))


def models(
    pattern: Annotated[
        str, typer.Argument(help="part of a name, or a pattern such as 'vit_*_patch16_*'; `*` is all")
    ] = "",
) -> None:
    """List coadvise's models, with their parameters at 1000 classes, and timm's that have a word in their names.

    Examples:

        coadvise models

        coadvise models regnet
    """
    import timm
    import torch

    from ..errors import ModelError, nearest
    from ..models import cit, rednet, students
    from ..models.bias import bias_of
    from ..recipe.address import guess_bias

    ours = sorted({*cit.default_cfgs, *rednet.default_cfgs, *students.default_cfgs})
    known = [*ours, *(name for name in timm.list_models() if name not in ours)] if pattern else ours
    whole = any(letter in pattern for letter in "*?[")
    table = Table("model", "parameters", "bias", "of")
    shown = [name for name in known if (fnmatch(name, pattern) if whole else pattern.lower() in name)]
    kind_of = bias_of if len(shown) <= _LOOKED_AT else guess_bias
    for name in shown:
        parameters = ""
        if name in ours:
            with torch.device("meta"):  # no weights are made
                count = sum(parameter.numel() for parameter in timm.create_model(name).parameters())
            parameters = f"{count / 1e6:.2f} M"
        table.add_row(name, parameters, kind_of(name) or "", "coadvise" if name in ours else "timm")
    if not table.row_count:
        hint = nearest(pattern, known) or "; `coadvise models '*'` lists all"
        raise ModelError(f"no model of coadvise or timm has '{pattern}' in its name{hint}")
    out.print(table)
