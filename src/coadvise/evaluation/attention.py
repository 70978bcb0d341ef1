"""Attention of each token to the patches in the last block."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..checkpoints.trained import TrainedModel
from ..data.sources.opening import open_sources
from ..data.views.finish import Finish
from ..models.advised import AdvisedViT
from ..models.cit import CiT
from .disagreement import _png
from .inference import eval_images


def attention_on(trained: TrainedModel, indices: Sequence[int]) -> dict[str, Any]:
    """Attention maps of a token student for some images: `images`, each with `png`, `name` and `maps` by token."""
    assert isinstance(trained.model, (CiT, AdvisedViT))
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
def attention_maps(model: CiT | AdvisedViT, images: Float[Tensor, "n 3 h w"]) -> dict[str, Float[Tensor, "n gh gw"]]:
    """Attention of each token to the patches in the last block, mean over the heads; sums to at most 1.

    What is left of 1 goes to the other tokens. The class token is left out where patches are pooled, and all of a
    family whose attention is never held (BEiT) or whose patches have no fixed grid (NaFlex).
    """
    watched: Any = copy.deepcopy(model)  # its attention is not fused any more, and the hook stays
    advised = isinstance(watched, AdvisedViT)
    last = (watched.model if advised else watched).blocks[-1]
    layer = getattr(last, "attn", last)
    layer.fused_attn = False  # the fused form never holds the weights
    seen: list[Tensor] = []
    layer.attn_drop.register_forward_hook(lambda _, __, weights: seen.append(weights))
    watched.forward_tokens(images) if advised else watched(images)
    grid = getattr(model.patch_embed, "grid_size", None)
    if not seen or grid is None:
        return {}
    weights = seen[0].mean(dim=1)  # n l l
    places = watched.places(weights.shape[1]) if advised else {name: i for i, name in enumerate(model.token_names)}
    prefix = watched.model.num_prefix_tokens if advised else model.num_prefix_tokens
    patches = slice(prefix, prefix + grid[0] * grid[1])
    return {token: weights[:, i, patches].unflatten(1, grid).cpu() for token, i in places.items()}
