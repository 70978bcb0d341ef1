"""The rooms of the package: a folder imports only folders below it, and inside a folder files point down.

The order of the rooms is that of the tree in docs/design.md, from top to bottom. There are no exceptions.
"""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import coadvise

ROOT = Path(coadvise.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
DESIGN = Path(__file__).resolve().parents[1] / "docs" / "design.md"


def module_file(parts: tuple[str, ...]) -> Path | None:
    """The file of a module of coadvise, if these are the parts of one's name."""
    path = ROOT.joinpath(*parts)
    if parts and path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").is_file() else None


def imported(path: Path) -> Iterator[Path]:
    """Files of coadvise that a file imports, also inside functions and for type checking alone."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        if isinstance(node, ast.Import):
            bases = [tuple(name.split(".")[1:]) for name in names if name.split(".")[0] == "coadvise"]
            for base in bases:
                file = module_file(base)
                assert file is not None, f"{path.relative_to(ROOT)} imports coadvise.{'.'.join(base)}"
                if file != path:
                    yield file
        elif isinstance(node, ast.ImportFrom):
            module = tuple(node.module.split(".")) if node.module else ()
            if node.level:
                base = package[: len(package) - node.level + 1] + module
            elif module[0] == "coadvise":
                base = module[1:]
            else:
                continue
            for name in names:
                file = module_file((*base, name)) or module_file(base)
                assert file is not None, f"{path.relative_to(ROOT)} imports {'.'.join(base)}.{name}, which is not there"
                if file != path:
                    yield file


def room(path: Path) -> str:
    """`data/views` for a file in that folder; a file at the top is a room of its own."""
    inside = path.relative_to(ROOT)
    return str(inside.parent) if len(inside.parts) > 1 else inside.name


def rooms_of_design() -> list[str]:
    """Rooms in the order of the tree in docs/design.md: the first imports any that follow."""
    tree = DESIGN.read_text().partition("src/coadvise/\n")[2].partition("```")[0]
    found, inside = [], ""
    for line in tree.splitlines():
        match = re.match(r"( +)([\w/.]+)", line)
        if match is None:
            continue
        name = match[2]
        if len(match[1]) == 2:
            inside = name.rstrip("/")
            found.append(inside)
        elif name.endswith("/"):
            found.append(f"{inside}/{name.rstrip('/')}")
    return found


def test_the_tree_names_every_room_once() -> None:
    rooms = rooms_of_design()
    assert sorted(rooms) == sorted({room(path) for path in FILES})


def test_files_that_the_design_names_are_there() -> None:
    text = DESIGN.read_text().partition("## Words")[2]
    named = re.findall(r"`((?:[\w.]+/)+(?:[\w.]+\.py)?)`", text)
    assert len(named) > 20
    missing = [name for name in named if not any((base / name).exists() for base in (ROOT, DESIGN.parents[1]))]
    assert not missing


def test_a_folder_imports_only_folders_below_it() -> None:
    place = {name: number for number, name in enumerate(rooms_of_design())}
    back = [
        f"{path.relative_to(ROOT)} imports {other.relative_to(ROOT)}"
        for path in FILES
        for other in imported(path)
        if room(other) != room(path) and place[room(other)] < place[room(path)]
    ]
    assert not back, back


def test_inside_a_folder_files_point_down() -> None:
    graph = {path: {other for other in imported(path) if room(other) == room(path)} for path in FILES}
    TopologicalSorter(graph).prepare()  # raises CycleError and names the files


def test_no_import_hides_from_these_tests() -> None:
    """Modules are imported by name in two places alone, which load the public names and register the models."""
    for path in FILES:
        if path.relative_to(ROOT).as_posix() not in ("__init__.py", "system/after_import.py"):
            names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
            attributes = {
                node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)
            }
            assert not (names | attributes) & {"import_module", "__import__"}, path


def test_paper_imports_nothing_but_names() -> None:
    """The paper's tables are data: whoever reads them needs neither PyTorch nor the rest of the package."""
    for path in (ROOT / "paper").glob("*.py"):
        assert {room(other) for other in imported(path)} <= {"paper", "names.py"}, path
        for node in ast.walk(ast.parse(path.read_text())):
            module = node.module if isinstance(node, ast.ImportFrom) and not node.level else None
            allowed = (None, "__future__", "collections.abc", "dataclasses", "typing")
            assert module in allowed, f"{path.name} imports {module}"


@pytest.mark.parametrize("limit", [400])
def test_modules_are_short(limit: int) -> None:
    long = {str(path.relative_to(ROOT)): n for path in FILES if (n := path.read_text().count("\n")) > limit}
    assert not long
