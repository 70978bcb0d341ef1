"""Attention of each token to the patches in the last block."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from timm.utils import AttentionExtract
from torch import Tensor

from ..checkpoints.trained import TrainedModel
from ..data.sources.opening import open_sources
from ..data.views.finish import Finish
from ..models.cit import CiT
from .disagreement import _png
from .inference import eval_images


def attention_on(trained: TrainedModel, indices: Sequence[int]) -> dict[str, Any]:
    """Attention maps of a CiT for some validation images: `images`, each with `png`, `name` and `maps` by token."""
    assert isinstance(trained.model, CiT)
    source = open_sources(trained.data)[1]
    pixels = eval_images(trained, ((source.read(i), source.describe(i)) for i in indices))
    finish = Finish(trained.data, len(trained.classes), trained.device)
    maps = attention_maps(trained.model, finish.images(torch.from_numpy(pixels)))
    images = []
    for place, index in enumerate(indices):
        shown = {token: [[round(v, 5) for v in row] for row in grid[place].tolist()] for token, grid in maps.items()}
        name = source.class_names[int(source.labels[index])]
        images.append({"png": _png(source, index), "name": name, "maps": shown})
    return {"images": images}


@torch.no_grad()
def attention_maps(model: CiT, images: Float[Tensor, "n 3 h w"]) -> dict[str, Float[Tensor, "n gh gw"]]:
    """Attention of each token to the patches in the last block, mean over the heads; sums to at most 1.

    What is left of 1 goes to the other tokens.
    """
    watched: Any = copy.deepcopy(model)  # the hook of AttentionExtract stays
    watched.blocks[-1].attn.fused_attn = False  # the fused form never holds the weights
    last = f"blocks.{len(watched.blocks) - 1}.attn.attn_drop"
    (weights,) = AttentionExtract(watched, names=[last], method="hook")(images).values()
    weights = weights.mean(dim=1)  # n l l
    prefix = model.num_prefix_tokens
    grid = model.patch_embed.grid_size
    return {token: weights[:, i, prefix:].unflatten(1, grid).cpu() for i, token in enumerate(model.token_names)}
