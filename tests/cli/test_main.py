"""How the command line ends: exit codes, and a word with each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.recipes import CNN, tiny
from typer.main import get_command
from typer.testing import CliRunner

from coadvise.cli.main import COMMANDS, app, main
from coadvise.recipe.reading import dump_recipe


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    handler, hook = signal.getsignal(signal.SIGTERM), threading.excepthook
    yield
    signal.signal(signal.SIGTERM, handler)
    threading.excepthook = hook


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str]]:
    """Exit code and stderr of a command."""

    def run(*words: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["coadvise", *words])
        with pytest.raises(SystemExit) as leaving:
            main()
        return leaving.value.code, capsys.readouterr().err

    return run


def recipe(folder: Path) -> str:
    path = folder / "recipe.yaml"
    path.write_text(dump_recipe(tiny(folder / "run", {"advice.folder": str(folder / "cache")}, teachers={"conv": CNN})))
    return str(path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("command", "place", "said"),
    [
        ("train", "coadvise.recipe.reading.load_recipe", "stopped; the same command starts again\n"),
        ("train", "coadvise.training.train.load_teachers", "stopped without saving; use the same command again\n"),
        ("cache", "coadvise.training.caching.load_teachers",
         "stopped; everything written so far is kept, the same command goes on\n"),
    ],
)  # fmt: skip
def test_a_signal_is_answered_with_a_word(
    ended: Callable[..., tuple[object, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int,
    command: str, place: str, said: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(place, lambda *_: os.kill(os.getpid(), number))
    assert ended(command, recipe(tmp_path), "--quiet") == (130, said)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to allocate "
            "9000000 bytes. Error code 12 (Cannot allocate memory)"
        ),
    ],
)
def test_too_little_memory(
    ended: Callable[..., tuple[object, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("coadvise.recipe.reading.load_recipe", fail)
    code, said = ended("train", recipe(tmp_path))
    assert code == 2 and said.startswith("error: out of memory: ") and "optim.accumulate" in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_onto_a_full_disk() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "coadvise", "recipes"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "No space left on device" in done.stderr
        done = subprocess.run([*command[:-1], "recipe", "nowhere"], stderr=full, timeout=60)
        assert done.returncode == 2


def test_progress_that_nobody_can_read_stops_no_work() -> None:
    code = "from coadvise.system.progress import Display; Display().say('x' * 10_000); print('went on')"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=full, text=True, timeout=60)
    assert done.stdout == "went on\n"


@pytest.mark.parametrize("name", sorted(get_command(app).commands))  # type: ignore[attr-defined]
def test_examples_look_alike_in_every_help(name: str) -> None:
    lines = [line.rstrip() for line in CliRunner().invoke(app, [name, "--help"]).stdout.splitlines()]
    assert lines.count(" Examples:") + lines.count(" Example:") == 1
    assert any(line.startswith(f"  coadvise {name}") for line in lines)
    assert not any(line.startswith(" coadvise ") for line in lines)


def test_every_command_is_in_a_group_of_the_help_and_begins_with_a_sentence() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert sorted(commands) == sorted(one.__name__.replace("_", "-") for group in COMMANDS.values() for one in group)
    shown = CliRunner().invoke(app, ["--help"]).stdout
    for group in COMMANDS:
        assert f"─ {group} ─" in shown
    for name, command in commands.items():
        first = (command.help or "").partition("\n\n")[0]
        assert first.endswith(".") and len(first) <= 140, name
        assert all(option.help for option in command.params), name


@pytest.mark.parametrize(("rank", "said"), [("0", True), ("1", False)])
def test_of_several_processes_one_speaks_of_the_recipe(
    rank: str, said: bool, ended: Callable[..., tuple[object, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, rank)
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    code, message = ended("train", "scratch", "optim.lrr=1")
    assert bool(waited) != said  # or its launcher might end the other before that one speaks
    assert code == 2 and ("optim.lrr is unknown" in message) == said and bool(message) == said
