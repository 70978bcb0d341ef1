"""Involution, BatchNorm and ReLU of a frozen network as one operator, which makes the involution's kernels itself.

`coadvise::generated_involution` takes what the kernels are made of, and the matrices by which they are made, so that
they need not be in memory on a GPU (generated_triton.py). Elsewhere it is the chain of the single operations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..shapes import Float
from .involution import involution


def generated_involution(
    x: Float[Tensor, "b c h w"],
    hidden: Float[Tensor, "b r oh ow"],
    weight: Float[Tensor, "kk g r"],
    bias: Float[Tensor, "kk g"],
    scale: Float[Tensor, " c"],
    shift: Float[Tensor, " c"],
    kernel_size: int,
    stride: int,
) -> Float[Tensor, "b c oh ow"]:
    """ReLU(scale · involution(x, kernel) + shift), with kernel[g, t] = weight[t, g] · hidden + bias[t, g].

    Args:
        x: input map.
        hidden: what the kernels are made of, of the input's type.
        weight: of the 1×1 convolution that makes them, by tap and group.
        bias: its bias, in float32, as are scale and shift.
    """
    out: Tensor = torch.ops.coadvise.generated_involution(x, hidden, weight, bias, scale, shift, kernel_size, stride)
    return out


@torch.library.custom_op("coadvise::generated_involution", mutates_args=())
def _operator(
    x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, kernel_size: int, stride: int
) -> Tensor:
    x, hidden = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, hidden))
    if x.device.type != "cuda":
        return chain(x, hidden, weight, bias, scale, shift, kernel_size, stride)
    from . import generated_triton

    return generated_triton.forward(x, hidden, weight, bias, scale, shift, kernel_size, stride)


@_operator.register_fake
def _(
    x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, kernel_size: int, stride: int
) -> Tensor:
    shape = (*x.shape[:2], *hidden.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def chain(
    x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, kernel_size: int, stride: int
) -> Tensor:
    """The single operations."""
    with torch.autocast(x.device.type, enabled=False):
        matrix = weight.permute(1, 0, 2).flatten(0, 1)[..., None, None]
        kernel = F.conv2d(hidden, matrix.to(x.dtype), bias.t().flatten().to(x.dtype))
        out = involution(x, kernel, kernel_size, stride)
        return F.relu(out * scale[:, None, None] + shift[:, None, None]).to(x.dtype)
