"""The notebooks as pages, with what is kept in them: text, code, what it printed, and its pictures as files."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
# Of a link in notebooks/ what stands there in docs/notebooks/.
_MOVED = (
    (r"\]\((\w+)\.ipynb\)", r"](\1.md)"),
    (r"\]\(\.\./docs/", "](../"),
    (r"\]\(\.\./results/", "](../../results/"),
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def pages() -> dict[str, str | bytes]:
    """Pages and pictures by their place in the site."""
    made: dict[str, str | bytes] = {}
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        pictures: list[bytes] = []
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        parts = [part for cell in cells for part in _cell(cell, path.stem, pictures)]
        parts.insert(
            1, f"*This is [{path.name}](../../notebooks/{path.name}), as it ran; to change it, run it yourself.*"
        )
        made[f"notebooks/{path.stem}.md"] = "\n\n".join(parts) + "\n"
        made |= {_name(path.stem, number): one for number, one in enumerate(pictures, start=1)}
    return made


def _name(stem: str, number: int) -> str:
    return f"notebooks/{stem}-{number}.png"


def _cell(cell: dict[str, Any], stem: str, pictures: list[bytes]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        for old, new in _MOVED:
            source = re.sub(old, new, source)
        yield source
        return
    shell = source.startswith("%%bash\n")
    yield _fenced("bash" if shell else "python", source.removeprefix("%%bash\n"))
    printed = ""
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            pictures.append(base64.b64decode(data["image/png"]))
            drawn = re.search(r"set_title\(\"([^\"]+)\"|set\((xlabel=[^)]+)\)", source)
            what = f": {(drawn[1] or drawn[2]).replace('=', ' ')}" if drawn else ""
            title = re.sub(r"[\[\]\"]", "", f"Figure {len(pictures)} of the notebook, drawn by the code above{what}")
            yield f"![{title}]({_name(stem, len(pictures)).removeprefix('notebooks/')})"
        else:
            printed += "".join(output.get("text", data.get("text/plain", "")))
    if printed:
        yield _fenced("text", _COLOUR.sub("", printed))


def _fenced(language: str, text: str) -> str:
    return f"````{language}\n{text.strip()}\n````"
