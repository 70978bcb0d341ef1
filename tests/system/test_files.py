"""Atomic writing: the old file or all of the new one, and nothing else in the folder."""

import json
import os
import stat

import pytest
import torch
from safetensors.torch import load_file

from coadvise.checkpoints.writing import save_safetensors_atomic
from coadvise.errors import RunError
from coadvise.system.files import atomic_file, atomic_folder, read_json, write_atomic, write_json


def test_the_path_changes_once_and_at_the_end(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with atomic_file(path) as temporary:
        assert temporary.parent == tmp_path and temporary.stat().st_dev == path.stat().st_dev
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [OSError(28, "full"), ValueError("bad"), KeyboardInterrupt()])
def test_whatever_is_raised_the_old_file_stays_alone(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(error)), atomic_file(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]


def test_a_file_system_without_modes_takes_files(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    write_atomic(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new" and os.listdir(tmp_path) == ["a"]


def test_a_rename_that_fails_leaves_no_temporary_file(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError), atomic_file(tmp_path / "a"):
        pass
    assert os.listdir(tmp_path) == ["a"]


def test_the_content_is_on_disk_before_it_has_its_name_and_then_the_name(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, os.replace

    def kind(handle):
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    monkeypatch.setattr(os, "fsync", kind)
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), replace(a, b)))
    with atomic_file(tmp_path / "a"):
        pass
    assert done == ["file", "rename", "folder"]


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes_are_those_of_any_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        (tmp_path / "plain").write_text("")
        write_atomic(tmp_path / "text", "x")
        save_safetensors_atomic(tmp_path / "weights", {"a": torch.ones(1)}, {"one": "1", "two": "2"})
    finally:
        os.umask(before)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "text", "weights")}
    assert modes == {0o666 & ~umask}
    assert load_file(tmp_path / "weights")["a"].item() == 1


def test_text_bytes_and_folders_of_write_atomic(tmp_path):
    write_atomic(tmp_path / "new" / "folder" / "a.txt", "ä\n")
    assert (tmp_path / "new" / "folder" / "a.txt").read_bytes() == b"\xc3\xa4\n"
    with pytest.raises(RunError, match=r"cannot write to .*a\.txt"):
        write_atomic(tmp_path / "new" / "folder" / "a.txt" / "b", b"")


def test_names_that_are_not_utf_8_survive_in_json_and_are_escaped_in_text(tmp_path):
    """As the names of files that a run could not read, at its end."""
    names = [os.fsdecode(name) for name in (b"caf\xe9.png", "café.png".encode(), b"\xff\xfe", b"a\\b")]
    write_json(tmp_path / "x.json", {"skipped": names})
    assert json.loads((tmp_path / "x.json").read_text("utf-8"))["skipped"] == names
    assert os.fsencode(read_json(tmp_path / "x.json")["skipped"][0]) == b"caf\xe9.png"
    write_atomic(tmp_path / "x.md", f"{names[0]}, {names[1]}")
    assert (tmp_path / "x.md").read_text("utf-8") == "caf\\udce9.png, café.png"


def test_a_folder_is_there_in_whole_or_not_at_all(tmp_path):
    with atomic_folder(tmp_path / "made") as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "a").write_text("a")
        assert not (tmp_path / "made").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["made"] and (tmp_path / "made" / "deep" / "a").is_file()
    with pytest.raises(KeyError), atomic_folder(tmp_path / "other") as temporary:
        (temporary / "b").write_text("b")
        raise KeyError
    with pytest.raises(OSError), atomic_folder(tmp_path / "made") as temporary:
        (temporary / "c").write_text("c")
    assert [path.name for path in tmp_path.rglob("*")] == ["made", "deep", "a"]
