"""Writing safetensors: the same bytes each time, and never half a file."""

import json
import os
import types
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from coadvise.checkpoints import writing as checkpoint_module
from coadvise.checkpoints.writing import save_safetensors_atomic
from coadvise.errors import CheckpointError


def test_the_same_content_makes_the_same_bytes(tmp_path):
    """Whatever the metadata hold: safetensors alone writes them in an order that chance decides."""
    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(3, dtype=torch.bfloat16), "ü": torch.tensor([1])}
    metadata = {"z": 'a "quote" \\ / and\n\ttabs \x00 \x1f \x7f', "format": "1", "ä": "ö 中 😀 \u2028", "none": ""}
    found = set()
    for _ in range(12):
        save_safetensors_atomic(tmp_path / "a.safetensors", tensors, metadata)
        found.add((tmp_path / "a.safetensors").read_bytes())
    assert len(found) == 1
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == metadata
        assert set(file.keys()) == tensors.keys()
        assert all(torch.equal(file.get_tensor(key), tensor) for key, tensor in tensors.items())
    header = found.pop()
    size = int.from_bytes(header[:8], "little")
    assert list(json.loads(header[8 : 8 + size])["__metadata__"]) == list(metadata)


def test_atomic_save_keeps_the_old_file_when_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    weight = torch.arange(6.0).view(2, 3)
    save_safetensors_atomic(path, {"a": weight, "tied": weight, "t": weight.t()}, {"k": "v"})
    assert torch.equal(load_file(path)["t"], weight.t()) and torch.equal(load_file(path)["tied"], weight)

    def fail(tensors, name, metadata):
        Path(name).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint_module, "save_file", fail)
    with pytest.raises(CheckpointError, match="no space left"):
        save_safetensors_atomic(path, {"a": torch.zeros(1)})
    assert torch.equal(load_file(path)["a"], weight)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_kill_while_writing_leaves_no_half_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_safetensors_atomic(path, {"a": torch.ones(1)})
    # Before the rename the new content is elsewhere: whatever happens then, the path still holds the old file.
    seen = types.SimpleNamespace()

    def replace(source, target):
        seen.old = load_file(target)["a"].item()
        seen.new = load_file(source)["a"].item()
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        save_safetensors_atomic(path, {"a": torch.zeros(1)})
    assert (seen.old, seen.new, load_file(path)["a"].item()) == (1.0, 0.0, 1.0)


def test_save_into_a_missing_folder(tmp_path):
    (tmp_path / "file").touch()
    for folder in ("missing", "file"):
        with pytest.raises(CheckpointError, match="cannot be written"):
            save_safetensors_atomic(tmp_path / folder / "a.safetensors", {"a": torch.zeros(1)})
