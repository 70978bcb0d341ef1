"""timm's plain transformer block through `ops.block`, where that computes the same and faster: training on the CPU."""

from __future__ import annotations

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Attention, Block
from torch import Tensor, nn

from ..ops.block import Weights, code, fits, has_bf16, transformer_block
from ..shapes import Float
from .last_block import first_tokens, watched


def fused(block: nn.Module, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
    """`block(x)`, by one operation where `can_fuse` says so; in bfloat16 under autocast in it."""
    answer: Tensor = _whole(block, x, x.shape[1]) if can_fuse(block, x) else block(x)
    return answer


def first_fused(block: Block, x: Float[Tensor, "b l d"], count: int) -> Float[Tensor, "b n d"]:
    """`first_tokens(block, x, count)`, likewise."""
    return _whole(block, x, count) if can_fuse(block, x) else first_tokens(block, x, count)


def can_fuse(block: nn.Module, x: Tensor) -> bool:
    """Whether the block is timm's plain one, without drop path, dropout and hooks, and `x` float32 on the CPU, with
    autocast in bfloat16 or without."""
    if type(x) is not Tensor or x.device.type != "cpu" or x.dtype != torch.float32 or x.ndim != 3:
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if torch.is_autocast_enabled("cpu") and not (_in_bf16() and has_bf16()):
        return False
    return is_plain(block, x.shape[1]) and code() is not None


def is_plain(block: nn.Module, length: int) -> bool:
    """Whether a block and the number of its tokens are what `ops.block` knows."""
    if type(block) is not Block or type(block.attn) is not Attention or type(block.mlp) is not Mlp:
        return False
    attention, mlp = block.attn, block.mlp
    nothing = [attention.q_norm, attention.k_norm, getattr(attention, "norm", None), getattr(attention, "gate", None)]
    nothing += [block.ls1, block.ls2, block.drop_path1, block.drop_path2, getattr(mlp, "norm", None)]
    drops = [attention.attn_drop, attention.proj_drop, mlp.drop1, mlp.drop2]
    norms, layers = [block.norm1, block.norm2], [attention.qkv, attention.proj, mlp.fc1, mlp.fc2]
    return (
        all(one is None or type(one) is nn.Identity for one in nothing)
        and all(type(one) is nn.Dropout and one.p == 0.0 for one in drops)
        and all(isinstance(one, nn.LayerNorm) for one in norms)
        and all(type(one) is nn.Linear for one in layers)
        and all(_plain_numbers(one.weight) and _plain_numbers(one.bias) for one in (*norms, *layers))
        and type(mlp.act) is nn.GELU
        and mlp.act.approximate == "none"
        and attention.num_heads * attention.head_dim == attention.qkv.in_features
        and fits(length, attention.qkv.in_features, attention.num_heads, mlp.fc1.weight.shape[0])
        and not any(watched(one) for one in block.modules())
    )


def _in_bf16() -> bool:
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


def _plain_numbers(weight: object) -> bool:
    """Whether a weight lies in memory as compiled code reads it: not in another precision, nor as a kind of its own."""
    if not isinstance(weight, Tensor) or type(weight) not in (nn.Parameter, Tensor):
        return False
    return weight.dtype == torch.float32 and weight.is_cpu


def _whole(block: nn.Module, x: Tensor, count: int) -> Tensor:
    assert isinstance(block, Block) and isinstance(block.attn, Attention) and isinstance(block.mlp, Mlp)
    layers = (block.norm1, block.attn.qkv, block.attn.proj, block.norm2, block.mlp.fc1, block.mlp.fc2)
    weights = [one for layer in layers for one in (layer.weight, layer.bias)]
    heads, eps = block.attn.num_heads, (block.norm1.eps, block.norm2.eps)
    return transformer_block(x, Weights(*weights), heads, eps, count, _in_bf16())  # type: ignore[arg-type]
