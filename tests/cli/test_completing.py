"""Completion by the shell: what is offered behind Tab, asked as the shells ask."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import TESTS
from typer.testing import CliRunner

from coadvise.cli.main import app
from coadvise.recipe.reading import builtin_recipes, load_recipe
from coadvise.recipe.schema import flat


def offered(line: str) -> list[str]:
    """What Bash is told at the end of a command line."""
    words = line.split(" ")
    asked = {"_COADVISE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = CliRunner().invoke(app, [], prog_name="coadvise", env=asked)
    assert done.exit_code == 0, done.output
    return done.stdout.split()


def test_recipes_and_files_of_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine.yaml", "notes.txt", "more/deep.yml", ".hidden.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert {*offered("coadvise train ")} == {*builtin_recipes(), "mine.yaml", "more/"}
    assert offered("coadvise plan cit-sa") == ["cit-sa", "cit-sak"]
    assert offered("coadvise cache m") == ["mine.yaml", "more/"]
    assert offered("coadvise recipe more/") == ["more/deep.yml"]
    assert offered("coadvise train nowhere/") == []
    (tmp_path / "zoo and more").mkdir()
    assert offered("coadvise train zoo") == []  # so that Bash completes it, with a backslash before each space


def test_every_setting_of_a_recipe() -> None:
    """A recipe without teachers has them all, but for those of a later version that change nothing."""
    known = flat(load_recipe("digits", ["teachers={}", "loss.weights={}"]).model_dump(mode="json"))
    single = {key for key in known if not key.startswith(("teachers", "student.options", "loss.weights"))}
    found = {name.rstrip("=") for name in offered("coadvise train digits ")}
    assert single <= found and not any(name.startswith("teachers") for name in found)
    assert offered("coadvise train digits optim.lr=1 data.erro") == []
    assert offered("coadvise find-lr digits schedule.warmup_e") == [
        "schedule.warmup_epochs=",
        "schedule.warmup_epochs=VALUE",
    ]
    assert offered("coadvise train digits optim.lr=1") == []


def test_commands_and_options() -> None:
    assert offered("coadvise fin") == ["find-lr"]
    assert offered("coadvise evaluate run --corr") == ["--corruptions"]


@pytest.mark.slow
def test_bash_completes_what_it_was_told_to_install(tmp_path: Path) -> None:
    run = tmp_path / "coadvise"
    run.write_text(f"#!{sys.executable}\nfrom coadvise.__main__ import main\nmain()\n")
    run.chmod(0o755)
    paths = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(TESTS.parent / "src"), "HOME": str(tmp_path)}
    there = {"env": os.environ | paths, "capture_output": True, "text": True}
    # It is told to by the shell that it then completes for, which it finds among the processes above it.
    words = ["bash", "-c", "coadvise --install-completion; exit $?"]
    done = subprocess.run(words, **there)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    asked = "COMP_WORDS=(coadvise train cit-t) COMP_CWORD=2; _coadvise_completion coadvise"
    script = f'source ~/.bashrc; {asked}; echo "$COMPREPLY"'
    assert subprocess.run(["bash", "-c", script], **there).stdout == "cit-ti\n"  # type: ignore[call-overload]
