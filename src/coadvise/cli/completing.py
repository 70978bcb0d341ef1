"""What the shell offers behind Tab: built-in recipes, files, and the keys of a recipe's settings."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path


def recipes_from(incomplete: str) -> Iterator[str]:
    """Built-in recipes, and YAML files and folders, whose names begin so."""
    from ..recipe.reading import builtin_recipes

    yield from (name for name in builtin_recipes() if name.startswith(incomplete))
    yield from _paths_from(incomplete, (".yaml", ".yml"))


def settings_from(incomplete: str) -> Iterator[str]:
    """Settings whose names begin so, up to the sign behind which the value stands."""
    from ..recipe.problems import setting_names

    if "=" in incomplete:
        return
    names = [name for name in setting_names() if name.startswith(incomplete)]
    yield from (f"{name}=" for name in names)
    if len(names) == 1:  # of two with the same beginning, Bash writes that, and no space behind it
        yield f"{names[0]}=VALUE"


def _paths_from(incomplete: str, ends: tuple[str, ...]) -> Iterator[str]:
    folder, begin = Path(incomplete or "."), ""
    if not incomplete.endswith("/") and incomplete:
        folder, begin = folder.parent, folder.name
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return
    for path in found:
        hidden = path.name.startswith(".") and not begin.startswith(".")
        if path.name.startswith(begin) and not hidden and (path.is_dir() or path.suffix in ends):
            place = incomplete[: len(incomplete) - len(begin)] + path.name
            if shlex.quote(place) != place:  # Bash would write it as it is: its own completion of files escapes it
                continue
            yield f"{place}/" if path.is_dir() else place
