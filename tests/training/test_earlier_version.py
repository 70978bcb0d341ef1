"""Runs and caches that commit 934e134 wrote go on as if nothing had changed.

`fixtures/934e134` holds a run that was stopped after step 7 of 20 and what that commit logged when it went on, a cache
of two views, and what it logged of a student trained from it. All paths inside are relative to a working folder.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TESTS
from helpers.recipes import CNN, INN, tiny
from safetensors.torch import load_file

from coadvise.recipe.schema import Recipe
from coadvise.run.folder import read_metrics
from coadvise.run.provenance import cpu_name, versions
from coadvise.system.progress import Display
from coadvise.training.caching import cache_advice
from coadvise.training.train import train

FIXTURE = TESTS / "fixtures" / "934e134"
QUIET = Display(quiet=True)
TEACHERS = {"conv": CNN, "inv": INN}


def same_machine() -> bool:
    """Whether the numbers must come out bit for bit: the same kind of processor and the same libraries."""
    made = json.loads((FIXTURE / "run" / "manifest.json").read_text())
    then = {key: value for key, value in made["versions"].items() if key != "coadvise"}
    return made["hardware"]["cpu"] == cpu_name() and {key: versions().get(key) for key in then} == then


def assert_same_log(found: Path, expected: Path) -> None:
    lines = [{k: v for k, v in line.items() if k != "images_per_s"} for line in read_metrics(found)]
    before: list[dict[str, Any]] = json.loads(expected.read_text())
    if same_machine():
        assert lines == before
        return
    assert [(line["kind"], line["step"], line["epoch"]) for line in lines] == [
        (line["kind"], line["step"], line["epoch"]) for line in before
    ]
    for line, old in zip(lines, before, strict=True):
        if line["kind"] == "train":
            assert line["terms"] == pytest.approx(old["terms"], rel=1e-3) and line["lr"] == old["lr"]
        else:
            losses = {name: value for name, value in old["metrics"].items() if name.startswith("loss/")}
            assert {name: line["metrics"][name] for name in losses} == pytest.approx(losses, rel=1e-2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_unfinished_run_goes_on(folder: Path) -> None:
    shutil.copytree(FIXTURE / "run", folder / "runs" / "tiny")
    train(tiny(Path("runs/tiny"), {"optim.ema": 0.9}, teachers=TEACHERS), resume=True, display=QUIET)
    assert_same_log(folder / "runs" / "tiny" / "metrics.jsonl", FIXTURE / "run-metrics.json")
    before = json.loads((FIXTURE / "run-result.json").read_text())
    now = json.loads((folder / "runs" / "tiny" / "result.json").read_text())
    assert set(now) - {"provenance", "baselines", "per_class", "delivered"} == set(before)
    same = ("name", "fingerprint", "seed", "student", "data", "epochs", "steps", "images_seen", "skipped")
    assert {key: now[key] for key in same} == {key: before[key] for key in same}
    if same_machine():
        assert all(now[key] == before[key] for key in ("final", "ema", "best", "teachers"))


def test_a_fresh_run_with_trained_teachers_is_that_of_then(folder: Path) -> None:
    """From the first draw on: teachers are trained here, and the student starts at step 0."""
    train(tiny(Path("runs/tiny"), {"optim.ema": 0.9}, teachers=TEACHERS), display=QUIET)
    assert_same_log(folder / "runs" / "tiny" / "metrics.jsonl", FIXTURE / "run-metrics.json")
    if same_machine():
        for name in TEACHERS:
            paths = (folder / "runs" / "tiny" / "teachers" / name, FIXTURE / "run" / "teachers" / name)
            new, old = (load_file(path / "best.safetensors") for path in paths)
            assert new.keys() == old.keys() and all(torch.equal(new[key], old[key]) for key in old)


def cached() -> Recipe:
    """The recipe by which the cache was written, and a student trained from it."""
    teachers = {
        name: {**settings, "train": None, "checkpoint": f"runs/whole/teachers/{name}/best.safetensors"}
        for name, settings in TEACHERS.items()
    }
    changes = {"advice.folder": "caches/tiny", "advice.top_k": 2, "data.views": 2, "advice.source": "cache"}
    return tiny(Path("runs/cached"), changes, teachers=teachers)


def test_a_cache_is_read_and_found_sound(folder: Path) -> None:
    shutil.copytree(FIXTURE / "run" / "teachers", folder / "runs" / "whole" / "teachers")
    shutil.copytree(FIXTURE / "cache", folder / "caches" / "tiny")
    (folder / "caches" / "tiny" / "lock").touch()
    assert cache_advice(cached(), verify=True, display=QUIET)[1] == 4400
    train(cached(), display=QUIET)
    assert_same_log(folder / "runs" / "cached" / "metrics.jsonl", FIXTURE / "cached-metrics.json")


def test_a_cache_written_today_is_that_of_then(folder: Path) -> None:
    shutil.copytree(FIXTURE / "run" / "teachers", folder / "runs" / "whole" / "teachers")
    cache_advice(cached(), display=QUIET)
    for path in sorted(FIXTURE.glob("cache/*/*")):
        written = (folder / "caches" / "tiny" / path.relative_to(FIXTURE / "cache")).read_bytes()
        assert len(written) == path.stat().st_size, path.name
        if same_machine():
            assert written == path.read_bytes(), path.name


def test_fixture_holds_what_it_says() -> None:
    """The stopped run ends in the middle of an epoch and of a window of its log."""
    lines = list(read_metrics(FIXTURE / "run" / "metrics.jsonl"))
    assert lines[-1]["step"] == 6 and len(json.loads((FIXTURE / "run-metrics.json").read_text())) > len(lines)
