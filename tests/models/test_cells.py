"""Stems of attention and of MLPs, by their formulas in float64, cell by cell; and stems that are registered."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from coadvise.errors import ModelError
from coadvise.models import stems
from coadvise.models.cit import CiT
from coadvise.models.stems import Stem, register_stem

TINY = {"img_size": (16, 24), "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3, "num_classes": 5}


def normed(y: Tensor, norm: Any) -> Tensor:
    centred = y - y.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight + norm.bias


def mlp(y: Tensor, layers: Any) -> Tensor:
    y = y @ layers.fc1.weight.T + layers.fc1.bias
    return (0.5 * y * (1 + torch.erf(y / 2**0.5))) @ layers.fc2.weight.T + layers.fc2.bias


def attention(y: Tensor, attn: Any) -> Tensor:
    """Pixels (n, 64) of one window: each head, each pixel."""
    q, k, v = (y @ attn.qkv.weight.T + attn.qkv.bias).split(64, dim=1)
    out = torch.empty_like(y)
    for head in range(4):
        part = slice(16 * head, 16 * head + 16)
        for i in range(len(y)):
            weights = torch.stack([q[i, part] @ key / 16**0.5 for key in k[:, part]]).exp()
            out[i, part] = (weights / weights.sum()) @ v[:, part]
    return out @ attn.proj.weight.T + attn.proj.bias


def by_hand(stem: Any, kind: str, patch: Tensor) -> Tensor:
    """One patch (3, 8, 8) → its pixels at half the size (64, 4, 4)."""
    embed = stem.embed
    pixels = [
        torch.einsum("cij,dcij->d", patch[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2], embed.weight) + embed.bias
        for i in range(4)
        for j in range(4)
    ]
    y = torch.stack(pixels)
    if kind == "attn":
        y = y + stem.position[0]
    for block in stem.blocks:
        if kind == "attn":
            y = y + attention(normed(y, block.norm1), block.attn)
            y = y + mlp(normed(y, block.norm2), block.mlp)
        else:
            y = y + mlp(normed(y, block.norm1).T, block.mlp_tokens).T
            y = y + mlp(normed(y, block.norm2), block.mlp_channels)
    return normed(y, stem.norm).T.reshape(64, 4, 4)


COUNTS = {
    # 2×2 patches, a position for each of 16, twice (two norms, qkv, projection, MLP of 128), norm
    "attn": (3 * 4 + 1) * 64 + 16 * 64 + 2 * (4 * 64 + 65 * 192 + 65 * 64 + 65 * 128 + 129 * 64) + 128,
    # 2×2 patches, twice (two norms, MLP of 32 over 16 pixels, MLP of 256 over 64 channels), norm
    "mlp": (3 * 4 + 1) * 64 + 2 * (4 * 64 + 17 * 32 + 33 * 16 + 65 * 256 + 257 * 64) + 128,
}


@pytest.mark.parametrize("kind", ["attn", "mlp"])
def test_stems_follow_their_formulas(kind: str) -> None:
    torch.manual_seed(0)
    stem: Any = Stem(kind, 3, 24, (8, 8), bias=True).double()
    assert sum(p.numel() for p in stem.stem.parameters()) == COUNTS[kind]
    for parameter in stem.parameters():
        nn.init.normal_(parameter, std=0.2)
    x = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    maps = stem.stem(x)
    assert maps.shape == (2, 64, 8, 12)
    for row, column in ((0, 0), (1, 2)):
        found = maps[1, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        expected = by_hand(stem.stem, kind, x[1, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8])
        torch.testing.assert_close(found, expected)
    assert stem(x).shape == (2, 24, 2, 3)


@pytest.mark.parametrize("stem", ["attn", "mlp+conv", "conv+inv+attn+mlp", "inv+conv"])
def test_any_stems_together_and_their_tokens_aligned(stem: str) -> None:
    kinds = stem.split("+")
    torch.manual_seed(0)
    model = CiT(**TINY, stem=stem, teachers={kind: kind for kind in ("conv", "inv", "attn", "mlp")}).eval()  # type: ignore[arg-type]
    assert set(model.aligned) == set(kinds) and set(model.tokens) == {"conv", "inv", "attn", "mlp"} - set(kinds)
    x = torch.randn(2, 3, 16, 24)
    with torch.no_grad():
        maps = {kind: model.patch_embed.stems[kind](x) for kind in kinds}
        sequence = model._pos_embed(model.patch_embed(x)) - model.pos_embed
        torch.testing.assert_close(sequence[:, 5:], sum(maps.values()).flatten(2).mT, rtol=1e-4, atol=1e-5)  # type: ignore[union-attr]
        for i, kind in enumerate(("conv", "inv", "attn", "mlp"), start=1):
            start = maps[kind].mean((2, 3)) if kind in kinds else model.tokens[kind][:, 0].expand(2, -1)
            torch.testing.assert_close(sequence[:, i], start, rtol=1e-4, atol=1e-5)
    sum(z.square().sum() for z in model.train().forward_tokens(x).values()).backward()  # type: ignore[union-attr]
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    positions = {name for name in model.no_weight_decay() if name.endswith(".position")}
    assert positions == ({"patch_embed.stems.attn.stem.position"} if "attn" in kinds else set())


def test_they_are_drawn_anew_as_a_whole() -> None:
    """From one seed the same, whatever was drawn before: also what no other layer of a ViT has."""
    torch.manual_seed(1)
    one, other = (CiT(**TINY, stem="attn+mlp") for _ in range(2))  # type: ignore[arg-type]
    for model in (one, other):
        model.init_weights(needs_reset=False, seed=3)
    for name, value in one.patch_embed.stems.state_dict().items():  # type: ignore[union-attr]
        if ".stem." in name:  # the bias of a projection stays as PyTorch drew it, as in the paper's stems
            assert torch.equal(value, other.patch_embed.stems.state_dict()[name]), name  # type: ignore[union-attr]
    position = one.patch_embed.stems["attn"].stem.position.detach()  # type: ignore[union-attr]
    assert 0.015 < float(position.std()) < 0.025  # type: ignore[operator, arg-type]


def test_export_with_a_free_batch() -> None:
    model = CiT(**TINY, stem="attn+mlp").eval()  # type: ignore[arg-type]
    x = torch.randn(5, 3, 16, 24)
    with torch.no_grad():
        program = torch.export.export(model, (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
        torch.testing.assert_close(program(x), model(x))


def halved(in_chans: int, patch: tuple[int, int]) -> nn.Module:
    return nn.Conv2d(in_chans, 64, 2, stride=2)


def test_a_stem_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stems, "STEMS", dict(stems.STEMS))
    register_stem("halves", halved)
    register_stem("halves", halved)  # a module that is imported twice
    model: Any = timm.create_model("cit_tiny", **TINY, stem="halves+conv", teachers={"a": "halves"})
    assert set(model.aligned) == {"a"} and model.forward_tokens(torch.randn(2, 3, 16, 24))["a"].shape == (2, 5)
    for name, factory, words in (
        ("conv", halved, "there is a stem 'conv' already"), ("a+b", halved, "cannot name a stem"),
        ("patchify", halved, "cannot name a stem"), ("half", halved, "PyTorch uses it itself"),
        ("x", 3, r"give a function \(in_chans, patch_size\)"),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=words):
            register_stem(name, factory)  # type: ignore[arg-type]
    register_stem("whole", lambda in_chans, patch: nn.Conv2d(in_chans, 64, 1))
    with pytest.raises(ModelError, match=r"stem 'whole' gives maps of \(64, 16, 24\).*wanted are \(64, 8, 12\)"):
        timm.create_model("cit_tiny", **TINY, stem="whole")(torch.randn(1, 3, 16, 24))
