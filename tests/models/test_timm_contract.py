"""What timm and its tools expect of every model, for all of ours."""

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim import param_groups_weight_decay
from torch import nn

SIZE = 64
VIT = {"img_size": SIZE, "depth": 3}
OPTIONS = {
    "rednet26": {"width": 32},
    "rednet38": {"width": 32, "layers": (1, 2, 1, 1)},
    "rednet50": {"width": 32, "layers": (1, 1, 1, 2)},
    "rednet101": {"width": 32, "layers": (1, 1, 2, 1)},
    "rednet152": {"width": 32, "layers": (2, 1, 1, 1)},
    "cit_tiny": VIT,
    "cit_small": VIT,
    "cit_base": VIT,
    "cit_tiny_sa": VIT,
    "cit_small_sa": VIT,
    "transformer_tiny": VIT,
    "transformer_small": VIT,
    "resnet10": {},
    "mixer_tiny": {"img_size": SIZE, "num_blocks": 3},
}
NAMES = pytest.mark.parametrize("name", OPTIONS)


def create(name, **options):
    torch.manual_seed(0)
    return timm.create_model(name, **{**OPTIONS[name], "num_classes": 7, **options})


@pytest.fixture
def x():
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@NAMES
@torch.no_grad()
def test_forward_and_head(name, x):
    model = create(name).eval()
    features = model.forward_features(x)
    logits = model(x)
    assert logits.shape == (2, 7)
    torch.testing.assert_close(model.forward_head(features), logits)
    hidden = model.forward_head(features, pre_logits=True)
    assert hidden.shape == (2, model.head_hidden_size)
    assert model.num_features == features.shape[1 if features.ndim == 4 else -1]
    torch.testing.assert_close(model.get_classifier()(hidden), logits)
    assert model.get_classifier() is model.get_submodule(model.default_cfg["classifier"])


@NAMES
@torch.no_grad()
def test_reset_classifier(name, x):
    model = create(name).eval()
    model.reset_classifier(3)
    assert model.num_classes == 3 and model(x).shape == (2, 3)
    model.reset_classifier(0)
    assert model.num_classes == 0 and model(x).shape == (2, model.num_features)
    model.reset_classifier(0, "")
    torch.testing.assert_close(model(x), model.forward_features(x))
    bare = create(name, num_classes=0, global_pool="").eval()
    assert bare(x).shape == model(x).shape


@NAMES
def test_reset_classifier_keeps_the_mode(name):
    for training in (True, False):
        model = create(name).train(training)
        model.reset_classifier(3)
        assert all(module.training is training for module in model.modules())


@NAMES
@torch.no_grad()
def test_intermediates(name, x):
    model = create(name).eval()
    final, maps = model.forward_intermediates(x)
    torch.testing.assert_close(final, model.forward_features(x))
    assert [m.shape[1] for m in maps] == [info["num_chs"] for info in model.feature_info]
    assert [SIZE // m.shape[2] for m in maps] == [info["reduction"] for info in model.feature_info]
    last = model.forward_intermediates(x, indices=1, intermediates_only=True, stop_early=True)
    torch.testing.assert_close(last[0], maps[-1])
    first = model.forward_intermediates(x, indices=[0], intermediates_only=True, stop_early=True)
    torch.testing.assert_close(first[0], maps[0])


@NAMES
@torch.no_grad()
def test_prune(name, x):
    model = create(name).eval()
    expected = model.forward_intermediates(x, indices=[1], intermediates_only=True)
    assert model.prune_intermediate_layers([1]) == [1]
    actual = model.forward_intermediates(x, indices=[1], intermediates_only=True)
    torch.testing.assert_close(actual, expected)


@NAMES
@torch.no_grad()
def test_features_only(name, x):
    full = create(name).eval()
    model = create(name, features_only=True, out_indices=(1, 2)).eval()
    model.load_state_dict({key: full.state_dict()[key.removeprefix("model.")] for key in model.state_dict()})
    maps = model(x)
    assert [m.shape[1] for m in maps] == model.feature_info.channels()
    assert [SIZE // m.shape[2] for m in maps] == model.feature_info.reduction()
    torch.testing.assert_close(maps, full.forward_intermediates(x, indices=[1, 2], intermediates_only=True))


@NAMES
def test_no_weight_decay_names_exist(name):
    model = create(name)
    names = {n for n, _ in model.named_parameters()}
    skipped = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    assert {n for n in skipped if n.startswith(("tokens", "offsets"))} <= names
    if hasattr(model, "pos_embed"):
        expected = {n for n in names if n.split(".")[0] in ("pos_embed", "cls_token", "tokens", "offsets")}
        assert expected <= skipped
    decayed = param_groups_weight_decay(model, 0.05, no_weight_decay_list=skipped)[1]["params"]
    assert all(p.ndim > 1 for p in decayed)
    ids = {id(p) for p in decayed}
    assert not any(id(p) in ids for n, p in model.named_parameters() if n in skipped)


@NAMES
@pytest.mark.parametrize("coarse", [False, True])
def test_group_matcher_orders_stem_blocks_head(name, coarse):
    model = create(name)
    groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
    assert set(groups) == {n for n, _ in model.named_parameters()}
    head = model.default_cfg["classifier"]
    assert groups[f"{head}.weight"] == max(groups.values())
    first = model.default_cfg["first_conv"]
    for convolution in [first] if isinstance(first, str) else first:
        assert groups[f"{convolution}.weight"] == 0
        assert isinstance(model.get_submodule(convolution), nn.Conv2d)
    assert all(groups[n] == 0 for n in groups if n.startswith(("cls_token", "pos_embed")))
    # Advised tokens are new in a model that is loaded: they learn at the rate of the heads.
    assert all(groups[n] == max(groups.values()) for n in groups if n.startswith(("tokens.", "offsets.")))


@NAMES
def test_grad_checkpointing_gives_the_same_gradient(name, x):
    grads = []
    for enabled in (False, True):
        model = create(name).train()
        model.set_grad_checkpointing(enabled)
        torch.manual_seed(1)
        model(x).square().sum().backward()
        grads.append({n: p.grad for n, p in model.named_parameters()})
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


@NAMES
@torch.no_grad()
def test_channels_dropout_and_drop_path(name):
    model = create(name, in_chans=1, drop_rate=0.5, drop_path_rate=0.1)
    x = torch.randn(4, 1, SIZE, SIZE)
    assert model.in_chans == 1 and model(x).shape == (4, 7)
    model.eval()
    torch.testing.assert_close(model(x), model(x))


@NAMES
@torch.no_grad()
def test_half_precision_and_autocast(name, x):
    model = create(name).eval()
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x)
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.05)
    assert create(name).eval().to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16


@NAMES
def test_config(name):
    cfg = timm.models.get_pretrained_cfg(name)
    assert cfg.input_size == (3, 224, 224) and cfg.crop_pct == 0.875 and cfg.num_classes == 1000
    assert cfg.mean == (0.485, 0.456, 0.406) and cfg.std == (0.229, 0.224, 0.225)
    assert timm.is_model(name) and name in timm.list_models()
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        create(name, pretrained=True)
