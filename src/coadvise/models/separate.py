"""Which tokens read which in attention: advised tokens that keep apart.

In a CiT all tokens read each other, as in the paper, so that what one teacher says may end up in every token. Ours,
not the paper's:

- `direct`: an advised token reads no other advised token. The class token and the patches read it and are read by it,
  so that something of it may still reach the others through these.
- `full`: nothing of one advised token reaches another. Advised tokens read themselves and the patches, patches read
  patches, and the class token reads all: it gathers what the others know, and hands nothing back.

The cost is attention with a mask: PyTorch has no flash kernel for one on CUDA and takes its memory-efficient kernel; on
the CPU it is the same kernel with a mask. What a student of one class and two advised tokens computes is the same.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from timm.models.vision_transformer import Block
from torch import Tensor

from ..errors import ModelError
from ..shapes import Bool

Separate = Literal["none", "direct", "full"]


def check_separate(separate: object) -> None:
    """Raise ModelError for what is no `Separate`."""
    if separate not in get_args(Separate):
        raise ModelError(f"separate is {separate!r}; choose one of {', '.join(get_args(Separate))}")


def reads(
    separate: Separate, advised: int, length: int, device: torch.device | None = None
) -> Bool[Tensor, "l l"] | None:
    """Whether token i reads token j, for a sequence of class token, advised tokens and patches; None where all do.

    Args:
        advised: number of advised tokens.
        length: of the whole sequence.
    """
    if separate == "none" or not advised:
        return None
    place = torch.arange(length, device=device)
    itself = place[:, None] == place
    if separate == "direct":
        token = (place > 0) & (place <= advised)
        return ~(token[:, None] & token) | itself
    return (place > advised) | (place == 0)[:, None] | itself


class SeparateBlock(Block):
    """timm's transformer block in a sequence whose advised tokens keep apart.

    Attributes:
        separate: which of them; `direct` or `full`.
        advised: number of advised tokens, which follow the class token.
    """

    separate: Separate = "none"
    advised: int = 0

    def reads(self, length: int, device: torch.device) -> Bool[Tensor, "l l"] | None:
        """`reads` of this block."""
        return reads(self.separate, self.advised, length, device)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Tokens (b, l, d) → (b, l, d)."""
        if attn_mask is not None or is_causal:
            raise ModelError("separate: the tokens of this student have a mask of their own; give no other")
        out: Tensor = super().forward(x, attn_mask=self.reads(x.shape[1], x.device))
        return out
