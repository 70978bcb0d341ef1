"""The heads of all tokens in one matrix product, as compiled code computes them.

Each head is a small product, on a GPU less work than its launch. The weights stay those of the single heads; laying
them side by side is a copy that the compiler joins with the cast to the type of the product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..shapes import Float
from .last_block import watched


def alike(heads: Sequence[nn.Module]) -> bool:
    """Whether all are plain linear layers of one shape, so that `heads_at_once` gives what they give."""
    return len(heads) > 1 and all(
        type(head) is nn.Linear
        and head.bias is not None
        and head.weight.shape == heads[0].weight.shape
        and not watched(head)
        for head in heads
    )


def heads_at_once(heads: Sequence[nn.Module], x: Float[Tensor, "b n d"]) -> tuple[Float[Tensor, "b k"], ...]:
    """Each head's logits of its own token; head and token stand in the same order."""
    linear = cast(Sequence[nn.Linear], heads)
    weight = torch.stack([head.weight for head in linear])  # n k d
    bias = torch.stack([head.bias for head in linear])  # n k
    return torch.baddbmm(bias[:, None], x.transpose(0, 1), weight.mT).unbind()
