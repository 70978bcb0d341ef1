"""Files that are hostile, cut off or no checkpoint at all: none runs code, each is named."""

import copy
import os
import pickle
from pathlib import Path

import pytest
import torch
from helpers.weights import TINY, assert_same, make
from torch import nn

from coadvise.checkpoints.loading import load_checkpoint, read_checkpoint
from coadvise.checkpoints.writing import save_safetensors_atomic
from coadvise.errors import CheckpointError


class Evil:
    """Pickles as a call, which unpickling would make."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def attacks(marker):
    yield Evil(os.system, f"touch {marker}")
    yield Evil(exec, f"open({str(marker)!r}, 'w')")
    yield Evil(eval, f"open({str(marker)!r}, 'w')")
    yield Evil(open, str(marker), "w")
    yield Evil(Path.touch, Path(marker))


@pytest.mark.parametrize("attack", range(5))
@pytest.mark.parametrize("form", ["zip", "legacy", "bare", "value"])
def test_code_in_a_pickle_never_runs(tmp_path, attack, form):
    marker, path = tmp_path / "marker", tmp_path / "evil.pth"
    evil = list(attacks(marker))[attack]
    source, target = make("rednet26", 1, **TINY), make("rednet26", 2, **TINY)
    before = copy.deepcopy(target.state_dict())
    if form == "bare":
        path.write_bytes(pickle.dumps(evil))
    elif form == "value":
        torch.save({**source.state_dict(), "fc.weight": evil}, path)
    else:
        torch.save({"model": source.state_dict(), "evil": evil}, path, _use_new_zipfile_serialization=form == "zip")
    if form in ("bare", "value"):
        with pytest.raises(CheckpointError):
            load_checkpoint(target, path)
        assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())
    else:
        load_checkpoint(target, path)
        assert_same(source, target)
    assert not marker.exists()


def test_the_attacks_are_real(tmp_path):
    """The oracle of the test above: Python's own unpickler does run every one of them."""
    for i, evil in enumerate(attacks(tmp_path / "marker")):
        pickle.loads(pickle.dumps(evil))
        assert (tmp_path / "marker").exists(), i
        (tmp_path / "marker").unlink()


def test_stand_ins_cannot_be_altered_by_a_pickle(tmp_path):
    # A global, then BUILD with attributes for it: (None, {"marked": True}).
    for module, name in (("torch._utils", "_rebuild_tensor_v2"), ("os", "system"), ("collections", "OrderedDict")):
        state = b"(N}X\x06\x00\x00\x00marked\x88stb"
        (tmp_path / "b.pth").write_bytes(b"\x80\x02c" + f"{module}\n{name}\n".encode() + state + b".")
        with pytest.raises(CheckpointError):
            read_checkpoint(tmp_path / "b.pth")
    assert not hasattr(torch._utils._rebuild_tensor_v2, "marked") and not hasattr(os.system, "marked")


def test_programs_and_foreign_files_are_refused(tmp_path):
    model = make("rednet26", 2, **TINY)
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "empty_dict.pt")
    torch.save({"a": torch.zeros(2).to_sparse()}, tmp_path / "sparse.pt")
    (tmp_path / "text.pth").write_text("hello, this is no checkpoint")
    (tmp_path / "text.safetensors").write_text("hello, this is no checkpoint")
    (tmp_path / "zero.pth").touch()
    (tmp_path / "folder.pth").mkdir()
    expected = {
        "script.pt": "TorchScript",
        "module.pt": "no state dict",
        "list.pt": "no state dict",
        "empty_dict.pt": "no state dict",
        "sparse.pt": "no plain tensor",
        "text.pth": "no readable PyTorch file",
        "text.safetensors": "no readable safetensors",
        "zero.pth": "is empty",
        "folder.pth": "is no file",
        "missing.pth": "does not exist",
    }
    for name, message in expected.items():
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(model, tmp_path / name)


@pytest.mark.parametrize("name", ["a.pth", "legacy.pth", "a.safetensors"])
def test_truncated_files(tmp_path, name):
    model = make("rednet26", 1, **TINY)
    path = tmp_path / name
    if name.endswith("safetensors"):
        save_safetensors_atomic(path, model.state_dict())
    else:
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=name == "a.pth")
    whole = path.read_bytes()
    for length in (1, 8, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load_checkpoint(model, path)
