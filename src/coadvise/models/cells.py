"""Stems that mix the pixels of each patch by attention or by an MLP: counterparts of teachers of these kinds.

Not the paper's. As its stems they are three layers at half resolution with 64 channels: patches of 2×2 pixels, then
two blocks. The half-size pixels of one patch are a cell, p/2 × p/2 of them, and a cell is the window in which a block
brings them together:

- `attn`: window attention without shifts (Liu et al.: Swin Transformer, ICCV 2021), with a learned position for each
  pixel of a window in place of biases of relative positions; timm's block with 4 heads and an MLP of twice the width.
- `mlp`: MLP-Mixer's block (Tolstikhin et al., NeurIPS 2021) on each cell: one MLP over its pixels, half as wide as the
  channels, then one over the channels, four times as wide; timm's.

So nothing of a patch reaches another one before the transformer, which a convolution's overlapping windows allow.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.layers import trunc_normal_
from timm.models.mlp_mixer import MixerBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ..errors import ModelError
from ..shapes import Float

_LayerNorm: Any = partial(nn.LayerNorm, eps=1e-6)


class CellStem(nn.Module):
    """Blocks on the half-size pixels of each patch: (b, c, h, w) → (b, width, h/2, w/2).

    Args:
        cell: height and width of a patch in half-size pixels.
        block: makes a block (b, pixels, width) → (b, pixels, width).
        positions: whether pixels of a cell get a learned position, which blocks need that see them as a set.
    """

    def __init__(
        self, in_chans: int, width: int, cell: tuple[int, int], block: Callable[[], nn.Module], positions: bool
    ) -> None:
        super().__init__()
        self.cell = cell
        self.embed = nn.Conv2d(in_chans, width, 2, stride=2)
        self.position = nn.Parameter(torch.zeros(1, cell[0] * cell[1], width)) if positions else None
        self.blocks = nn.Sequential(block(), block())
        self.norm = _LayerNorm(width)

    def init_weights(self) -> None:
        """Positions, and no bias for the patches; the model draws the other layers."""
        if self.embed.bias is not None:
            nn.init.zeros_(self.embed.bias)
        if self.position is not None:
            trunc_normal_(self.position, std=0.02)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d oh ow"]:
        x = self.embed(x)
        (height, width), (b, d, h, w) = self.cell, x.shape
        x = x.permute(0, 2, 3, 1).reshape(b, h // height, height, w // width, width, d).transpose(2, 3)
        y = x.reshape(-1, height * width, d)  # cells, their pixels, channels
        y = self.norm(self.blocks(y if self.position is None else y + self.position))
        return y.reshape(x.shape).permute(0, 5, 1, 3, 2, 4).reshape(b, d, h, w)


def attention_stem(in_chans: int, width: int, patch: tuple[int, int]) -> CellStem:
    """Stem `attn` for patches of that many pixels."""
    block = partial(Block, width, num_heads=4, mlp_ratio=2.0, qkv_bias=True, norm_layer=_LayerNorm)
    return CellStem(in_chans, width, _cell("attn", patch), block, positions=True)


def mlp_stem(in_chans: int, width: int, patch: tuple[int, int]) -> CellStem:
    """Stem `mlp` for patches of that many pixels."""
    cell = _cell("mlp", patch)
    return CellStem(in_chans, width, cell, partial(MixerBlock, width, cell[0] * cell[1]), positions=False)


def _cell(kind: str, patch: tuple[int, int]) -> tuple[int, int]:
    if min(patch) < 4:
        raise ModelError(
            f"patch_size is {patch[0]}×{patch[1]}, but stem {kind!r} brings together the half-size pixels of a "
            "patch, which are one or two: choose a patch size of at least 4"
        )
    return patch[0] // 2, patch[1] // 2
