"""Attention of each token to the patches in the block after which it is read, which is the last one by default."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..checkpoints.trained import TrainedModel
from ..data.decode import decode
from ..data.sources.base import ImageSource
from ..data.sources.opening import open_sources
from ..data.views.finish import Finish
from ..data.views.square import eval_pixels
from ..errors import DataError
from ..models.advised import AdvisedViT
from ..models.cit import CiT
from ..models.students import classifier_of
from ..recipe.schema import Data
from ..run.answers import Answers
from ..run.looks import Look, Looks, chosen_looks
from ..shapes import Float
from .disagreement import _png
from .inference import eval_images
from .pictures import thumbnail

LOOK_SIDE = 160
"""Pixels of the longer side of an image that is shown with the tokens' attention."""


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


def looks_of(model: nn.Module, answers: Answers, source: ImageSource, data: Data, device: torch.device) -> Looks:
    """Where the tokens of a student look in a few of its validation images (`run.looks.chosen_looks`).

    Args:
        model: the student on the device, in evaluation mode; its answers are `answers`.
        data: how it sees images.
    """
    if not isinstance(model, (CiT, AdvisedViT)):
        return Looks(why=f"{type(classifier_of(model)).__name__} has no tokens whose attention could be shown")
    pixels = eval_pixels(data)
    shown: list[tuple[int, str, np.ndarray]] = []
    for row, kind in chosen_looks(answers):
        index = int(answers.index[row])
        with suppress(DataError):  # which could be read before
            shown.append((row, kind, pixels(decode(source.read(index), source.describe(index)))))
    if not shown:
        return Looks(why="none of the chosen images can be read any more")
    finish = Finish(data, len(answers.classes), device)
    maps = attention_maps(model, finish.images(torch.from_numpy(np.stack([crop for *_, crop in shown]))))
    if not maps:
        return Looks(why=f"{type(classifier_of(model)).__name__} never holds the attention of its tokens to patches")
    names, said = answers.classes, answers.answer
    return Looks(
        tuple(
            Look(
                jpeg=base64.b64encode(thumbnail(Image.fromarray(crop), LOOK_SIDE)).decode(),
                kind=kind,
                label=names[answers.label[row]],
                answer=names[said[row]],
                maps={
                    t: tuple(tuple(round(v, 5) for v in line) for line in m[place].tolist()) for t, m in maps.items()
                },
            )
            for place, (row, kind, crop) in enumerate(shown)
        )
    )


@torch.no_grad()
def attention_maps(model: CiT | AdvisedViT, images: Float[Tensor, "n 3 h w"]) -> dict[str, Float[Tensor, "n gh gw"]]:
    """Attention of each token to the patches in the block after which it is read, mean over the heads.

    It sums to at most 1; what is left goes to the other tokens. The class token is left out where patches are pooled,
    and all of a family whose attention is never held (BEiT) or whose patches have no grid (NaFlex).
    """
    advised = isinstance(model, AdvisedViT)
    whole: Any = model.model if advised else model
    depths = {name: model.read_at.get(name, len(whole.blocks)) for name in model.token_names}
    seen: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for depth in set(depths.values()):
            stack.enter_context(_attention_of(whole.blocks[depth - 1], depth, seen))
        model.forward_tokens(images)
    # A model that takes images of any size keeps the grid of the size that it was made for.
    grid_of = getattr(model.patch_embed, "dynamic_feat_size", None)
    if not seen or grid_of is None:
        return {}
    grid = grid_of(tuple(images.shape[-2:]))
    weights = {depth: one.mean(dim=1) for depth, one in seen.items()}  # n l l
    length = next(iter(weights.values())).shape[1]
    places = model.places(length) if advised else {name: i for i, name in enumerate(model.token_names)}  # type: ignore[union-attr, operator]
    patches = slice(whole.num_prefix_tokens, whole.num_prefix_tokens + grid[0] * grid[1])
    return {token: weights[depths[token]][:, i, patches].unflatten(1, grid).cpu() for token, i in places.items()}


@contextmanager
def _attention_of(block: nn.Module, depth: int, seen: dict[int, Tensor]) -> Iterator[None]:
    """Keep the weights of a block's attention (n, h, l, l) under its depth."""
    layer: Any = getattr(block, "attn", block)
    fused = layer.fused_attn
    layer.fused_attn = False  # the fused form never holds the weights
    hook = layer.attn_drop.register_forward_hook(lambda _, __, weights: seen.__setitem__(depth, weights))
    try:
        yield
    finally:
        layer.fused_attn = fused
        hook.remove()
