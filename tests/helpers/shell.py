"""Commands of pages, read to their end by the programs that they call: options, arguments, recipes and their keys.

Nothing is trained and nothing is written. Each check raises what the program itself raises, or `Unknown`.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import tomllib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from typer.main import get_command

from coadvise.cli.main import app
from coadvise.recipe.reading import load_recipe

ROOT = Path(__file__).resolve().parents[2]
_EXTRA = re.compile(r"(?:\.|coadvise)(?:\[([a-z,]+)\])?")
_TAKE_RECIPE = ("train", "cache", "plan", "find-lr", "recipe", "headroom")
_TOOLS = (
    "bash",
    "cat",
    "cd",
    "cp",
    "echo",
    "export",
    "head",
    "ls",
    "mkdir",
    "mktemp",
    "mv",
    "nvidia-smi",
    "rm",
    "scontrol",
    "tail",
    "test",
)


class Unknown(Exception):
    """A command that no check knows, or that names something which is not there."""


def check(words: Sequence[str]) -> None:
    """Read a command to its end."""
    program, *rest = words
    name = Path(program).name
    if name in _PROGRAMS:
        _PROGRAMS[name](rest)
    elif "/" in program and (ROOT / program).is_file():
        pass  # a script of the repository
    elif name in _TOOLS:
        _check_paths(rest)
    else:
        raise Unknown(f"{program} is no program whose commands are checked; add a check to helpers/shell.py")


def parsed(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Name and parameters of a command of coadvise.

    Raises:
        click's UsageError: what the command line would say.
    """
    root = _root()
    whole = root.make_context("coadvise", list(words), resilient_parsing=True)
    name, command, rest = root.resolve_command(whole, list(words))
    return name, dict(command.make_context(name, list(rest), parent=whole).params)


def _coadvise(words: Sequence[str]) -> None:
    if words and words[0] in ("--help", "--version"):
        return
    if "--help" in words and options(words[0]) is not None:
        return
    name, given = parsed(words)
    settings = given.get("settings") or []
    source = given.get("recipe") or given.get("source")
    if name in _TAKE_RECIPE and not str(source).startswith("runs/"):
        load_recipe(source, settings)
    elif name == "bench" and given.get("recipe"):
        load_recipe(given["recipe"], [word for word in given.get("models") or [] if "=" in word])
    elif name == "init":
        load_recipe("folder", [f"data.source={source}", *settings])
    elif name in ("reproduce", "demo"):
        _reproduce(given)
    elif name == "export":
        from coadvise.export.targets import target_named

        target_named(given["to"])


@cache
def _root() -> Any:
    return get_command(app)


def options(name: str) -> set[str] | None:
    """Options of a command of coadvise; None where there is no such command."""
    command = _root().commands.get(name)
    return None if command is None else {"--help", *(word for one in command.params for word in one.opts)}


def _reproduce(given: dict[str, Any]) -> None:
    from coadvise.reproduce.command import find_experiments, seconds
    from coadvise.reproduce.scales import find_scale

    names = given.get("names") or ["demo"]
    find_experiments([name for name in names if "=" not in name])
    find_scale(given.get("scale") or "digits")
    if given.get("budget"):
        seconds(given["budget"])


def _python(words: Sequence[str]) -> None:
    if words[:1] == ["-m"]:
        if words[1] == "coadvise":
            _coadvise(words[2:])
        elif importlib.util.find_spec(words[1]) is None:
            raise Unknown(f"there is no module {words[1]}")
    elif words[:1] == ["-c"]:
        compile(words[1], "-c", "exec")
    else:
        _check_paths(words[:1])


def _torchrun(words: Sequence[str]) -> None:
    from torch.distributed.run import get_args_parser

    given = get_args_parser().parse_args(list(words))
    module = ["-m"] if given.module else []
    _python([*module, given.training_script, *given.training_script_args])


def _accelerate(words: Sequence[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    if words[:1] != ["launch"]:
        raise Unknown(f"accelerate {' '.join(words[:1])} is not checked")
    given = launch_command_parser().parse_args(list(words[1:]))
    module = ["-m"] if given.module else []
    _python([*module, given.training_script, *given.training_script_args])


def _installs(words: Sequence[str]) -> None:
    """pip and its like: a requirement is this package, with extras that it has, or one that is installed here."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words:
        match = _EXTRA.fullmatch(word)
        if match and match[1]:
            for extra in set(match[1].split(",")) - extras.keys():
                raise Unknown(f"{word}: there is no extra {extra}")


def _make(words: Sequence[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        if "=" not in word and not re.search(rf"^{re.escape(word)}:", makefile, re.M):
            raise Unknown(f"make {word}: there is no such target")


def _docker(words: Sequence[str]) -> None:
    if words[:1] == ["build"]:
        parser = argparse.ArgumentParser(exit_on_error=False)
        for option in ("-t", "-f", "--build-arg", "--target"):
            parser.add_argument(option)
        parser.add_argument("folder")
        file = parser.parse_args(list(words[1:])).f or "Dockerfile"
        if not (ROOT / file).is_file():
            raise Unknown(f"docker build: there is no {file}")
    elif words[:1] not in (["run"], ["compose"]):
        raise Unknown(f"docker {' '.join(words[:1])} is not checked")


def _by_another(words: Sequence[str]) -> None:
    """srun and the like: options of theirs, then a command."""
    rest = list(words)
    while rest and rest[0].startswith("-"):
        rest = rest[1:]
    check(rest)


def _installed(name: str) -> Callable[[Sequence[str]], None]:
    def installed(words: Sequence[str]) -> None:
        if importlib.util.find_spec(name) is None and shutil.which(name) is None:
            raise Unknown(f"{name} is not installed")

    return installed


def _check_paths(words: Sequence[str]) -> None:
    """What is named in a folder of the repository is there."""
    for word in words:
        first, *more = word.split("/")
        if more and (ROOT / first).is_dir() and first not in ("runs", "..") and not list(ROOT.glob(word.rstrip("/"))):
            raise Unknown(f"there is no {word}")


_PROGRAMS: dict[str, Callable[[Sequence[str]], None]] = {
    "coadvise": _coadvise,
    "python": _python,
    "python3": _python,
    "torchrun": _torchrun,
    "accelerate": _accelerate,
    "pip": _installs,
    "pipx": _installs,
    "uv": _installs,
    "uvx": _installs,
    "make": _make,
    "docker": _docker,
    "srun": _by_another,
    "timeout": _by_another,
    "tensorboard": _installed("tensorboard"),
    "mkdocs": _installed("mkdocs"),
    "git": _installed("git"),
}
