"""The harness notices what it is there for: commands that do not go on exactly, and messages that are none."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from helpers.processes import Done
from helpers.recipes import tiny
from helpers.runs import run

from torture import compare
from torture.cases import kill_cases
from torture.conditions import one_message
from torture.counting import STEPS, differences
from torture.kills import Case, Record, torment
from torture.launch import alone


def counting(mistake: str, kills: int) -> Case:
    def step(folder: Path) -> int:
        return len((folder / "log").read_text().splitlines()) if (folder / "log").is_file() else 0

    begin = lambda folder: alone("torture.counting", str(folder), mistake)
    return Case("counting", kills, begin, differences, step, step, STEPS)


def test_a_command_that_goes_on_exactly_passes(tmp_path: Path) -> None:
    record = torment(counting("none", 6), tmp_path, Random(1))
    assert not record.failures and record.kills == sum(map(len, record.cuts)) == 6
    assert record.most_in_an_epoch(STEPS) >= 3


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("repeats a step", f"{STEPS}, "),
        ("leaves files", "tmp was left over"),
        ("fails when it goes on", "exit code 1: no"),
    ],
)
def test_a_command_that_does_not_is_found(tmp_path: Path, mistake: str, words: str) -> None:
    record = torment(counting(mistake, 5), tmp_path, Random(1))
    assert len(record.failures) == 1 and words in record.failures[0]


def test_runs_that_differ_in_one_place_are_told_apart(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        run(tiny(folder, {"schedule.epochs": 2, "schedule.warmup_epochs": 0}))
    assert compare.runs(one, other) == []

    def changed(name: str, content: bytes) -> list[str]:
        before = (other / name).read_bytes()
        (other / name).write_bytes(content)
        found = compare.runs(one, other)
        (other / name).write_bytes(before)
        return found

    for name in ("best.safetensors", "last.safetensors"):
        raw = (other / name).read_bytes()  # the last bit of the last tensor
        (line,) = changed(name, raw[:-1] + bytes([raw[-1] ^ 1]))
        assert name in line
    lines = (other / "metrics.jsonl").read_text().splitlines()
    assert changed("metrics.jsonl", "\n".join(lines[:-1]).encode())
    assert changed("metrics.jsonl", "\n".join([json.dumps({**json.loads(lines[0]), "loss": 0}), *lines[1:]]).encode())
    result = json.loads((other / "result.json").read_text())
    assert changed("result.json", json.dumps({**result, "steps": 11}).encode())
    assert not changed("result.json", json.dumps({**result, "seconds": 11.0}).encode())
    (other / ".last.safetensors.1.tmp").touch()
    assert compare.runs(one, other) == [".last.safetensors.1.tmp was left over"]


def test_caches_are_compared_byte_for_byte(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name / "conv").mkdir(parents=True)
        (tmp_path / name / "conv" / "00000.bin").write_bytes(b"abc")
    assert compare.caches(tmp_path / "one", tmp_path / "other") == []
    (tmp_path / "other" / "conv" / "00000.bin").write_bytes(b"abd")
    (tmp_path / "other" / "more").touch()
    assert compare.caches(tmp_path / "one", tmp_path / "other") == ["more is there once only", "conv/00000.bin differs"]


@pytest.mark.parametrize(
    ("code", "text", "fine"),
    [
        (2, "error: no space left (I/O error: 28); free some\n", True),
        (2, "[process 0] error: no space left; free some\n", True),
        (1, "error: no space left; free some\n", False),
        (0, "", False),
        (2, "Traceback (most recent call last):\nerror: x\n", False),
        (2, "error: x\nerror: y\n", False),
        (-9, "", False),
    ],
)
def test_one_message(code: int, text: str, fine: bool) -> None:
    assert (one_message(Done(code, "", text)) == []) == fine


def test_cuts_within_an_epoch_are_counted() -> None:
    record = Record(cuts=[[("", 3), ("", 12), ("", 14), ("", 19), ("", 20)], [("", 5), ("", 9)]])
    assert record.most_in_an_epoch(10) == 3 and record.most_in_an_epoch(0) == 0


def test_a_hundred_kills_are_planned(tmp_path: Path) -> None:
    cases = kill_cases(tmp_path)
    assert sum(case.kills for case in cases) == 100
    assert {"train", "cache", "reproduce"} == {case.name.split(",")[0] for case in cases}
