"""The page of findings: the table of findings/README.md as one section for each, with its script."""

from __future__ import annotations

import re
from pathlib import Path

FINDINGS = Path(__file__).resolve().parents[2] / "findings"
_HEAD = """\
---
description: Where other libraries surprise on valid input, each with a script that shows it.
---
"""


def text() -> str:
    """The page in Markdown."""
    before, rows = parts((FINDINGS / "README.md").read_text(encoding="utf-8"))
    found: dict[str, list[str]] = {}
    for script, library, surprise, cost, here in rows:
        found.setdefault(re.split(r"[ ,]", library)[0], []).append(_section(script, library, surprise, cost, here))
    sections = [f"## {library}\n\n" + "\n".join(ones) for library, ones in found.items()]
    return _HEAD + before.strip() + "\n\n" + "\n".join(sections)


def parts(readme: str) -> tuple[str, list[list[str]]]:
    """What stands before the table, and the cells of its rows."""
    before, _, table = readme.partition("\n| script |")
    lines = [line for line in table.splitlines()[2:] if line.startswith("|")]
    return before, [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def _section(script: str, library: str, surprise: str, cost: str, here: str) -> str:
    match = re.match(r"\[(\w+)\]\((\w+\.sh)\)(.*)", script)
    assert match is not None, script
    name, file, mark = match.groups()
    title = name.removeprefix(f"{library.split()[0].lower()}_").replace("_", " ")
    link = f"[{file}](../findings/{file})"
    return f"""\
### {title[0].upper()}{title[1:]} {{ #{name} }}

{surprise[0].upper()}{surprise[1:]}. With {library}; shown by {link}{mark}.

- **What it costs**: {cost}.
- **In coadvise**: {here}.
"""
