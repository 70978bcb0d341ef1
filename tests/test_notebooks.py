"""Notebooks: their code holds, what is kept in them belongs to it, and they run from the first cell to the last."""

from __future__ import annotations

import ast
import base64
import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
PICTURE_BYTES = 600_000
HERE = re.compile(r"/(?:tmp|root|home|work|Users)/\w")
"""Starts of absolute paths, as a machine has them."""


def cells_of(path: Path) -> list[dict[str, Any]]:
    """Cells of code."""
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def source_of(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def python_of(cell: dict[str, Any]) -> str:
    """The Python of a cell: nothing of one in another language, and no magics."""
    lines = source_of(cell).splitlines()
    return "" if lines and lines[0].startswith("%%") else "\n".join(one for one in lines if not one.startswith("%"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["method", "photographs"]


def test_code_parses_and_what_it_imports_is_there(notebook: Path) -> None:
    tree = ast.parse("\n".join(map(python_of, cells_of(notebook))))
    found = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("coadvise"):
            module = importlib.import_module(node.module or "")
            found += sum(hasattr(module, alias.name) for alias in node.names)
            assert all(hasattr(module, alias.name) for alias in node.names), node.module
        public = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "coadvise"
        assert not public or hasattr(importlib.import_module("coadvise"), node.attr), node.attr
    assert found


def test_commands_and_their_options_are_there() -> None:
    from typer.main import get_command

    from coadvise.cli.main import app

    group: Any = get_command(app)
    cells = [source_of(cell) for path in NOTEBOOKS for cell in cells_of(path)]
    lines = [line for one in cells if one.startswith("%%bash") for line in one.splitlines()[1:]]
    commands = [shlex.split(line.removesuffix(" 2>&1")) for line in lines]
    assert len(commands) == 4 and all(program == "coadvise" for program, *_ in commands)
    for _, name, *words in commands:
        known = {option for parameter in group.commands[name].params for option in parameter.opts}
        assert known.issuperset(word for word in words if word.startswith("-")), name


def test_what_is_kept_belongs_to_the_code(notebook: Path) -> None:
    cells = cells_of(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "run it from its first cell"
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(output["output_type"] != "error" for output in outputs)
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    drawn = sum("subplots" in source_of(cell) for cell in cells)
    assert len(pictures) == drawn > 3
    assert sum(len(base64.b64decode(one)) for one in pictures) < PICTURE_BYTES
    told = [key for output in outputs for key in output.get("data", {})]
    assert set(told) <= {"image/png", "text/html", "text/plain"}
    for output in outputs:
        texts = [output.get("text", ""), *(one for key, one in output.get("data", {}).items() if key != "image/png")]
        text = "".join("".join(one) for one in texts)
        assert not HERE.search(text), HERE.search(text)
        assert "error:" not in text and "Warning" not in text
    assert notebook.stat().st_size < 1_000_000


@pytest.mark.slow
def test_they_run_from_first_to_last(notebook: Path, tmp_path: Path) -> None:
    """As they stand, in a folder of their own; a cell that fails ends it."""
    nbclient = pytest.importorskip("nbclient", reason="notebooks are run by nbclient: pip install nbclient ipykernel")
    nbformat = pytest.importorskip("nbformat", reason="notebooks are read by nbformat: pip install nbclient ipykernel")
    pytest.importorskip("ipykernel", reason="a notebook's code runs in ipykernel: pip install ipykernel")
    if notebook.stem == "photographs":
        pytest.importorskip("onnxruntime", reason="the notebook exports to ONNX: pip install 'coadvise[export]'")
    found = nbformat.read(notebook, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(found, timeout=1800, kernel_name="python3", resources=resources).execute()
    printed = "".join(o.get("text", "") for cell in found.cells for o in cell.get("outputs", []))
    assert ("same answers: True" if notebook.stem == "photographs" else "answers as its class token: True") in printed
