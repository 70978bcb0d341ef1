"""Checkpoints: every published key layout, written out by hand, and every way a file can be bad or hostile."""

import argparse
import copy
import json
import os
import pickle
import types
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from torch import nn

from coadvise.checkpoints import writing as checkpoint_module
from coadvise.checkpoints.loading import load_checkpoint, read_checkpoint
from coadvise.checkpoints.writing import save_safetensors_atomic
from coadvise.errors import CheckpointError
from coadvise.models.students import SingleHead, as_student

TINY = {"layers": (1, 1), "width": 32, "num_classes": 5}
CIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}

# mmcls' names, written out (BatchNorm `x` stands for x.weight, x.bias, x.running_mean, x.running_var).
MMCLS_STEM = [
    "stem.0.conv.weight",
    "BN stem.0.bn",
    "stem.1.conv1.conv.weight",
    "BN stem.1.conv1.bn",
    "stem.1.conv2.conv.weight",
    "stem.1.conv2.conv.bias",
    "BN stem.2",
    "stem.4.conv.weight",
    "BN stem.4.bn",
]
MMCLS_BLOCK = [
    "conv1.weight",
    "BN bn1",
    "conv2.conv1.conv.weight",
    "BN conv2.conv1.bn",
    "conv2.conv2.conv.weight",
    "conv2.conv2.conv.bias",
    "BN bn2",
    "conv3.weight",
    "BN bn3",
    "downsample.0.weight",
    "BN downsample.1",
]


def expand(names, prefix=""):
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    for name in names:
        if name.startswith("BN "):
            yield from (f"{prefix}{name[3:]}.{part}" for part in parts)
        else:
            yield f"{prefix}{name}"


def official_rednet(backbone, head, stages=2):
    """All official keys of a RedNet with one bottleneck per stage, in the order of the layers."""
    keys = list(expand(MMCLS_STEM, backbone))
    for stage in range(1, stages + 1):
        keys += expand(MMCLS_BLOCK, f"{backbone}layer{stage}.0.")
    return [*keys, f"{head}.weight", f"{head}.bias"]


def randomise(model, seed):
    """Weights and statistics that differ everywhere, so that a mix-up shows in the output."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            drawn = torch.rand(value.shape, generator=generator) * 0.5
            value.copy_(drawn + 0.5 if "running_var" in name else drawn - 0.25)
    return model.eval()


def make(name, seed, **options):
    return randomise(timm.create_model(name, **options), seed)


def renamed(model, keys):
    """The model's weights under other names; both lists follow the order of the layers."""
    values = list(model.state_dict().values())
    assert len(values) == len(keys)
    return {key: value.clone() for key, value in zip(keys, values, strict=True)}


def images(size=32):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(9))


def assert_same(source, target, x=None):
    x = images() if x is None else x
    with torch.no_grad():
        torch.testing.assert_close(source(x), target(x), rtol=0, atol=0)


class CfgNode(dict):
    """Like a yacs node: a dict subclass with attributes, whose module the reader may not have."""


@pytest.mark.parametrize(
    ("backbone", "head"),
    [("backbone.", "head.fc"), ("model.", "classifier"), ("model.", "classifier.fc"), ("", "fc")],
)
@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": s, "meta": {"epoch": 1}}, lambda s: {"model": s}]
)
def test_published_rednet_keys(tmp_path, backbone, head, wrap):
    source, target = make("rednet26", 1, **TINY), make("rednet26", 2, **TINY)
    torch.save(wrap(renamed(source, official_rednet(backbone, head))), tmp_path / "red.pth")
    assert load_checkpoint(target, tmp_path / "red.pth") == {}
    assert_same(source, target)


def official_cit_keys(depth=2):
    """Keys of the official CiT-SAK student on timm 0.3, in the order of our layers."""
    conv = []
    for convolution, norm in ((0, 1), (3, 4), (6, 7)):
        conv += expand([f"conv.{convolution}.weight", f"BN conv.{norm}"], "conv_embed.")
    conv += ["conv_embed.proj.weight", "conv_embed.proj.bias"]
    inv = [*expand(MMCLS_STEM, "inv_embed."), "inv_embed.proj.weight", "inv_embed.proj.bias"]
    block = ["norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight", "attn.proj.bias"]
    block += ["norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"]
    keys = ["cls_token", "pos_embed", *conv, *inv]
    for i in range(depth):
        keys += [f"blocks.{i}.{name}" for name in block]
    keys += ["norm.weight", "norm.bias"]
    for head in ("head", "head_conv", "head_inv"):
        keys += [f"{head}.weight", f"{head}.bias"]
    return keys


def test_official_cit_sak_student(tmp_path):
    source, target = make("cit_small_sa", 1, **CIT), make("cit_small_sa", 2, **CIT)
    weights = renamed(source, official_cit_keys())
    weights = {f"module.{key}": value for key, value in weights.items()}
    torch.save({"model": weights, "config": CfgNode(a=1)}, tmp_path / "sak.pth")
    load_checkpoint(target, tmp_path / "sak.pth")
    assert_same(source, target)


def test_deit_distilled_into_one_advised_token(tmp_path):
    options = {**CIT}
    deit = make("deit_tiny_distilled_patch16_224", 1, **options)
    target = make("cit_tiny", 2, **options, teachers={"regnet": "conv"}, inference="average")
    weights = deit.state_dict()
    assert {"dist_token", "head_dist.weight"} <= weights.keys()
    torch.save({"model": weights}, tmp_path / "deit.pth")
    load_checkpoint(target, tmp_path / "deit.pth")
    torch.testing.assert_close(target(images()), deit(images()), rtol=1e-5, atol=1e-6)
    two = make("cit_tiny", 3, **options)
    with pytest.raises(CheckpointError, match=r"unexpected.*dist_token"):
        load_checkpoint(two, tmp_path / "deit.pth")


def test_timm_weights_into_any_model(tmp_path):
    for name, options in (("resnet10t", {"num_classes": 5}), ("regnety_002", {"num_classes": 5})):
        source, target = make(name, 1, **options), make(name, 2, **options)
        torch.save(source.state_dict(), tmp_path / "timm.bin")
        load_checkpoint(target, tmp_path / "timm.bin")
        assert_same(source, target)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
@pytest.mark.parametrize("inside", [None, "model", "state_dict", "model_state", "state_dict_ema"])
def test_wrappers(tmp_path, wrapper, inside):
    source, target = make("rednet26", 1, **TINY), make("rednet26", 2, **TINY)
    weights = {f"{wrapper}{key}": value for key, value in source.state_dict().items()}
    torch.save(weights if inside is None else {inside: weights, "epoch": 3}, tmp_path / "a.pt")
    load_checkpoint(target, tmp_path / "a.pt")
    assert_same(source, target)


def test_safetensors_and_training_checkpoint(tmp_path):
    source, target = make("rednet26", 1, **TINY), make("rednet26", 2, **TINY)
    save_safetensors_atomic(tmp_path / "plain.safetensors", source.state_dict(), {"classes": "a,b"})
    assert load_checkpoint(target, tmp_path / "plain.safetensors") == {"classes": "a,b"}
    assert_same(source, target)

    target = make("rednet26", 2, **TINY)
    training = {f"model.{key}": value for key, value in source.state_dict().items()}
    training |= {"optimizer.0.exp_avg": torch.zeros(3), "ema.fc.weight": torch.zeros(2), "rng.cpu": torch.zeros(4)}
    save_file(training, tmp_path / "last.safetensors")
    load_checkpoint(target, tmp_path / "last.safetensors")
    assert_same(source, target)


def test_single_head_student_both_ways(tmp_path):
    source, target = make("resnet10", 1, num_classes=5), make("resnet10", 2, num_classes=5)
    save_safetensors_atomic(tmp_path / "s.safetensors", as_student(source).state_dict())
    load_checkpoint(target, tmp_path / "s.safetensors")
    assert_same(source, target)
    target = SingleHead(make("resnet10", 3, num_classes=5)).eval()
    load_checkpoint(target, tmp_path / "s.safetensors")
    assert_same(source, target)


@pytest.mark.parametrize("name", ["cit_tiny", "deit_tiny_patch16_224", "cit_tiny_sa"])
def test_position_embeddings_are_resampled(tmp_path, name):
    source = make(name, 1, **CIT)
    target = make(name, 2, **{**CIT, "img_size": 64})
    torch.save(source.state_dict(), tmp_path / "small.pth")
    load_checkpoint(target, tmp_path / "small.pth")
    prefix = source.num_prefix_tokens
    expected = resample_abs_pos_embed(source.pos_embed, new_size=[8, 8], old_size=[4, 4], num_prefix_tokens=prefix)
    torch.testing.assert_close(target.pos_embed, expected)
    assert torch.equal(target.head.weight, source.head.weight)


def test_namespace_and_foreign_objects_beside_the_weights(tmp_path, monkeypatch):
    source = make("rednet26", 1, **TINY)
    node = CfgNode(a=1, b=CfgNode(c=[1]))
    node.hidden = {"x": 2}
    content = {
        "model": source.state_dict(),
        "args": argparse.Namespace(lr=0.1, name="x"),
        "config": node,
        "best": np.float64(76.5),
        "path": Path("/somewhere"),
        "set": {1, 2},
    }
    for i, zipped in enumerate((True, False)):
        path = tmp_path / f"{i}.pth"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        target = make("rednet26", 2, **TINY)
        load_checkpoint(target, path)
        assert_same(source, target)


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


def test_misfits_list_keys_and_leave_the_model_alone(tmp_path):
    source, target = make("rednet26", 1, **TINY), make("rednet26", 2, **TINY)
    before = copy.deepcopy(target.state_dict())
    weights = source.state_dict()
    del weights["layer1.0.conv1.weight"]
    weights["stranger"] = torch.zeros(1)
    weights["layer2.0.bn1.bias"] = torch.zeros(3)
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(target, tmp_path / "a.pth")
    message = str(caught.value)
    assert "1 missing: layer1.0.conv1.weight" in message
    assert "1 unexpected: stranger" in message
    assert "layer2.0.bn1.bias is (3,), expected (64,)" in message
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())

    torch.save(make("resnet10", 1).state_dict(), tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"another architecture[^\0]*and \d+ more"):
        load_checkpoint(target, tmp_path / "other.pth")
    with pytest.raises(CheckpointError):
        load_checkpoint(nn.Linear(2, 2), tmp_path / "other.pth", strict=False)


@pytest.mark.parametrize("name", ["rednet26", "cit_tiny", "resnet10"])
def test_another_number_of_classes_is_named(tmp_path, name):
    options = {"rednet26": TINY, "cit_tiny": CIT, "resnet10": {}}[name]
    torch.save(make(name, 1, **{**options, "num_classes": 10}).state_dict(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"has 10 classes, the model 5: create the model with num_classes=10"):
        load_checkpoint(make(name, 2, **{**options, "num_classes": 5}), tmp_path / "a.pth")


def test_not_strict_loads_what_fits(tmp_path, caplog):
    source = make("rednet26", 1, **{**TINY, "num_classes": 10})
    target = make("rednet26", 2, **TINY)
    head = target.fc.weight.clone()
    torch.save(source.state_dict(), tmp_path / "a.pth")
    load_checkpoint(target, tmp_path / "a.pth", strict=False)
    assert torch.equal(target.fc.weight, head)
    assert_same(source.forward_features, target.forward_features)
    assert "fc.weight" in caplog.text


def test_weights_take_the_models_type(tmp_path):
    source = make("rednet26", 1, **TINY)
    torch.save(copy.deepcopy(source).half().state_dict(), tmp_path / "half.pth")
    load_checkpoint(source, tmp_path / "half.pth")
    assert all(p.dtype == torch.float32 for p in source.parameters())


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


@pytest.mark.parametrize("shape", [(3,), (1, 3, 24), (1, 17, 12), (1, 3 + 15, 24)])
def test_position_embeddings_that_cannot_fit(tmp_path, shape):
    weights = make("cit_tiny", 1, **CIT).state_dict()
    torch.save({**weights, "pos_embed": torch.zeros(shape)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"1 wrongly shaped: pos_embed is \("):
        load_checkpoint(make("cit_tiny", 2, **CIT), tmp_path / "a.pth")


def test_a_new_classifier_for_other_classes(tmp_path):
    """Fine-tuning: everything but the head is loaded, and another architecture is still refused."""
    old, new = (timm.create_model("resnet10", num_classes=n, channels=(8, 8, 8, 8)) for n in (7, 3))
    save_safetensors_atomic(tmp_path / "old.safetensors", old.state_dict())
    head = new.fc.weight.clone()
    load_checkpoint(new, tmp_path / "old.safetensors", new_classifier=True)
    assert torch.equal(new.fc.weight, head)
    assert all(torch.equal(new.state_dict()[k], v) for k, v in old.state_dict().items() if not k.startswith("fc"))
    wider = timm.create_model("resnet10", num_classes=3, channels=(16, 8, 8, 8))
    with pytest.raises(CheckpointError, match="another architecture"):
        load_checkpoint(wider, tmp_path / "old.safetensors", new_classifier=True)
