"""Advised tokens on timm's ViTs: one small model of every kind that timm builds."""

import itertools
from typing import Any

import pytest
import timm
import torch
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.naflexvit import NaFlexVit
from timm.optim._param_groups import param_groups_layer_decay
from torch import nn

from coadvise.errors import ModelError
from coadvise.models.advised import AdvisedViT, add_tokens, why_no_tokens

# Plain, distilled, DeiT-III, CLIP (norm before the blocks), pooled by attention (SigLIP) and by mean, registers (DINOv2
# and without a class token), rotary positions (along axes, learned, DINOv3's), post-norm, relative positions, NaFlex,
# parallel blocks, differential attention, a CNN in front.
KINDS = (
    "vit_tiny_patch16_224", "deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224",
    "vit_base_patch16_clip_224", "vit_base_patch16_clip_quickgelu_224", "vit_base_patch16_siglip_224",
    "vit_base_patch16_siglip_gap_224", "vit_small_patch14_reg4_dinov2", "vit_small_patch14_dinov2",
    "vit_medium_patch16_gap_256", "vit_medium_patch16_reg4_gap_256", "vit_base_patch16_rpn_224",
    "vit_base_patch16_xp_224", "vit_small_patch16_dinov3", "vit_small_plus_patch16_dinov3", "eva02_tiny_patch14_224",
    "eva02_base_patch16_clip_224", "eva_giant_patch14_224", "vit_small_patch16_rope_224",
    "vit_small_patch16_rope_mixed_224", "vit_small_patch16_rope_ape_224", "vit_pe_core_tiny_patch16_384",
    "beit_base_patch16_224", "beitv2_base_patch16_224", "naflexvit_base_patch16_gap", "naflexvit_base_patch16_siglip",
    "naflexvit_base_patch16_map", "vit_dlittle_patch16_reg1_gap_256", "vit_tiny_r_s16_p8_224",
)  # fmt: skip


def small(name: str, **options: Any) -> Any:
    """A small model of that kind whose tokens, biases and scales are not zero."""
    torch.manual_seed(0)
    patch = 14 if "patch14" in name else 16
    sizes = {"depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 5}
    model = timm.create_model(name, img_size=4 * patch, **{**sizes, **options}).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1 or parameter.shape[0] == 1:
            nn.init.normal_(parameter, std=0.3)
    return model


def images(model: nn.Module, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    patched = model.embeds if isinstance(model, NaFlexVit) else model.patch_embed
    height, width = getattr(patched, "img_size", None) or (64, 64)
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1)).to(dtype)


def expected(advised: AdvisedViT, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Layer by layer with timm's blocks as they are: the model alone, and again with the advised tokens in front, whose
    rows alone are kept. There no token is hidden from another, and rotary positions pass over all that is in front."""
    model, names = advised.model, list(advised.advised_heads)
    layers: list[torch.Tensor] = []
    hooks = [block.register_forward_pre_hook(lambda _, args: layers.append(args[0])) for block in model.blocks]
    arguments: list[dict[str, Any]] = []
    hooks += [
        block.register_forward_pre_hook(lambda _, args, kwargs: arguments.append(kwargs), with_kwargs=True)
        for block in model.blocks
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    start = layers[0]
    mean = start[:, model.num_prefix_tokens :].mean(1, keepdim=True) if advised.pooled else 0
    looking = torch.cat([advised.tokens[name].expand(len(x), -1, -1) + mean for name in names], dim=1)
    for block, before, extra in zip(model.blocks, layers, arguments, strict=True):
        attention = block.attn if hasattr(block, "attn") else block
        rotary = hasattr(attention, "num_prefix_tokens")
        if rotary:
            attention.num_prefix_tokens += len(names)
        looking = block(torch.cat([looking, before], dim=1), **extra)[:, : len(names)]
        if rotary:
            attention.num_prefix_tokens -= len(names)
    features = model.fc_norm(model.norm(looking))
    return {name: advised.advised_heads[name](features[:, i]) for i, name in enumerate(names)}


def answered(model: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What timm's model says; of a distilled DeiT each head, which timm gives apart in training alone."""
    if not isinstance(model, VisionTransformerDistilled):
        return {"class": model(x)}
    model.set_distilled_training(True)
    both = model.train()(x)  # without dropout the same
    model.eval()
    return dict(zip(("class", "r18"), both, strict=True))


@pytest.mark.parametrize("name", KINDS)
def test_the_answer_stays_and_advised_tokens_look_on(name: str) -> None:
    model = small(name)
    if isinstance(model, Beit):  # its blocks take no other tokens with relative positions: see the next test
        for block in model.blocks:
            block.attn.relative_position_bias_table = None
    model = model.double()
    x = images(model, torch.float64)
    before = answered(model, x)
    advised = add_tokens(model, {"r18": "conv", "inv": "inv", "mixer": None})
    for parameter in (*advised.advised_heads.parameters(), *advised.tokens.values()):
        nn.init.normal_(parameter)
    out = advised.forward_tokens(x)

    assert torch.equal(advised(x), before["class"])
    assert list(out) == ["class", "r18", "inv", "mixer"]
    for token, logits in before.items():
        torch.testing.assert_close(out[token], logits)
    for token, logits in expected(advised, x).items():
        torch.testing.assert_close(out[token], logits)
    assert len(advised.tokens) == 4 - len(before)


@pytest.mark.parametrize("name", KINDS)
def test_all_parameters_learn_with_and_without_checkpointing(name: str) -> None:
    advised = add_tokens(small(name), {"conv": "conv", "inv": "inv"}).train()
    x, gradients = images(advised.model), []
    for checkpointing in (False, True):
        advised.set_grad_checkpointing(checkpointing)
        advised.zero_grad()
        sum(logits.square().sum() for logits in advised.forward_tokens(x).values()).backward()  # type: ignore[union-attr]
        without = [n for n, p in advised.named_parameters() if p.grad is None or not p.grad.any()]
        assert not without
        gradients.append({n: p.grad.clone() for n, p in advised.named_parameters() if p.grad is not None})
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_heads_are_replaced_and_groups_are_known(name: str) -> None:
    advised = add_tokens(small(name), {"conv": "conv", "inv": "inv"})
    advised.reset_classifier(7)
    assert {tuple(z.shape) for z in advised.forward_tokens(images(advised.model)).values()} == {(2, 7)}
    assert advised.num_classes == 7
    groups = param_groups_layer_decay(
        advised, weight_decay=0.1, no_weight_decay_list=advised.no_weight_decay(), layer_decay=0.5
    )
    rate = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    parameters = dict(advised.named_parameters())
    for key, parameter in parameters.items():
        new = key.startswith(("tokens.", "advised_heads.")) or "head" in key or "attn_pool" in key or "fc_norm" in key
        assert (rate[id(parameter)] == 1.0) == new, key
        if key.startswith("tokens."):
            assert decay[id(parameter)] == 0.0


def test_relative_positions_hold_among_the_patches_alone() -> None:
    """BEiT in float64: scores, bias and softmax written out for each head of the first block."""
    model = small("beit_base_patch16_224", depth=1).double()
    nn.init.normal_(model.blocks[0].attn.relative_position_bias_table)
    x = images(model, torch.float64)
    advised = add_tokens(model, {"conv": "conv"})
    block, attention = model.blocks[0], model.blocks[0].attn
    main = torch.cat([model.cls_token.expand(2, -1, -1), model.patch_embed(x)], dim=1)
    main = main if model.pos_embed is None else main + model.pos_embed
    everything = torch.cat([main, advised.tokens["conv"].expand(2, -1, -1)], dim=1)
    y = block.norm1(everything)
    bias = torch.cat([attention.q_bias, torch.zeros_like(attention.q_bias), attention.v_bias])
    q, k, v = (y @ attention.qkv.weight.T + bias).view(2, -1, 3, 3, 16).unbind(2)
    z = torch.empty(2, 1, 48, dtype=torch.float64)
    for image, head in itertools.product(range(2), range(3)):
        scores = torch.stack([q[image, -1, head] @ k[image, j, head] / 4 for j in range(y.shape[1])])
        z[image, 0, 16 * head : 16 * head + 16] = scores.softmax(0) @ v[image, :, head]
    token = everything[:, -1:] + block.gamma_1 * attention.proj(z)
    token = token + block.gamma_2 * block.mlp(block.norm2(token))
    logits = advised.advised_heads["conv"](model.fc_norm(model.norm(token)))[:, 0]
    out = advised.forward_tokens(x)
    torch.testing.assert_close(out["conv"], logits)
    torch.testing.assert_close(out["class"], model(x))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3", "beit_base_patch16_224"])
def test_another_image_size_is_set_through(name: str) -> None:
    advised = add_tokens(small(name), {"conv": "conv"})
    advised.set_input_size(img_size=(96, 80))
    x = torch.randn(2, 3, 96, 80)
    torch.testing.assert_close(advised.forward_tokens(x)["class"], advised.model(x), rtol=1e-4, atol=1e-5)


def test_tokens_start_where_the_class_token_does() -> None:
    model = small("vit_base_patch16_clip_224")
    advised = add_tokens(model, {"conv": "conv"})
    own = model.norm_pre(model.cls_token + model.pos_embed[:, :1])
    torch.testing.assert_close(advised.tokens["conv"].data, own)
    torch.testing.assert_close(advised.advised_heads["conv"].weight, model.head.weight)
    assert not add_tokens(small("vit_base_patch16_siglip_224"), {"conv": "conv"}).tokens["conv"].any()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("resnet18", "ResNet is no ViT"), ("swin_tiny_patch4_window7_224", "SwinTransformer is no ViT"),
        ("convnext_atto", "ConvNeXt is no ViT"), ("mixer_s32_224", "MlpMixer is no ViT"),
        ("vit_small_patch16_18x2_224", "no attention mask"), ("cit_tiny", "tokens of its own"),
    ],
)  # fmt: skip
def test_models_that_take_no_tokens_are_refused(model: str, reason: str) -> None:
    made = timm.create_model(model, num_classes=3)
    assert reason in why_no_tokens(made)
    with pytest.raises(ModelError, match=reason):
        add_tokens(made, {"conv": "conv"})


def test_names_that_tokens_cannot_have_are_refused() -> None:
    with pytest.raises(ModelError, match="class token"):
        add_tokens(small("vit_tiny_patch16_224"), {"class": "conv"})


def test_all_families_are_covered() -> None:
    kinds = {type(small(name)) for name in KINDS}
    assert {Eva, Beit, NaFlexVit} < kinds
