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


@pytest.mark.parametrize(("device", "calls"), [("cpu", ["whl/cpu torch torchvision"]), ("cuda", ["torch torchvision"])])
def test_a_device_installs_its_pytorch(device: str, calls: list[str], tmp_path: Path) -> None:
    done = chosen(device, tmp_path)
    assert done.returncode == 0
    said = done.stdout.splitlines()
    assert len(said) == 1 and said[0].endswith(calls[0]) and ("whl/cpu" in said[0]) == (device == "cpu")


def test_another_device_is_refused(tmp_path: Path) -> None:
    done = chosen("gpu", tmp_path)
    assert done.returncode == 2 and done.stderr == "DEVICE is cpu or cuda, not gpu\n" and not done.stdout


def chosen(device: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The instruction that asks for the device, run by the shell that the image has, with a pip that only speaks."""
    (line,) = [one for one in instructions("RUN") if "DEVICE" in one]
    (folder / "pip").write_text('#!/bin/sh\necho "$@"\n')
    (folder / "pip").chmod(0o755)
    command = ["/bin/sh", "-c", line.partition(" ")[2]]  # without --mount
    paths = {"PATH": f"{folder}:/usr/bin:/bin", "DEVICE": device}
    return subprocess.run(command, capture_output=True, text=True, env=paths)
