"""What is measured inside a ViT with added tokens, against the same read off timm's blocks one by one."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from coadvise.checkpoints.trained import TrainedModel
from coadvise.data.loader import EvalLoader
from coadvise.data.sources.opening import open_sources
from coadvise.evaluation.attention import attention_maps
from coadvise.evaluation.similarity import answers
from coadvise.models.advised import AdvisedViT, add_tokens
from coadvise.recipe.reading import load_recipe

SIZES: Any = {"patch_size": 2, "embed_dim": 24, "depth": 2, "num_heads": 2}
KINDS = ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"]


def advised(name: str) -> AdvisedViT:
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=8, num_classes=10, **SIZES).eval()
    student = add_tokens(model, {"conv": "conv", "inv": None})
    for parameter in (*student.tokens.values(), *student.advised_heads.parameters()):
        nn.init.normal_(parameter, std=0.5)
    return student.eval()


def layers(student: AdvisedViT, images: Tensor) -> list[Tensor]:
    """The whole sequence behind each block."""
    seen: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, x: seen.append(x)) for block in student.model.blocks]
    with torch.no_grad():
        student.forward_tokens(images)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("name", KINDS)
def test_features_and_cosines(name: str) -> None:
    student = advised(name)
    recipe = load_recipe("digits", ["data.val_size=40", "data.image_size=8"])
    source = open_sources(recipe.data)[1]
    found = answers(TrainedModel(student, recipe, tuple("0123456789"), Path("nowhere")), source, batch_size=40)
    images = next(iter(EvalLoader(source, recipe.data, 40))).images
    where = {"class": 0, "conv": 1 if "distilled" in name else -2, "inv": -1}
    for depth, x in enumerate(layers(student, images)):
        for pair in ("class|conv", "class|inv", "conv|inv"):
            a, b = (x[:, where[token]] for token in pair.split("|"))
            cosine = torch.nn.functional.cosine_similarity(a, b).mean()
            assert found.cosines[pair][depth] == pytest.approx(float(cosine), abs=1e-4)
    last = student.model.norm(layers(student, images)[-1])
    for token, place in where.items():
        assert torch.allclose(found.features[token], student.model.fc_norm(last[:, place]), atol=1e-5)
        assert torch.allclose(found.logits[token], student.heads[token](found.features[token]), atol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_attention_maps_against_a_loop(name: str) -> None:
    student, images = advised(name), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    maps = attention_maps(student, images)
    assert list(maps) == ["class", "conv", "inv"]
    attention, prefix = student.model.blocks[-1].attn, student.model.num_prefix_tokens
    y = student.model.blocks[-1].norm1(layers(student, images)[-2]).double()
    total = y.shape[1]
    qkv = y @ attention.qkv.weight.double().T + attention.qkv.bias.double()
    added = len(student.tokens)
    places = {"class": 0, "conv": 1 if "distilled" in name else total - 2, "inv": total - 1}
    for token, i in places.items():
        read = total - added if i < total - added else total  # what is added is read by its own kind alone
        mean = torch.zeros(2, 16, dtype=torch.float64)
        for head in range(2):
            part = slice(12 * head, 12 * (head + 1))
            keys = qkv[:, :read, 24:48][..., part]
            scores = (keys @ qkv[:, i, :24][:, part, None]).squeeze(-1) / 12**0.5
            mean += scores.softmax(-1)[:, prefix : prefix + 16] / 2
        torch.testing.assert_close(maps[token].flatten(1).double(), mean, atol=1e-5, rtol=1e-4)
    assert student.model.blocks[-1].attn.fused_attn, "the student itself stays as it was"


def test_tokens_that_are_not_there() -> None:
    """A model that pools its patches does not answer by a class token; BEiT's attention is never held."""
    images = torch.randn(1, 3, 8, 8)
    for name in ("vit_base_patch16_siglip_gap_224", "vit_small_patch16_dinov3"):
        assert list(attention_maps(advised(name), images)) == ["conv", "inv"]
    assert attention_maps(advised("beit_base_patch16_224"), images) == {}
