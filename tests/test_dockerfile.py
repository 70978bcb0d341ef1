"""The Dockerfile, as far as it can be tried without an engine: what it copies, and what its choices run."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINES = re.sub(r"\\\n", "", re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)).splitlines()


def instructions(name: str) -> list[str]:
    return [line.partition(" ")[2] for line in LINES if line.startswith(f"{name} ")]


def test_what_is_copied_is_there_and_sent_to_the_builder() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in instructions("COPY") if "--from" not in line for name in line.split()[:-1]}
    assert copied == sent and all((ROOT / name).exists() for name in copied)


def test_its_defaults_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    given = dict(line.split("=") for line in instructions("ARG") if "=" in line)
    assert given["EXTRAS"] in project["optional-dependencies"]
    assert f"(Python {given['PYTHON']}, " in (ROOT / "constraints.txt").read_text().splitlines()[0]
    assert tuple(map(int, given["PYTHON"].split("."))) >= (3, 11)
    assert LINES.index("USER 1000:1000") < next(i for i, line in enumerate(LINES) if line.startswith("ENTRYPOINT"))


@pytest.mark.parametrize(
    ("index", "asked"), [("", []), ("https://cpu.example/a b", ["--extra-index-url", "https://cpu.example/a b"])]
)
def test_pytorch_comes_from_the_index_that_is_named(index: str, asked: list[str], tmp_path: Path) -> None:
    """The instruction as the shell of the image runs it, with a pip that only speaks."""
    (line,) = [one for one in instructions("RUN") if "TORCH_INDEX" in one]
    (tmp_path / "pip").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "pip").chmod(0o755)
    command = ["/bin/sh", "-c", line.partition(" ")[2]]  # without --mount
    paths = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TORCH_INDEX": index}
    done = subprocess.run(command, capture_output=True, text=True, env=paths, check=True)
    assert done.stdout.splitlines() == ["install", "--constraint", "constraints.txt", *asked, "torch", "torchvision"]
