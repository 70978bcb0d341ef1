"""Every block of code and every command of every page and README: run, or read to its end by what it is meant for.

`helpers/blocks.py` says how a block asks for what it needs, `helpers/desk.py` which files it finds. A block that is
checked in no way fails.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
from helpers import desk, shell
from helpers.blocks import Block, Command, blocks, commands, inline

from coadvise.errors import CoadviseError
from coadvise.export.exporting import export
from coadvise.export.targets import TARGETS
from coadvise.recipe.optim import TeacherTraining
from coadvise.recipe.problems import type_at
from coadvise.recipe.reading import recipe_from
from coadvise.recipe.schema import Recipe
from coadvise.recipe.yaml import parse_yaml
from coadvise.reproduce.scales import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
SHELL = ("bash", "sh", "shell", "console")
SHOWN = ("", "text")


def _pages() -> dict[str, str]:
    """Pages and READMEs, and pages that are made when the site is built, with their texts."""
    files = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "findings/README.md",
        ROOT / "results/README.md",
    ]
    found = {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in sorted(files)}
    for name in ("recipe_page", "command_page"):
        spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / "site" / f"{name}.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found[f"tools/site/{name}.py"] = module.text()
    return found


PAGES = _pages()
BLOCKS = [block for name, text in PAGES.items() for block in blocks(name, text)]
INLINE = [block for name, text in PAGES.items() for block in inline(name, text)]


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The desk, as the current folder, with a finished run."""
    place, before = desk.lay_out(tmp_path_factory.mktemp("desk")), Path.cwd()
    os.chdir(place)
    try:
        desk.finished()
        yield place
    finally:
        os.chdir(before)


def test_every_block_has_a_language_that_is_checked() -> None:
    known = {*SHELL, *SHOWN, "python", "yaml", "json"}
    assert not [block.place for block in BLOCKS if block.language not in known]
    assert {"README.md", "docs/index.md"} <= PAGES.keys()
    assert len(BLOCKS) == sum(len(re.findall(r"^[ >]*```+ *[\w{]", text, re.M)) for text in PAGES.values()) + len(
        of("")
    )


def test_what_comments_say_of_blocks_is_understood() -> None:
    for name, text in PAGES.items():
        if "<!-- test: shown in " in text:
            continue
        comments = re.findall(r"<!-- test: (.*?) -->", text, re.S)
        assert len(comments) == sum(bool(block.said) for block in BLOCKS if block.page == name), name
    for block in BLOCKS:
        assert set(block.given) <= desk.GIVEN.keys(), block.place
        assert not block.said or re.match(r"given .|in test_\w+$|slow$|none, .", block.said), block.place
        if block.said.startswith("none"):
            assert block.language in SHOWN, f"{block.place}: code is run or read"


@pytest.mark.parametrize("page", sorted({block.page for block in of(*SHELL)}))
def test_commands_are_read_to_their_end(page: str, folder: Path) -> None:
    problems = []
    for command in (one for block in of(*SHELL) if block.page == page for one in _commands(block)):
        try:
            shell.check(command.words)
        except (Exception, SystemExit) as error:
            problems.append(f"{command.place}: {' '.join(command.words)}: {_said(error)}")
    assert not problems, "\n".join(problems)


def test_quick_commands_run(folder: Path) -> None:
    """One of each command with the same options."""
    _run_all(QUICK, [command for command in _coadvise_commands() if not _is_slow(command)])


@pytest.mark.slow
def test_other_commands_run(folder: Path) -> None:
    export(Path("runs/pets"), TARGETS["onnx"])
    desk.train_one("my")
    _run_all(LONGER, [one for one in _coadvise_commands() if one.words[1] not in QUICK or _is_slow(one)])


@pytest.mark.parametrize("block", of("python"), ids=lambda block: block.place)
def test_python_compiles(block: Block) -> None:
    compile(block.text, block.place, "exec")


def _runnable(slow: bool) -> list[str]:
    """Pages with blocks of Python that this file runs."""
    return sorted({one.page for one in of("python") if not one.said.startswith("in ") and (one.said == "slow") == slow})


@pytest.mark.parametrize("page", _runnable(slow=False))
def test_python_runs(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run_python(page, monkeypatch, ("given", ""))


@pytest.mark.slow
@pytest.mark.parametrize("page", _runnable(slow=True))
def test_longer_python_runs(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run_python(page, monkeypatch, ("given", "", "slow"))


def _run_python(page: str, monkeypatch: pytest.MonkeyPatch, kinds: tuple[str, ...]) -> None:
    """The blocks of a page one after the other, as a reader would type them; large models are small ones."""
    monkeypatch.setattr(timm, "create_model", desk.create_small(timm.create_model))
    scope: dict[str, Any] = {"__name__": "page"}
    for block in of("python"):
        if block.page == page and block.said.partition(" ")[0] in kinds:
            scope |= {name: desk.GIVEN[name]() for name in block.given}
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile("\n" * block.line + block.text, page, "exec"), scope)


def test_blocks_that_another_test_runs() -> None:
    for block in BLOCKS:
        if block.said.startswith("in "):
            (file,) = (ROOT / "tests").rglob(f"{block.said.removeprefix('in ')}.py")
            assert Path(block.page).name in file.read_text(encoding="utf-8"), block.place


@pytest.mark.parametrize("block", of("yaml"), ids=lambda block: block.place)
def test_yaml_is_a_recipe_or_part_of_one(block: Block) -> None:
    content = parse_yaml(block.text, block.place)
    assert isinstance(content, dict)
    if not {"name", "data"} <= content.keys():
        content = {**_around(content), **content}
    recipe_from(content, block.place)


@pytest.mark.parametrize("block", of("json"), ids=lambda block: block.place)
def test_json_is_read(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", of(*SHOWN), ids=lambda block: block.place)
def test_what_is_shown_is_what_a_command_prints(block: Block, folder: Path) -> None:
    if block.page.startswith("tools/") or block.said.startswith(("none", "in ")):
        return  # usage lines, which the command line itself has made, and what is no command
    for command, shown in _shown(block):
        shell.check(command.words)
        if command.words[1] in QUICK and not _is_slow(command):
            _compare(command, shown)


@pytest.mark.slow
def test_what_is_shown_is_what_longer_commands_print(folder: Path) -> None:
    for block in of(*SHOWN):
        if not block.page.startswith("tools/") and not block.said.startswith(("none", "in ")):
            for command, shown in _shown(block):
                if not _elsewhere(command) and command.words[1] in (*QUICK, *LONGER):
                    _compare(command, shown)


def _shown(block: Block) -> Iterator[tuple[Command, str]]:
    """Commands behind a prompt, each with what it is said to print; one that is refused is read by being refused."""
    assert block.text.startswith("$ "), f"{block.place}: say above it what it is, or show its command"
    for part in re.split(r"^\$ ", block.text, flags=re.M)[1:]:
        line, _, shown = part.partition("\n")
        (command,) = commands(Block(block.page, block.line, "bash", line, ""))
        if shown.startswith("error: "):
            _compare(command, shown)
        else:
            yield command, shown


def _compare(command: Command, shown: str) -> None:
    """`…` stands for anything, a number for any number, and a unit of time for any other."""
    if "--verify" in command.words:  # what is verified has been made before
        _printed(Command(command.place, tuple(word for word in command.words if word != "--verify")))
    said, _ = _printed(command)
    numbers = (re.sub(r"\d[\d.,]*(e[+-]?\d+)?", "0", text) for text in (shown, said))
    words = (re.sub(r"\b0 (min|h)\b", "0 s", text).split() for text in numbers)
    expected, found = map(" ".join, words)
    pattern = ".*?".join(re.escape(part.strip()) for part in expected.split("…"))
    assert re.search(pattern, found, re.S), f"{command.place}: {' '.join(command.words)} prints:\n{said}"


def test_commands_in_lines_are_of_the_command_line(folder: Path) -> None:
    """Their names and options; words in capitals stand for anything."""
    problems = []
    for block in INLINE:
        words = block.text.split()
        if words[0] != "coadvise" or len(words) == 1 or not re.fullmatch(r"[a-z][a-z-]+", words[1]):
            continue
        options = shell.options(words[1])
        if options is None:
            problems.append(f"{block.place}: there is no command {words[1]}")
            continue
        for word in words[2:]:
            if word.startswith("-") and word.partition("=")[0] not in options:
                problems.append(f"{block.place}: coadvise {words[1]} has no option {word}")
    assert not problems, "\n".join(problems)


def test_settings_in_lines_are_keys_of_recipes() -> None:
    problems = []
    for block in INLINE:
        for key in re.findall(r"(?:^|\s)([a-z_]+(?:\.[A-Za-z_]+)+)(?==|: |$)", block.text):
            parts = key.split(".")
            if parts[0] in Recipe.model_fields and _unknown(parts):
                problems.append(f"{block.place}: {key} is no key of a recipe")
    assert not problems, "\n".join(problems)


def _unknown(parts: list[str]) -> bool:
    if parts[-1] in ("yaml", "safetensors", "json"):
        return False  # a file
    if parts[0] == "teachers" and parts[1] in FAMILIES:  # of `reproduce`
        return parts[2:] not in [[key] for key in TeacherTraining.model_fields]
    inside = parts[: parts.index("options")] if "options" in parts else parts
    return len(inside) > 1 and type_at(inside) is None


# ------------------------------------------------------------------------------------------------------------------

QUICK = ("recipes", "recipe", "schema", "doctor", "compare", "predict", "evaluate", "export")
LONGER = (
    "train",
    "cache",
    "plan",
    "find-lr",
    "headroom",
    "report",
    "push",
    "predict",
    "evaluate",
    "export",
    "bench",
    "models",
)
_EXPORTED = shutil.ignore_patterns("export")
_TAKES_LONGER = {"onnx", "int8", "openvino", "torch", "--corruptions", "--attention"}


def _commands(block: Block) -> Iterator[Command]:
    """Commands of a block; of one that shows a prompt, those behind it."""
    if block.language == "console":
        text = "\n".join(line.removeprefix("$ ") if line.startswith("$ ") else "" for line in block.text.splitlines())
        block = Block(block.page, block.line, block.language, text, block.said)
    return commands(block)


def _coadvise_commands() -> list[Command]:
    """Commands of this program on files of the desk, one for each set of options."""
    found: dict[tuple[str, ...], Command] = {}
    for command in (one for block in of(*SHELL) for one in _commands(block)):
        words = command.words
        if words[0] == "coadvise" and len(words) > 1:
            chosen = [word for word in words[2:] if word.startswith("-") or words[words.index(word) - 1] == "--to"]
            found.setdefault((words[1], *chosen), command)
    return list(found.values())


def _is_slow(command: Command) -> bool:
    return bool(_TAKES_LONGER & {part for word in command.words for part in (word, Path(word).suffix[1:])})


def _elsewhere(command: Command) -> bool:
    """Whether it needs data that the desk has not, or a network."""
    needs = any(word.startswith(("/", "..", "hf:")) or word in ("cit-s", "cit-sak") for word in command.words)
    return needs or (command.words[1] == "push" and "--dry-run" not in command.words)


def _run_all(names: tuple[str, ...], chosen: list[Command]) -> None:
    problems = []
    for command in chosen:
        if command.words[1] in names and not _elsewhere(command):
            said, code = _printed(command)
            if code:
                problems.append(f"{command.place}: {' '.join(command.words)}: {said}")
    assert not problems, "\n".join(problems)


def _printed(command: Command) -> tuple[str, int]:
    """What a command prints, its error message included, and its exit code."""
    from coadvise.cli.main import app

    printed, words, code = io.StringIO(), list(command.words[1:]), 0
    if words[0] == "export" and "--output" not in words:
        copy = Path(tempfile.mkdtemp(dir="."), "run")  # as for the first time
        words[1] = str(shutil.copytree(words[1], copy, ignore=_EXPORTED))
    if words[0] == "train" and not any(word.startswith("run.output=") for word in words):
        words.append(f"run.output={tempfile.mkdtemp(dir='.')}/run")
    if words[0] == "headroom" and not {"-o", "--output"} & set(words):
        words += ["--output", f"{tempfile.mkdtemp(dir='.')}/headroom"]
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            app(words, standalone_mode=False)
        except CoadviseError as error:
            print(f"error: {error}")
            code = 2
    return printed.getvalue().replace(words[1], command.words[2]) if words[0] == "export" else printed.getvalue(), code


def _said(error: BaseException) -> str:
    formatted: Callable[[], str] | None = getattr(error, "format_message", None)
    return formatted() if formatted else f"{type(error).__name__}: {error}"


def _around(part: dict[str, Any]) -> dict[str, Any]:
    """A recipe in which a part makes sense: teachers have the names that the part gives weights and tokens to."""
    given = part.get("loss") or {}
    names = {*(given.get("weights") or {}), *(given.get("temperatures") or {})}
    teacher = {"model": "resnet18", "pretrained": True}
    teachers = dict.fromkeys(names or ("conv", "inv"), teacher)
    return {"name": "part", "data": {"source": "digits"}, "teachers": teachers}
