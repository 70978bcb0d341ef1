"""A recipe as a person would write it: settings in order, each below the reason for it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .yaml import flow_yaml

_WIDTH = 116


def commented(head: Iterable[str], settings: Sequence[tuple[str, Any, str]]) -> str:
    """The text of a recipe.

    Args:
        head: lines above it, without `#`.
        settings: dotted name, value and reason; those of one part are put together, where the first of them stands.
    """
    lines = [f"# {line}".rstrip() for line in head]
    before: list[str] = []
    for key, value, reason in sorted(settings, key=_place(settings)):
        path = key.split(".")
        shared = 0
        while shared < min(len(path), len(before)) - 1 and path[shared] == before[shared]:
            shared += 1
        for depth in range(shared, len(path) - 1):
            lines.append(f"{'  ' * depth}{path[depth]}:")
        indent = "  " * (len(path) - 1)
        if reason:
            lines += [f"{indent}# {line}" for line in textwrap.wrap(reason, _WIDTH - len(indent))]
        lines.append(f"{indent}{path[-1]}: {flow_yaml(value)}")
        before = path
    return "\n".join(lines) + "\n"


def _place(settings: Sequence[tuple[str, Any, str]]) -> Callable[[tuple[str, Any, str]], list[int]]:
    """Order of settings by where each of their parts is named first."""
    first: dict[str, int] = {}
    for number, (key, _, _) in enumerate(settings):
        for part in _parts(key):
            first.setdefault(part, number)
    return lambda setting: [first[part] for part in _parts(setting[0])]


def _parts(key: str) -> list[str]:
    """`a.b.c` → `a`, `a.b`, `a.b.c`."""
    path = key.split(".")
    return [".".join(path[: depth + 1]) for depth in range(len(path))]
