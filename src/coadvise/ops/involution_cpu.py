"""Involution on the CPU by compiled code: `involution.cpp`, built once for each machine and kept in the cache folder.

Building takes a few seconds with the system's C++ compiler. Where there is none, `library` says so once and gives
None; `involution` then takes PyTorch's own operations, which give the same numbers.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from ..system.native import compiled

SOURCE = Path(__file__).with_name("involution.cpp")
NAMES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16"}


class _Sizes(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in ("batch", "height", "width", "out_height", "out_width", "groups", "kernel", "stride")
    )


def library() -> ctypes.CDLL | None:
    """The compiled functions, or None where they cannot be built; the reason is said once."""
    return compiled(SOURCE, "involution runs without compiled code here, several times slower")


def forward(x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Involution of channels-last float32, float64 or bfloat16 tensors (shapes as in `involution`)."""
    b, c, _, _ = x.shape
    out = torch.empty((b, c, *kernel.shape[-2:]), dtype=x.dtype, memory_format=torch.channels_last)
    _call("forward", (x, kernel, out), x, kernel, kernel_size, stride)
    return out


def backward(grad: Tensor, x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> tuple[Tensor, Tensor]:
    """Gradients with respect to input and kernel; all tensors are channels-last and of one type."""
    sums = torch.promote_types(x.dtype, torch.float32)
    grad_x = torch.zeros_like(x, dtype=sums, memory_format=torch.channels_last)
    grad_kernel = torch.empty_like(kernel, memory_format=torch.channels_last)
    _call("backward", (x, kernel, grad, grad_x, grad_kernel), x, kernel, kernel_size, stride)
    return grad_x.to(x.dtype), grad_kernel


def _call(what: str, tensors: tuple[Tensor, ...], x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> None:
    b, c, h, w = x.shape
    oh, ow = kernel.shape[-2:]
    sizes = _Sizes(b, h, w, oh, ow, c // 16, kernel_size, stride)
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    function = getattr(library(), f"{what}_{NAMES[x.dtype]}")
    function(*pointers, ctypes.byref(sizes), ctypes.c_int(torch.get_num_threads()))
