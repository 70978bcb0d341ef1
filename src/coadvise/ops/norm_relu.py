"""BatchNorm in training and the ReLU after it in one operation on the CPU, by compiled code: `norm_relu.cpp`.

PyTorch makes four passes over a channels-last map forward and six or more backward, and keeps two maps; this makes two
and two, and keeps one. Statistics are those of `torch.nn.functional.batch_norm`, summed in another order.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..shapes import Float
from ..system.native import compiled

SOURCE = Path(__file__).with_name("norm_relu.cpp")
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def can_fuse(x: Tensor, *others: Tensor | None) -> bool:
    """Whether `norm_relu` takes this map, with weight, bias and running statistics.

    It does for channels-last maps in float32 or bfloat16 on the CPU whose channels are a multiple of 32, where there is
    a C++ compiler.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # the compiler joins the two itself
        return False
    plain = (type(x) is Tensor, x.device.type == "cpu", x.dtype in NAMES, x.ndim == 4)
    return (
        all(plain)
        and x.shape[1] % 32 == 0
        and x.numel() > x.shape[1]  # of one value there is no variance
        and x.is_contiguous(memory_format=torch.channels_last)
        and all(one is not None and one.dtype == torch.float32 and one.device.type == "cpu" for one in others)
        and library() is not None
    )


def library() -> ctypes.CDLL | None:
    """The compiled functions, or None where they cannot be built; the reason is said once."""
    return compiled(SOURCE, "stems run without compiled code here, a little slower")


def norm_relu(
    x: Float[Tensor, "b c h w"],
    weight: Float[Tensor, " c"],
    bias: Float[Tensor, " c"],
    running_mean: Float[Tensor, " c"],
    running_var: Float[Tensor, " c"],
    momentum: float,
    eps: float,
) -> Float[Tensor, "b c h w"]:
    """`relu(batch_norm(x, …, training=True))`; the running statistics move as there.

    Args:
        x: a map that `can_fuse` allows.
        momentum: share of this batch in the running statistics.

    Returns:
        The map, channels-last, in the type of `x`.
    """
    y, mean, var = _NormReLU.apply(x, weight, bias, eps)
    with torch.no_grad():
        count = x.numel() // x.shape[1]
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * (count / max(count - 1, 1)), momentum)
    return y


class _NormReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        count = x.numel() // x.shape[1]
        shift = x[0, :, 0, 0].float()
        first, second = _sums("statistics", x, x, shift)
        about = first / count
        var = (second / count - about**2).clamp_min(0)
        mean = about + shift.double()
        inverse = (var + eps).rsqrt()
        scale = inverse * weight.double()
        offset = bias.double() - mean * scale
        y = torch.empty_like(x)
        _call("forward", x, x, scale.float(), offset.float(), y)
        ctx.save_for_backward(x, weight, bias, scale.float(), offset.float(), mean, inverse)
        ctx.eps = eps
        mean_out, var_out = mean.float(), var.float()
        ctx.mark_non_differentiable(mean_out, var_out)
        return y, mean_out, var_out

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, bias, scale, offset, mean, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():  # gradients of gradients: by PyTorch's own operations
            y = F.relu(F.batch_norm(x, None, None, weight, bias, training=True, eps=ctx.eps))
            inputs = [one for one in (x, weight, bias) if one.requires_grad]
            found = iter(torch.autograd.grad(y, inputs, grad, create_graph=True))
            return *(next(found) if one.requires_grad else None for one in (x, weight, bias)), None  # type: ignore[return-value]
        grad = grad.contiguous(memory_format=torch.channels_last)
        count = x.numel() // x.shape[1]
        first, second = _sums("reduced", x, x, grad, scale, offset, mean.float())
        # grad_x = scale·(passed − Σ passed / n − x̂·Σ passed·x̂ / n), and x̂ = (x − mean)·inverse.
        slope = -scale.double() * inverse**2 * second / count
        rest = -scale.double() * first / count
        grad_x = torch.empty_like(x)
        _call("backward", x, x, grad, scale, offset, mean.float(), slope.float(), rest.float(), grad_x)
        return grad_x, (second * inverse).float(), first.float(), None


def _sums(what: str, x: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
    first, second = torch.empty(2, x.shape[1], dtype=torch.float64).unbind()
    _call(what, x, *tensors, first, second)
    return first, second


def _call(what: str, x: Tensor, *tensors: Tensor) -> None:
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    sizes = ctypes.c_int64(x.numel() // x.shape[1]), ctypes.c_int64(x.shape[1]), ctypes.c_int(torch.get_num_threads())
    getattr(library(), f"{what}_{NAMES[x.dtype]}")(*pointers, *sizes)
