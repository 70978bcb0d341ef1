"""Involution (Li et al., CVPR 2021): a K×K filter of its own for every pixel, shared by a group of channels.

    out[b, c, y, x] = Σ_ij kernel[b, g(c), i, j, y, x] · input[b, c, s·y + i − p, s·x + j − p],  p = (K − 1)/2

with zeros outside the image. The group of a channel is `c // 16`: neighbouring channels share a kernel.

One function, `involution`, gives the same numbers everywhere: by compiled code on the CPU (involution_cpu.py), by
Triton on the GPU (involution_triton.py), and by PyTorch's own operations elsewhere (involution_eager.py). It is a
PyTorch operator, `coadvise::involution`, so that autocast and `torch.compile` know it; `torch.export`, and with it
ONNX, gets PyTorch's own operations in its place.

Departure from the official code: sizes that the stride does not divide work, with ceil(H / s) outputs.
"""

import functools
import math
import warnings
from numbers import Integral
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import ModelError, require
from ..shapes import Float
from . import involution_cpu, involution_eager
from .involution_eager import GROUP_CHANNELS


def involution(
    x: Float[Tensor, "b c h w"],
    kernel: Float[Tensor, "b gkk oh ow"],
    kernel_size: int,
    stride: int = 1,
) -> Float[Tensor, "b c oh ow"]:
    """Apply the kernel of each output pixel to the neighbourhood of that pixel.

    Args:
        x: input map; the number of channels is a multiple of 16.
        kernel: one K×K kernel per group and output pixel. Its channel is `g·K² + i·K + j`: group first, then
            row and column of the kernel; there are c/16 groups.
        kernel_size: K, odd.
        stride: step between output pixels; oh = ceil(h / stride), ow = ceil(w / stride).

    Returns:
        The filtered map, channels-last, in the wider of the two input types. Sums are carried in float32 at least.

    Raises:
        ModelError: if a size does not fit.
    """
    _check(x, kernel, kernel_size, stride)
    dtype = torch.promote_types(x.dtype, kernel.dtype)
    x, kernel = x.to(dtype), kernel.to(dtype)
    if exporting():  # a program that leaves PyTorch can take only operators that all know with it
        return involution_eager.program_forward(x, kernel, kernel_size, stride)
    out: Tensor = torch.ops.coadvise.involution(x, kernel, kernel_size, stride)
    return out


def exporting() -> bool:
    """Whether `torch.export` is tracing a program that leaves PyTorch, as ONNX's do."""
    # The flag itself: in PyTorch 2.11 `is_exporting()` is True under `torch.compile`, too, which would then take
    # PyTorch's own operations instead of the kernels.
    return bool(torch.compiler._is_exporting_flag)


@torch.library.custom_op("coadvise::involution", mutates_args=())
def _operator(x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> Tensor:
    x, kernel = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, kernel))
    # The result must not depend on autocast: the precision is that of the tensors that come in.
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = _run("forward", x, x, kernel, kernel_size, stride)
    return out


@torch.library.custom_op("coadvise::involution_backward", mutates_args=())
def _backward_operator(grad: Tensor, x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> tuple[Tensor, Tensor]:
    grad, x, kernel = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (grad, x, kernel))
    with torch.autocast(x.device.type, enabled=False):
        gradients: tuple[Tensor, Tensor] = _run("backward", x, grad, x, kernel, kernel_size, stride)
    return gradients


@_operator.register_fake
def _(x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> Tensor:
    shape = (*x.shape[:2], *kernel.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@_backward_operator.register_fake
def _(grad: Tensor, x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> tuple[Tensor, Tensor]:
    last = torch.channels_last
    return torch.empty_like(x, memory_format=last), torch.empty_like(kernel, memory_format=last)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, int, int], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.sizes = inputs[2:]


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
    return *torch.ops.coadvise.involution_backward(grad, *ctx.saved_tensors, *ctx.sizes), None, None


_operator.register_autograd(_gradient, setup_context=_keep)


def _run(which: Literal["forward", "backward"], x: Tensor, *arguments: Any) -> Any:
    """By the fastest implementation for `x`; by PyTorch's own operations where a kernel cannot be built."""
    implementation = _implementation(x)
    try:
        return getattr(implementation, which)(*arguments)
    except getattr(implementation, "KernelUnavailable", ()) as error:
        _say_once(f"{which} could not be built ({error})")
        return getattr(involution_eager, which)(*arguments)


def _implementation(x: Tensor) -> ModuleType:
    """The fastest one that is here, for the device and type of `x`: they have the same two functions."""
    if x.device.type == "cpu" and x.dtype in involution_cpu.NAMES and involution_cpu.library() is not None:
        return involution_cpu
    # Triton's sums are in float32, too little for float64.
    if x.device.type == "cuda" and x.dtype != torch.float64 and (kernels := _triton()) is not None:
        return kernels
    return involution_eager


@functools.cache
def _triton() -> ModuleType | None:
    """The GPU kernels, or None without Triton; that is said once."""
    try:
        from . import involution_triton
    except ImportError as error:
        _say_once(f"{error}; `pip install triton`")
        return None
    return involution_triton


@functools.cache
def _say_once(why: str) -> None:
    message = f"involution runs without its GPU kernels, several times slower: {why}"
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def _check(x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> None:
    for name, tensor in (("x", x), ("kernel", kernel)):
        require(tensor, Tensor, f"involution's {name}", "give a tensor", ModelError)
        if tensor.ndim != 4:
            raise ModelError(f"involution's {name} has shape {tuple(tensor.shape)}, expected four dimensions, b c h w")
    for name, number in (("kernel_size", kernel_size), ("stride", stride)):
        require(number, Integral, f"involution's {name}", "give a whole number", ModelError)
    if kernel_size < 1 or kernel_size % 2 == 0 or stride < 1:
        raise ModelError(f"involution needs an odd kernel size and a stride ≥ 1, got {kernel_size} and {stride}")
    b, c, h, w = x.shape
    if c == 0 or c % GROUP_CHANNELS:
        raise ModelError(
            f"involution shares a kernel among {GROUP_CHANNELS} channels, got {c} channels: "
            f"use a width that is a multiple of {GROUP_CHANNELS}"
        )
    groups = c // GROUP_CHANNELS
    expected = (b, groups * kernel_size**2, math.ceil(h / stride), math.ceil(w / stride))
    if tuple(kernel.shape) != expected:
        raise ModelError(
            f"involution kernel has shape {tuple(kernel.shape)}, expected {expected} for an input of "
            f"{tuple(x.shape)} with K={kernel_size} and stride {stride}"
        )
