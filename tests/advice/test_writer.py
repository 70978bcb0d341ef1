"""Writing a cache: interrupted, by two processes at once, without room, and with a teacher added later."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import processes
from helpers.caches import QUIET, contents, recipe_with, refused, write
from torch import Tensor

from coadvise.advice import writer as advice_writer
from coadvise.errors import RunError
from coadvise.training.caching import cache_advice
from coadvise.training.train import train


def test_a_teacher_is_added_without_touching_the_other(small, trained, tmp_path):
    both = recipe_with(trained, tmp_path)
    one = recipe_with(trained, tmp_path, teachers={"conv": both.model_dump(mode="json")["teachers"]["conv"]})
    write(one)
    before = contents(tmp_path / "cache")
    with pytest.raises(RunError, match=r"has no advice of teacher 'inv' \(it has: conv\); add it with"):
        train(recipe_with(trained, tmp_path, {"advice.source": "cache"}), display=QUIET)
    write(both)
    after = contents(tmp_path / "cache")
    assert before.items() <= after.items() and any(name.startswith("inv/") for name in after)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    write(both)  # complete: nothing is written
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


@pytest.mark.parametrize(("kills", "epochs"), [(4, 12), pytest.param(20, 60, marks=pytest.mark.slow)])
def test_killed_at_many_moments_and_shared_by_two_writers(trained, tmp_path, kills, epochs):
    """The bytes are those of one writer that nobody disturbed."""
    done = processes.run("helpers.kill_writer", str(tmp_path), str(trained), str(kills), str(epochs))
    assert done.returncode == 0, done.stderr
    counts = list(map(int, done.stdout.split()))
    # Killed while it wrote, each time a little further on.
    assert len(set(counts)) == kills and counts == sorted(counts) and counts[-1] < 8 * epochs
    found = {name: contents(tmp_path / name / "cache") for name in ("calm", "killed", "shared")}
    assert found["calm"] == found["killed"] == found["shared"]


def test_too_little_room(trained, tmp_path, monkeypatch):
    recipe = recipe_with(trained, tmp_path)
    monkeypatch.setattr(advice_writer.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(RunError, match=r"the cache needs 0\.0 GB, 0\.0 GB are free"):
        write(recipe)
    assert not (tmp_path / "cache").exists()


def test_a_disk_that_cannot_be_written(complete, tmp_path, monkeypatch):
    """Reading needs no writing; what is missing cannot be added."""
    import builtins

    plain = Path.open

    def read_only(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if str(self).startswith(str(tmp_path / "cache")) and set(mode) & set("wa+"):
            raise OSError(30, os.strerror(30))
        return plain(self, mode, *args, **options)

    monkeypatch.setattr(Path, "open", read_only)
    assert builtins.open
    train(complete, display=QUIET)
    (tmp_path / "cache" / "conv" / "column.json").unlink()
    refused(complete, "cannot write to .*: Read-only file system", cache_advice)


def test_only_the_teacher_that_is_added_is_asked(trained, tmp_path, monkeypatch):
    from coadvise.models.teachers import FrozenTeacher

    both = recipe_with(trained, tmp_path)
    write(recipe_with(trained, tmp_path, teachers={"conv": both.model_dump(mode="json")["teachers"]["conv"]}))
    asked: dict[int, int] = {}
    plain = FrozenTeacher.forward

    def counted(self: FrozenTeacher, x: Tensor) -> Tensor:
        asked[id(self)] = asked.get(id(self), 0) + len(x)
        return plain(self, x)

    monkeypatch.setattr(FrozenTeacher, "forward", counted)
    write(both)
    assert sorted(asked.values()) == [101, 101 + 4 * 100]  # both are measured, one says something of 4 views


def test_what_killed_writers_left_is_removed(complete, tmp_path):
    """By whoever completes the column; files of other names are not touched."""
    folder = tmp_path / "cache"
    (folder / "conv" / "column.json").unlink()
    left = [
        folder / ".header.json.7.ab.tmp",
        folder / "conv" / ".column.json.7.ab.tmp",
        folder / "conv" / ".teacher.json.7.ab.tmp",
    ]
    for path in (*left, folder / "conv" / ".mine.tmp"):
        path.touch()
    write(complete)
    assert not any(path.exists() for path in left)
    assert (folder / "conv" / "column.json").is_file() and (folder / "conv" / ".mine.tmp").exists()
