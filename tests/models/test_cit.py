"""CiT against timm's ViT and distilled DeiT, and its tokens computed by hand."""

import unittest.mock

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import nn

from coadvise.errors import ModelError
from coadvise.models.cit import CiT

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
BOTH = {**TINY, "stem": "conv+inv"}


def images(size=32, batch=2):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(5))


def scatter(model, seed=0):
    """Weights away from their initialisation, so that biases, norms and tokens matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


@pytest.mark.parametrize(
    ("name", "count"),
    [("cit_small_sa", 25_776_138), ("cit_tiny_sa", 7_632_906), ("cit_tiny", 6_104_184), ("cit_small", 22_822_200)],
)
def test_parameter_counts(name, count):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == count


def test_without_teachers_it_is_deit_tiny():
    deit = scatter(timm.create_model("deit_tiny_patch16_224")).eval()
    cit = timm.create_model("cit_tiny", teachers={}).eval()
    assert cit.state_dict().keys() == deit.state_dict().keys()
    cit.load_state_dict(deit.state_dict())
    x = images(224, batch=1)
    with torch.no_grad():
        torch.testing.assert_close(cit(x), deit(x))
        assert list(cit.forward_tokens(x)) == ["class"]


def test_with_one_plain_token_it_is_distilled_deit_tiny():
    deit = scatter(timm.create_model("deit_tiny_distilled_patch16_224"))
    cit = timm.create_model("cit_tiny", teachers={"regnet": "conv"})
    weights = {
        key.replace("dist_token", "tokens.regnet").replace("head_dist", "advised_heads.regnet"): value
        for key, value in deit.state_dict().items()
    }
    cit.load_state_dict(weights)
    deit.set_distilled_training(True)  # without dropout, training mode only makes it return both logits
    x = images(224, batch=1)
    with torch.no_grad():
        class_logits, distilled = deit.train()(x)
        tokens = cit.eval().forward_tokens(x)
        torch.testing.assert_close(tokens["class"], class_logits)
        torch.testing.assert_close(tokens["regnet"], distilled)
        torch.testing.assert_close(cit(x), class_logits)
        cit.inference = "average"
        torch.testing.assert_close(cit(x), (class_logits + distilled) / 2)
        torch.testing.assert_close(cit(x), deit.eval()(x))


def stem_patches(model, kind, x):
    """Patch tokens of one stem: through its layers one by one and its projection as an explicit product."""
    stem = model.patch_embed.stems[kind]
    for layer in stem.stem:
        x = layer(x)
    half = stem.proj.kernel_size[0]
    windows = x.unfold(2, half, half).unfold(3, half, half)  # b c gh gw half half
    weight = stem.proj.weight
    tokens = torch.einsum("bcyxij,dcij->byxd", windows, weight) + stem.proj.bias
    return tokens.flatten(1, 2)


def test_aligned_tokens_are_the_means_of_their_stems():
    torch.manual_seed(0)
    model = scatter(CiT(**BOTH)).eval()
    x = images()
    with torch.no_grad():
        conv, inv = stem_patches(model, "conv", x), stem_patches(model, "inv", x)
        assert conv.shape == (2, 16, 24)
        cls = model.cls_token.expand(2, 1, 24)
        parts = [cls, conv.mean(1, keepdim=True), inv.mean(1, keepdim=True), conv + inv]
        expected = torch.cat(parts, dim=1) + model.pos_embed
        torch.testing.assert_close(model._pos_embed(model.patch_embed(x)), expected, rtol=1e-4, atol=1e-5)
    assert not model.tokens and not model.offsets


def test_tokens_keep_their_declared_order_whatever_their_bias():
    model = scatter(CiT(**BOTH, teachers={"mlp": "mlp", "inn": "inv", "free": None, "cnn": "conv"})).eval()
    assert model.token_names == ("class", "mlp", "inn", "free", "cnn")
    assert set(model.tokens) == {"mlp", "free"}
    x = images()
    with torch.no_grad():
        sequence = model._pos_embed(model.patch_embed(x)) - model.pos_embed
        expected = [
            model.cls_token.expand(2, 1, 24),
            model.tokens["mlp"].expand(2, 1, 24),
            stem_patches(model, "inv", x).mean(1, keepdim=True),
            model.tokens["free"].expand(2, 1, 24),
            stem_patches(model, "conv", x).mean(1, keepdim=True),
        ]
        torch.testing.assert_close(sequence[:, :5], torch.cat(expected, 1), rtol=1e-4, atol=1e-5)
        logits = model.forward_tokens(x)
        features = model.forward_features(x)
    assert list(logits) == ["class", "mlp", "inn", "free", "cnn"]
    torch.testing.assert_close(logits["inn"], model.advised_heads["inn"](features[:, 2]))
    torch.testing.assert_close(logits["class"], model.head(features[:, 0]))


def test_two_tokens_of_one_bias_differ_from_the_start():
    torch.manual_seed(0)
    model = CiT(**BOTH, teachers={"r18": "conv", "r50": "conv", "inv": "inv"}).eval()
    assert set(model.offsets) == {"r18", "r50"}
    x = images()
    with torch.no_grad():
        sequence = model._pos_embed(model.patch_embed(x)) - model.pos_embed
        mean = stem_patches(model, "conv", x).mean(1)
        torch.testing.assert_close(sequence[:, 1], mean + model.offsets["r18"][0], rtol=1e-4, atol=1e-5)
    assert (sequence[:, 1] - sequence[:, 2]).abs().max() > 1e-3


def test_without_alignment_tokens_are_learned():
    model = CiT(**BOTH, align=False)
    assert set(model.tokens) == {"conv", "inv"} and not model.offsets
    assert set(CiT(**TINY).tokens) == {"conv", "inv"}  # plain patches have no stem to align with
    one_stem = CiT(**TINY, stem="conv")
    assert set(one_stem.tokens) == {"inv"} and set(one_stem.aligned) == {"conv"}


@pytest.mark.parametrize("stem", ["patchify", "conv", "inv", "conv+inv"])
@pytest.mark.parametrize("patch", [2, 4, 6])
def test_any_even_patch_size(stem, patch):
    model = CiT(**{**TINY, "patch_size": patch, "img_size": (24, 12), "depth": 1}, stem=stem).eval()
    tokens = model.forward_tokens(torch.randn(2, 3, 24, 12))
    assert {name: tuple(z.shape) for name, z in tokens.items()} == dict.fromkeys(("class", "conv", "inv"), (2, 5))
    assert model.forward_features(torch.randn(1, 3, 24, 12)).shape == (1, 3 + (24 // patch) * (12 // patch), 24)


def test_odd_patch_with_patchify():
    assert CiT(**{**TINY, "patch_size": 5, "img_size": 15})(torch.randn(1, 3, 15, 15)).shape == (1, 5)


@pytest.mark.parametrize(
    "teachers", [{}, {"a": None}, {"conv": "conv", "inv": "inv"}, {"a": "conv", "b": "conv", "c": "x"}]
)
@pytest.mark.parametrize("stem", ["patchify", "conv+inv"])
def test_every_parameter_gets_a_gradient(teachers, stem):
    model = CiT(**TINY, stem=stem, teachers=teachers)
    x = images(batch=4)
    sum(z.square().sum() for z in model.forward_tokens(x).values()).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert not silent


@pytest.mark.parametrize("stem", ["patchify", "conv+inv"])
def test_dynamic_size_resamples_position_embeddings(stem):
    model = scatter(CiT(**TINY, stem=stem, dynamic_img_size=True)).eval()
    fixed = CiT(**{**TINY, "img_size": (32, 48)}, stem=stem).eval()
    weights = model.state_dict()
    weights["pos_embed"] = resample_abs_pos_embed(
        model.pos_embed.detach(), new_size=[4, 6], old_size=[4, 4], num_prefix_tokens=3
    )
    fixed.load_state_dict(weights)
    x = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        for name, logits in model.forward_tokens(x).items():
            torch.testing.assert_close(logits, fixed.forward_tokens(x)[name], rtol=1e-4, atol=1e-5)
        model.set_input_size((32, 48))
        torch.testing.assert_close(model.pos_embed, fixed.pos_embed)
        torch.testing.assert_close(model(x), fixed(x), rtol=1e-4, atol=1e-5)


def test_padding_to_whole_patches():
    model = CiT(**{**TINY, "img_size": 30}, stem="conv+inv", dynamic_img_size=True, dynamic_img_pad=True).eval()
    x = torch.randn(1, 3, 30, 25)
    padded = torch.nn.functional.pad(x, (0, 7, 0, 2))
    torch.testing.assert_close(model(x), model(padded))


def test_patch_dropout_keeps_the_tokens():
    model = CiT(**BOTH, patch_drop_rate=0.5).train()
    assert model.patch_drop.num_prefix_tokens == 3
    assert model.forward_features(images()).shape == (2, 3 + 8, 24)


def test_initial_values():
    torch.manual_seed(0)
    model = CiT(embed_dim=384, depth=1, num_heads=6, stem="conv+inv", teachers={"a": "conv", "b": "conv", "c": None})
    for token in (model.cls_token, model.tokens["c"], model.offsets["a"], model.offsets["b"], model.pos_embed):
        assert 0.017 < token.detach().std() < 0.023
    for module in model.patch_embed.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            assert module.weight.detach().std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.15)


def test_advised_tokens_drawn_more_widely():
    """They and offsets alone: what is drawn for the rest of the student is the same."""
    options = {**BOTH, "stem": "conv", "teachers": {"a": "conv", "b": "conv", "c": None}}
    torch.manual_seed(0)
    narrow = CiT(**options).state_dict()
    torch.manual_seed(0)
    wide = CiT(**options, token_std=3.0).state_dict()
    scaled = {"tokens.c", "offsets.a", "offsets.b"}
    assert scaled <= wide.keys()
    for name, value in wide.items():
        torch.testing.assert_close(value, narrow[name] * (150 if name in scaled else 1))


def test_average_features_and_reset():
    model = scatter(CiT(**BOTH, inference="average")).eval()
    x = images()
    features = model.forward_features(x)
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), features[:, :3].mean(1))
    mean = torch.stack(list(model.forward_tokens(x).values())).mean(0)
    torch.testing.assert_close(model(x), mean)
    model.reset_classifier(3)
    assert model(x).shape == (2, 3) and all(z.shape == (2, 3) for z in model.forward_tokens(x).values())
    model.reset_classifier(0)
    assert model.forward_tokens(x)["inv"].shape == (2, 24)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teachers": {"class": "conv"}}, "name of the class token"),
        ({"teachers": {"": "conv"}}, "cannot name a token"),
        ({"teachers": {"a.b": "conv"}}, "cannot name a token"),
        ({"teachers": {"keys": "conv"}}, "PyTorch uses it itself"),
        ({"teachers": {"training": None}}, "PyTorch uses it itself"),
        ({"teachers": {"a": 3}}, "bias of token 'a' is 3"),
        ({"teachers": ["a"]}, "mapping name → bias"),
        ({"stem": "attention"}, "choose patchify, or some of conv, inv, attn, mlp, joined as in conv\\+inv"),
        ({"stem": "conv+conv"}, "name each kind once"),
        ({"stem": "attn", "patch_size": 2}, "choose a patch size of at least 4"),
        ({"stem": "conv", "patch_size": 7, "img_size": 28}, "choose an even patch size"),
        ({"img_size": 30}, "30×30 is not divisible by patch size 8×8: use 32×32 px"),
        ({"num_heads": 5}, "width 24 cannot be shared by 5 heads"),
        ({"inference": "both"}, "'class' or 'average'"),
        ({"token_std": 0}, "token_std is 0: give a finite number above 0"),
        ({"token_std": float("nan")}, "token_std is nan"),
        ({"token_std": True}, "token_std is True"),
        ({"token_std": 0.3, "stem": "conv+inv"}, "no advised token that is drawn"),
        ({"reg_tokens": 2}, "no option 'reg_tokens'"),
        ({"global_pool": "avg"}, "remove global_pool='avg'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ModelError, match=message):
        CiT(**{**TINY, **options})


def test_images_of_another_size_are_named():
    with pytest.raises(ModelError, match="images are 40×40 px, the model is made for 32×32 px"):
        CiT(**TINY)(images(40))
    with pytest.raises(ModelError, match="36×36 is not divisible"):
        CiT(**BOTH, dynamic_img_size=True)(images(36))
    with pytest.raises(ModelError, match="patch size of stem 'conv\\+inv' is fixed"):
        CiT(**BOTH).set_input_size(patch_size=(4, 4))
    with pytest.raises(ModelError, match="global_pool is 'token' or ''"):
        CiT(**TINY).reset_classifier(3, "avg")


@pytest.mark.parametrize("options", [TINY, BOTH, {**BOTH, "align": False}])
def test_students_of_one_seed_share_all_weights_but_their_tokens(options):
    """So that arms of an experiment differ in nothing but the advice; the global generator moves by one draw."""

    def make(teachers):
        torch.manual_seed(3)
        return CiT(**options, teachers=teachers).state_dict()

    none, one, two = make({}), make({"conv": "conv"}), make({"conv": "conv", "inv": "inv"})
    for name, value in none.items():
        for other in (one, two):
            if name == "pos_embed":
                patches = value.shape[1] - 1
                assert torch.equal(value[:, 0], other[name][:, 0])
                assert torch.equal(value[:, 1:], other[name][:, -patches:])
            else:
                assert torch.equal(value, other[name]), name
    for name in one.keys() - {"pos_embed"}:
        assert torch.equal(one[name], two[name]), name
    torch.manual_seed(4)
    assert not torch.equal(CiT(**options, teachers={}).blocks[0].attn.qkv.weight, none["blocks.0.attn.qkv.weight"])


OPTIONS = [
    {},
    {"qk_norm": True, "init_values": 0.1, "qkv_bias": False},
    {"stem": "conv+inv", "inference": "average"},
    {"final_norm": False, "fc_norm": True},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fused", [True, False])
def test_the_shortened_last_block_gives_the_same(options, training, fused):
    torch.manual_seed(0)
    model = CiT(img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=4, num_classes=7, **options).double()
    model.train(training).blocks[-1].attn.fused_attn = fused
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)

    def answers() -> tuple[dict[str, torch.Tensor], torch.Tensor, list[torch.Tensor]]:
        logits, plain = model.forward_tokens(x), model(x)
        loss = sum((i + 1) * z.square().sum() for i, z in enumerate(logits.values())) + plain.square().sum()
        return logits, plain, list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))

    short = answers()
    called = []
    handle = model.blocks[-1].mlp.register_forward_hook(lambda *a: called.append(a[2].shape[1]))
    whole = answers()  # a hook sees all tokens
    handle.remove()
    assert called == [model.pos_embed.shape[1]] * 2
    assert all(torch.allclose(short[0][name], whole[0][name], atol=1e-12) for name in whole[0])
    assert torch.allclose(short[1], whole[1], atol=1e-12)
    for a, b in zip(short[2], whole[2], strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, atol=1e-9)


def test_the_last_block_is_shortened_by_default():
    model = CiT(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4, num_classes=7).eval()
    seen = []
    plain = torch.nn.functional.gelu
    with unittest.mock.patch("torch.nn.functional.gelu", lambda z, **k: seen.append(z.shape[1]) or plain(z, **k)):
        model(torch.randn(1, 3, 32, 32))
        model.forward_tokens(torch.randn(1, 3, 32, 32))
    assert seen == [19, 1, 19, 3]


class Adapter(nn.Linear):
    """A layer in another's place that does more than its weight says."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_an_adapter_in_the_last_block_is_not_passed_over():
    model = CiT(**TINY).eval()
    attention = model.blocks[-1].attn
    adapter = Adapter(24, 72)
    adapter.load_state_dict(attention.qkv.state_dict())
    attention.qkv = adapter
    x = images()
    assert torch.equal(model(x), model.forward_head(model.forward_features(x)))


def test_export_with_a_free_batch():
    """What is exported for two images answers for any number as the model itself does."""
    model = scatter(CiT(**{**BOTH, "depth": 1})).eval()
    free = torch.export.export(model, (images(),), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    for batch in (2, 5):
        x = images(batch=batch)
        with torch.no_grad():
            torch.testing.assert_close(free(x), model(x))
