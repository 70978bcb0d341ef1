"""Checkpoints: every published key layout, written out by hand, and weights that do not fit."""

import argparse
import copy
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers.recipes import tiny
from helpers.weights import CIT, TINY, assert_same, images, make
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from timm.models import beit, eva, swin_transformer
from torch import nn

from coadvise.checkpoints.loading import load_checkpoint, stored_classes
from coadvise.checkpoints.model_file import save_model
from coadvise.checkpoints.writing import save_safetensors_atomic
from coadvise.errors import CheckpointError
from coadvise.models.students import SingleHead, as_student
from coadvise.models.teachers import Teachers

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


def renamed(model, keys):
    """The model's weights under other names; both lists follow the order of the layers."""
    values = list(model.state_dict().values())
    assert len(values) == len(keys)
    return {key: value.clone() for key, value in zip(keys, values, strict=True)}


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
    turned = make("cit_small_sa", 3, **CIT, teachers={"inv": "inv", "conv": "conv"})  # its rows stand class, conv, inv
    load_checkpoint(turned, tmp_path / "sak.pth")
    with torch.no_grad():
        expected, found = source.forward_tokens(images()), turned.forward_tokens(images())
    for name, logits in expected.items():
        torch.testing.assert_close(found[name], logits)


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


@pytest.mark.parametrize(
    "wrapper",
    ["model.", "net.", "timm_model.", "backbone.", "module.net.", "model.timm_model.", "_orig_mod.model.model."],
)
@pytest.mark.parametrize("name", ["resnet10", "rednet26", "cit_tiny"])
def test_whatever_the_wrapper_was_called(tmp_path, wrapper, name):
    options = {"rednet26": TINY, "cit_tiny": CIT}.get(name, {"num_classes": 5})
    source, target = make(name, 1, **options), make(name, 2, **options)
    torch.save({wrapper + key: value for key, value in source.state_dict().items()}, tmp_path / "a.pth")
    load_checkpoint(target, tmp_path / "a.pth")
    assert_same(source, target)


@pytest.mark.parametrize("name", ["levit_128s", "resnet10", "deit_tiny_distilled_patch16_224"])
def test_classes_are_counted_by_one_classifier_or_two(tmp_path, name):
    torch.save(timm.create_model(name, num_classes=4).state_dict(), tmp_path / "a.pth")
    assert stored_classes(tmp_path / "a.pth", timm.create_model(name, num_classes=9)) == 4


@pytest.mark.parametrize("name", ["resnet10", "vit_tiny_patch16_224", "convnext_atto", "cit_tiny"])
def test_a_backbone_starts_a_student(tmp_path, name):
    """As timm saves it with num_classes=0; everything but the classifier is its own, in timm's model, too."""
    options = {"drop_path_rate": 0.0} | ({"depth": 1} if "tiny" in name else {})
    source = make(name, 1, num_classes=0, **options)
    torch.save({f"net.{key}": value for key, value in source.state_dict().items()}, tmp_path / "b.pth")
    target = make(name, 2, num_classes=7, **options)
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(CheckpointError, match="backbone without classifier"):
        load_checkpoint(target, tmp_path / "b.pth")
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())
    load_checkpoint(target, tmp_path / "b.pth", new_classifier=True)
    for key, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict().get(key, before[key]))


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


@pytest.mark.parametrize(
    "names", [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("state_dict", "model_ema")]
)
def test_timms_training_checkpoints_give_what_they_give_in_timm(tmp_path, caplog, names):
    plain, averaged = make("resnet10", 1, num_classes=5), make("resnet10", 2, num_classes=5)
    torch.save({names[0]: plain.state_dict(), names[1]: averaged.state_dict(), "epoch": 3}, tmp_path / "last.pth.tar")
    for use_ema, weights in ((True, None), (True, "ema"), (False, "plain")):
        expected, target = make("resnet10", 3, num_classes=5), make("resnet10", 4, num_classes=5)
        timm.models.load_checkpoint(expected, str(tmp_path / "last.pth.tar"), use_ema=use_ema)
        caplog.clear()
        load_checkpoint(target, tmp_path / "last.pth.tar", weights=weights)
        assert_same(expected, target)
        taken = names[1 if use_ema else 0]
        assert [f"taken are '{taken}'" in record.getMessage() for record in caplog.records] == [True]
    torch.save({"state_dict": plain.state_dict(), "state_dict_ema": None}, tmp_path / "plain.pth.tar")
    load_checkpoint(target, tmp_path / "plain.pth.tar")
    assert_same(plain, target)
    for path, weights in (("plain.pth.tar", "ema"), ("bare.pth", "plain")):
        torch.save(plain.state_dict(), tmp_path / "bare.pth")
        with pytest.raises(CheckpointError, match=f"weights='{weights}'"):
            load_checkpoint(target, tmp_path / path, weights=weights)


@pytest.mark.parametrize(
    ("name", "form"), [("ema_state_dict", "bare"), ("ema_model", "averaged model"), ("ema", "module")]
)
def test_averaged_weights_under_others_names_are_not_left_out_in_silence(tmp_path, caplog, name, form):
    """timm takes the weights that were trained; the others are named, and can be had."""
    plain, averaged = make("resnet10", 1, num_classes=5), make("resnet10", 2, num_classes=5)
    state = averaged.state_dict()
    if form == "averaged model":  # as PyTorch itself makes it
        state = torch.optim.swa_utils.AveragedModel(averaged).state_dict()
    elif form == "module":
        state = {"module": state, "updates": 7}
    torch.save({"state_dict": plain.state_dict(), name: state}, tmp_path / "last.pth")
    target = make("resnet10", 4, num_classes=5)
    for weights, wanted, taken in (
        (None, plain, "state_dict"),
        ("plain", plain, "state_dict"),
        ("ema", averaged, name),
    ):
        caplog.clear()
        load_checkpoint(target, tmp_path / "last.pth", weights=weights)
        assert_same(wanted, target)
        assert [f"taken are '{taken}'" in record.getMessage() for record in caplog.records] == [True]
    torch.save({name: state}, tmp_path / "alone.pth")
    load_checkpoint(target, tmp_path / "alone.pth")
    with pytest.raises(CheckpointError, match="weights='plain'"):
        load_checkpoint(target, tmp_path / "alone.pth", weights="plain")
    caplog.clear()
    torch.save({"state_dict": plain.state_dict(), name: {"decay": 0.999}}, tmp_path / "settings.pth")
    load_checkpoint(target, tmp_path / "settings.pth")
    assert not caplog.records


def test_both_weights_of_our_training_checkpoints(tmp_path, caplog):
    plain, averaged, target = (make("rednet26", seed, **TINY) for seed in (1, 2, 3))
    training = {f"model.{key}": value for key, value in plain.state_dict().items()}
    training |= {f"ema.{key}": value for key, value in averaged.state_dict().items()}
    save_file(training | {"optimizer.0.exp_avg": torch.zeros(3)}, tmp_path / "last.safetensors")
    for weights, expected in ((None, plain), ("plain", plain), ("ema", averaged)):
        load_checkpoint(target, tmp_path / "last.safetensors", weights=weights)
        assert_same(expected, target)
    assert len(caplog.records) == 3


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


# Model, its options, and how timm itself reads its files.
SMALL = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
POSITIONS = {
    "eva02": ("eva02_tiny_patch14_224", {**SMALL, "embed_dim": 48}, eva),
    "eva without places of the class": ("vit_small_patch16_rope_ape_224", {**SMALL, "embed_dim": 48}, eva),
    "beit": ("beit_base_patch16_224", {**SMALL, "use_abs_pos_emb": True}, beit),
    "shared": ("beit_base_patch16_224", {**SMALL, "use_rel_pos_bias": False, "use_shared_rel_pos_bias": True}, beit),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"patch_size": 4, "embed_dim": 24, "depths": (2,), "num_heads": (3,), "num_classes": 5},
        swin_transformer,
    ),
}


@pytest.mark.parametrize("kind", POSITIONS)
def test_positions_are_resampled_as_in_timm(tmp_path, kind):
    name, options, module = POSITIONS[kind]
    windows = ({"window_size": 4}, {"window_size": 8}) if kind == "swin" else ({}, {})
    source = make(name, 1, **options, **windows[0], img_size=32)
    target, oracle = (make(name, 2, **options, **windows[1], img_size=64) for _ in range(2))
    stored = dict(source.state_dict())
    if kind == "beit":  # as published files have it
        stored["blocks.0.attn.relative_position_index"] = source.blocks[0].attn.relative_position_index
    torch.save(stored, tmp_path / "small.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checkpoint(target, tmp_path / "small.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of how timm interpolates
        oracle.load_state_dict(module.checkpoint_filter_fn(stored, oracle))
    assert_same(oracle, target, images(64))
    assert any(value.shape != stored[key].shape for key, value in target.state_dict().items())


def test_tables_of_no_square_are_reported(tmp_path):
    name, options, _ = POSITIONS["beit"]
    model = make(name, 1, **options, img_size=32)
    table = "blocks.0.attn.relative_position_bias_table"
    for shape in ((2, 3), (41, 3), (52, 4), (52,), (0, 3)):
        save_file({**model.state_dict(), table: torch.zeros(shape)}, tmp_path / "odd.safetensors")
        with pytest.raises(CheckpointError, match=r"1 wrongly shaped: blocks\.0\.attn\.relative_position_bias_table"):
            load_checkpoint(make(name, 2, **options, img_size=64), tmp_path / "odd.safetensors")


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


@pytest.mark.parametrize("key", ["head.bias", "pos_embed"])
def test_no_imaginary_part_is_dropped(tmp_path, key, recwarn):
    """Also where position embeddings would be resampled first."""
    source, target = (timm.create_model("vit_tiny_patch16_224", img_size=s, depth=1, num_classes=3) for s in (32, 64))
    before, state = copy.deepcopy(target.state_dict()), source.state_dict()
    torch.save(state | {key: torch.complex(state[key], state[key])}, tmp_path / "c.pth")
    for strict in (True, False):
        with pytest.raises(CheckpointError, match=rf"c\.pth: {key} has complex numbers"):
            load_checkpoint(target, tmp_path / "c.pth", strict=strict)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    assert not [one for one in recwarn if "imaginary" in str(one.message)]
    complex_model = nn.ParameterDict({"a": torch.complex(torch.ones(2), torch.ones(2))})
    torch.save({"a": torch.tensor([1 + 2j, 3.0])}, tmp_path / "own.pth")
    load_checkpoint(complex_model, tmp_path / "own.pth")
    assert complex_model["a"].tolist() == [1 + 2j, 3.0]


def test_weights_take_the_models_type(tmp_path):
    source = make("rednet26", 1, **TINY)
    torch.save(copy.deepcopy(source).half().state_dict(), tmp_path / "half.pth")
    load_checkpoint(source, tmp_path / "half.pth")
    assert all(p.dtype == torch.float32 for p in source.parameters())


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


@pytest.mark.parametrize("name", ["levit_128s", "tiny_vit_5m_224"])
def test_no_attention_bias_of_old_weights_is_kept(tmp_path, name):
    donor, model = (timm.create_model(name, num_classes=5).eval() for _ in range(2))
    for key, parameter in donor.named_parameters():
        if "attention_bias" in key:  # they start at zero; trained ones are a few units large
            nn.init.normal_(parameter, std=2)
    save_file(donor.state_dict(), tmp_path / "donor.safetensors")
    frozen = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d)).train()
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        model.eval()(x)  # biases are gathered now
        frozen.train()
        modes = [module.training for module in model.modules()]
        load_checkpoint(model, tmp_path / "donor.safetensors")
        assert [module.training for module in model.modules()] == modes
        assert frozen.training
        frozen.training = False
        assert torch.equal(model(x), donor(x))


def test_a_file_of_ours_brings_its_normalisation(tmp_path):
    recipe = tiny(tmp_path, {"data.mean": [0.1, 0.2, 0.3], "data.std": [0.4, 0.5, 0.6]})
    model, again = (timm.create_model("resnet10t", num_classes=3).eval() for _ in range(2))
    save_model(tmp_path / "best.safetensors", model, recipe, ("a", "b", "c"), weights="student", epoch=1, metrics={})
    load_checkpoint(again, tmp_path / "best.safetensors")
    pixels = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(own).view(3, 1, 1) for own in ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    advice = Teachers({"conv": again}, input_mean=(0.5,) * 3, input_std=(0.5,) * 3)((pixels - 0.5) / 0.5)
    with torch.no_grad():
        assert torch.allclose(advice["conv"], model((pixels - mean) / std), atol=1e-4)
