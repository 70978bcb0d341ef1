"""The page of the public Python names, from their docstrings; nothing is imported for it."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "coadvise" / "__init__.py"

_HEAD = """\
---
description: The public Python names of coadvise, with arguments, shapes and errors.
---
# Python

`import coadvise` is quick: each name is loaded when it is used. With it, timm knows coadvise's models:
`timm.create_model("cit_small", num_classes=37)`.

"""


def text() -> str:
    """The page in Markdown: one directive for each public name, in the order of what one needs first."""
    return _HEAD + "\n".join(f"::: coadvise.{name}\n" for name in public())


def public() -> list[str]:
    """The names in `__all__`, those that are functions or classes."""
    tree = ast.parse(PACKAGE.read_text(encoding="utf-8"))
    values = {
        target.id: node.value for node in tree.body if isinstance(node, ast.Assign) for target in node.targets
        if isinstance(target, ast.Name)
    }  # fmt: skip
    homes = ast.literal_eval(values["_HOMES"])
    return [name for name in ast.literal_eval(values["__all__"]) if name in homes]
