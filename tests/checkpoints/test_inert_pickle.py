"""Files that are hostile, cut off or no checkpoint at all: none runs code, each is named."""

import copy
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from helpers.weights import TINY, assert_same, make
from helpers.work import calls_at_most, ends
from torch import nn

from coadvise.checkpoints import inert_pickle
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


def peak_megabytes(action):
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def legacy(pickled):
    """A file of the format before 2020 with that pickle in place of its content."""
    heads = [pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join([*heads, pickled, pickle.dumps([], 2)])


def test_a_file_reserves_no_memory_that_it_only_names(tmp_path):
    """A memo index of a million, which the unpickler in C makes room for; a string and an array of 8 GB."""
    index = b"\x80\x02}r" + struct.pack("<I", 1_000_000) + b"."
    assert peak_megabytes(lambda: pickle.loads(index)) > 10
    length = struct.pack("<Q", 2**33)
    for number, pickled in enumerate((index, b"\x80\x04\x8d" + length + b".", b"\x80\x05\x96" + length + b".")):
        path = tmp_path / f"{number}.pth"
        for content in (pickled, legacy(pickled)):
            path.write_bytes(content)

            def read(path=path):
                with pytest.raises(CheckpointError):
                    read_checkpoint(path)

            assert peak_megabytes(read) < 5


def with_size(weights, name, **change):
    """A PyTorch file of which one tensor claims another size or storage than there is."""

    class Claims:
        def __reduce__(self):
            storage = change.get("storage", weights[name].untyped_storage())
            typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
            return torch._utils._rebuild_tensor_v2, (typed, 0, change["size"], change["stride"], False, OrderedDict())

    return {**weights, name: Claims()}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("size", "stride"), [((10**9,), (1,)), ((2, 10**6), (10**6, 1)), ((10**6, 10**6), (0, 0)), ((-1,), (1,))]
)
def test_tensors_lie_inside_of_what_is_stored(tmp_path, zipped, size, stride):
    weights = {"a": torch.zeros(3), "b": torch.zeros(4)}
    path = tmp_path / "a.pth"
    torch.save(with_size(weights, "a", size=size, stride=stride), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="no readable PyTorch file"):
        read_checkpoint(path)
    torch.save(with_size(weights, "a", size=(2,), stride=(2,)), path, _use_new_zipfile_serialization=zipped)
    assert read_checkpoint(path)[0]["a"].shape == (2,)


@pytest.mark.parametrize("zipped", [True, False])
def test_storage_is_no_larger_than_the_file(tmp_path, zipped):
    """The number of a storage's elements, found in the pickle and multiplied."""
    path = tmp_path / "a.pth"
    torch.save({"a": torch.zeros(12345)}, path, _use_new_zipfile_serialization=zipped)
    raw = path.read_bytes()
    assert raw.count(b"M90") >= 1  # BININT2 of 12345
    path.write_bytes(raw.replace(b"M90", b"M\xff\xff"))
    with pytest.raises(CheckpointError, match="no readable PyTorch file"):
        read_checkpoint(path)


def test_tensors_with_attributes_are_read(tmp_path):
    parameter, tensor = nn.Parameter(torch.randn(3)), torch.randn(2)
    parameter.lr_scale = tensor.note = 0.5
    torch.save({"a": parameter, "b": tensor}, tmp_path / "a.pth")
    found = read_checkpoint(tmp_path / "a.pth")[0]
    assert torch.equal(found["a"], parameter.detach()) and torch.equal(found["b"], tensor)


def test_compressed_files_and_endless_hashes_are_refused(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.zeros(10**6)}, path)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for one in plain.infolist():
            packed.writestr(one.filename, plain.read(one))
    with pytest.raises(CheckpointError, match="is compressed"):
        read_checkpoint(tmp_path / "b.pth")
    nested = b"\x80\x02}" + b"K\x01" + b"2\x86" * 60  # a pair of pairs of …, whose hash takes 2^60 steps
    for end in (b"K\x01s.", b"\x85)\x81."):
        path.write_bytes(legacy(nested + end))
        with ends(), calls_at_most(10_000), pytest.raises(CheckpointError):
            read_checkpoint(path)


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
        "folder.pth": "holds no best.safetensors",
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


@pytest.mark.parametrize("version", [b"9" * 30, b"three", b""])
def test_versions_that_are_no_numbers(tmp_path, version):
    whole, path = tmp_path / "whole.pth", tmp_path / "odd.pth"
    torch.save({"weight": torch.zeros(2)}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, version if name.endswith("/version") else old.read(name))
    with pytest.raises(CheckpointError, match=r"odd\.pth is no readable PyTorch file"):
        read_checkpoint(path)


def test_sizes_of_records_are_those_of_pytorchs_reader(tmp_path):
    """PyTorch 2.11's reader does not tell them, a later one does."""
    path = tmp_path / "a.pth"
    torch.save({"a": torch.zeros(5, 7), "b": torch.ones(3, dtype=torch.uint8)}, path)
    reader = torch._C.PyTorchFileReader(str(path))
    names = reader.get_all_records()
    expected = {name: len(reader.get_record(name)) for name in names}
    assert inert_pickle._sizes_in_zip(path, names) == expected == inert_pickle._records(path)
    with pytest.raises(ValueError, match="in two ways"):
        inert_pickle._sizes_in_zip(path, [*names, "another"])
