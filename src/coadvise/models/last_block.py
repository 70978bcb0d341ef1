"""The last transformer block, for the tokens that are read from it.

The heads read the class token and the advised tokens; nothing reads what the last block computes for the patches. So
its queries, projection and MLP are computed for the first tokens alone, which attend to all tokens: one block in twelve
costs a third, forward and backward.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Attention, Block
from torch import Tensor, nn

from ..shapes import Bool, Float
from .separate import SeparateBlock


def can_shorten(block: nn.Module) -> bool:
    """Whether a block is timm's plain one, or that with its tokens apart, without hooks."""
    attention = getattr(block, "attn", None)
    return (
        type(block) in (Block, SeparateBlock)
        and type(attention) is Attention
        and type(attention.qkv) is nn.Linear  # nothing in its place, such as an adapter or quantised weights
        and getattr(attention, "gate", None) is None
        and not any(watched(m) for m in block.modules())
    )


def watched(module: nn.Module) -> bool:
    """Whether a module has hooks, which something else in its place would not call."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def first_tokens(block: Block, x: Float[Tensor, "b l d"], count: int) -> Float[Tensor, "b n d"]:
    """`block(x)[:, :count]`, without computing the rest."""
    assert isinstance(block.attn, Attention)
    y, read = block.norm1(x), None
    if isinstance(block, SeparateBlock) and count > 1:  # the class token reads all
        read = block.reads(x.shape[1], x.device)
        read = None if read is None else read[:count]
    x = x[:, :count] + block.drop_path1(block.ls1(_attend(block.attn, y, count, read)))
    shorter: Tensor = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
    return shorter


def _attend(
    attention: Attention, y: Float[Tensor, "b l d"], count: int, read: Bool[Tensor, "n l"] | None
) -> Float[Tensor, "b n d"]:
    b, length, _ = y.shape
    heads, width = attention.num_heads, attention.head_dim
    inner = heads * width
    weight, bias = attention.qkv.weight, attention.qkv.bias
    q = F.linear(y[:, :count], weight[:inner], None if bias is None else bias[:inner])
    kv = F.linear(y, weight[inner:], None if bias is None else bias[inner:])
    q = q.view(b, count, heads, width).transpose(1, 2)
    k, v = kv.view(b, length, 2, heads, width).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(q), attention.k_norm(k)
    if attention.fused_attn:
        dropout = attention.attn_drop.p if attention.training else 0.0
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=read, dropout_p=dropout)
    else:
        scores = q * attention.scale @ k.transpose(-2, -1)
        if read is not None:
            scores = scores.masked_fill(~read, -torch.inf)
        z = attention.attn_drop(scores.softmax(dim=-1)) @ v
    z = z.transpose(1, 2).reshape(b, count, inner)
    norm = getattr(attention, "norm", None)  # of newer timm versions
    answer: Tensor = attention.proj_drop(attention.proj(z if norm is None else norm(z)))
    return answer
