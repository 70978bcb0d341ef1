"""Convolutions of frozen networks with what follows them, ReLU and the sum with a shortcut, in one pass on the CPU.

PyTorch's own operations write the map, read it again for the sum, and again for ReLU; oneDNN's convolution can do both
before it writes. The numbers are the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..shapes import Float


def activated(conv: nn.Conv2d, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o oh ow"]:
    """ReLU of a convolution, without gradient."""
    if not _by_onednn(conv, x):
        return F.relu(conv(x), inplace=True)
    out: Tensor = torch.ops.mkldnn._convolution_pointwise(x, *_arguments(conv), "relu", [], "")
    return out


def added_and_activated(
    conv: nn.Conv2d, x: Float[Tensor, "b c h w"], shortcut: Float[Tensor, "b o oh ow"]
) -> Float[Tensor, "b o oh ow"]:
    """ReLU of the sum of a convolution and a shortcut, which may be overwritten; without gradient."""
    if not (_by_onednn(conv, x) and shortcut.dtype == x.dtype):
        return F.relu(conv(x) + shortcut, inplace=True)
    out: Tensor = torch.ops.mkldnn._convolution_pointwise_.binary(
        shortcut, x, *_arguments(conv), "add", 1.0, "relu", [], ""
    )
    return out


def _arguments(conv: nn.Conv2d) -> tuple[object, ...]:
    return conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups


def _by_onednn(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether PyTorch, too, would take oneDNN for this in float32; what is compiled is fused by the compiler."""
    return bool(
        not torch.compiler.is_compiling()  # first: the compiler would stop at what follows
        and x.device.type == "cpu"
        and x.dtype == conv.weight.dtype == torch.float32
        and not isinstance(conv.padding, str)
        and conv.padding_mode == "zeros"
        and x.numel() > 0
        and (len(x) >= 16 or torch.get_num_threads() > 1 or conv.kernel_size != (1, 1))
        and not (torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad))
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
    )
