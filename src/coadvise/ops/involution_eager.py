"""Involution by PyTorch's own operations, for devices and types without a compiled kernel.

Two ways to compute it, chosen by the size of the map; both need little memory beside their tensors. (Measured forward
and backward on one CPU thread: `unfold`, which stores all K² shifted copies of the input, takes 2 to 25 times as long
as the one that is chosen.)

- Small maps, up to 14×14 pixels for K = 7: the window covers much of such a map, so the kernels are spread
  into one (input pixels × output pixels) matrix per group and multiplied.
- Larger maps: a loop over the K² shifts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

GROUP_CHANNELS = 16


def forward(x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Involution, channels-last (shapes as in `involution`); both tensors have one type."""
    by = matrix_forward if _is_small(x, kernel_size, stride) else shifts_forward
    return by(x.contiguous(), kernel.contiguous(), kernel_size, stride).contiguous(memory_format=torch.channels_last)


def backward(grad: Tensor, x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> tuple[Tensor, Tensor]:
    """Gradients with respect to input and kernel, channels-last."""
    by = matrix_backward if _is_small(x, kernel_size, stride) else shifts_backward
    grad_x, grad_kernel = by(grad.contiguous(), x.contiguous(), kernel.contiguous(), kernel_size, stride)
    last = torch.channels_last
    return grad_x.contiguous(memory_format=last), grad_kernel.contiguous(memory_format=last)


def _is_small(x: Tensor, kernel_size: int, stride: int) -> bool:
    # The matrix has h·w entries per output where the loop has K² taps, but a product is several times cheaper
    # per entry; with a stride the loop has fewer outputs to spread its overhead over.
    return x.shape[2] * x.shape[3] <= max(64, 4 * kernel_size**2 * stride)


def matrix_forward(x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> Tensor:
    """One product per group with the kernels spread into a matrix."""
    matrix = _matrix(x, kernel, kernel_size, stride)
    inputs = x.reshape(matrix.shape[0], GROUP_CHANNELS, matrix.shape[1])
    return torch.bmm(inputs, matrix).view(*x.shape[:2], *kernel.shape[-2:])


def matrix_backward(grad: Tensor, x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> tuple[Tensor, Tensor]:
    """Gradients of `matrix_forward`."""
    matrix = _matrix(x, kernel, kernel_size, stride)  # again: kept, it would be the largest tensor
    inputs = x.reshape(matrix.shape[0], GROUP_CHANNELS, matrix.shape[1])
    grad = grad.reshape(matrix.shape[0], GROUP_CHANNELS, matrix.shape[2])
    grad_x = torch.bmm(grad, matrix.transpose(1, 2)).view(x.shape)
    grad_matrix = torch.bmm(inputs.transpose(1, 2), grad)
    # A tap meets one input per output, so its gradient is read from the matrix; nothing has to be summed.
    (h, w), (oh, ow) = x.shape[-2:], kernel.shape[-2:]
    rows, rows_inside = _inputs(h, oh, kernel_size, stride, x.device)
    cols, cols_inside = _inputs(w, ow, kernel_size, stride, x.device)
    index, inside = _pairs(rows, rows_inside, cols, cols_inside, width=w)
    grad_kernel = grad_matrix.flatten(1).index_select(1, index) * inside
    return grad_x, grad_kernel.view(kernel.shape)


def _matrix(x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> Tensor:
    """What each input pixel contributes to each output pixel: (b·g, h·w, oh·ow)."""
    b, c, h, w = x.shape
    oh, ow = kernel.shape[-2:]
    rows, rows_inside = _taps(h, oh, kernel_size, stride, x.device)
    cols, cols_inside = _taps(w, ow, kernel_size, stride, x.device)
    index, inside = _pairs(rows, rows_inside, cols, cols_inside, width=kernel_size)
    spread = kernel.reshape(b * (c // GROUP_CHANNELS), kernel_size**2 * oh * ow).index_select(1, index)
    return spread.mul_(inside).view(spread.shape[0], h * w, oh * ow)


def _taps(size: int, out: int, kernel_size: int, stride: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which row (or column) of the kernel of output o meets input i, as (size, out), and whether one does."""
    inputs = torch.arange(size, device=device)[:, None]
    outputs = torch.arange(out, device=device)[None, :]
    tap = inputs - outputs * stride + (kernel_size - 1) // 2
    return tap.clamp(0, kernel_size - 1), (tap >= 0) & (tap < kernel_size)


def _inputs(size: int, out: int, kernel_size: int, stride: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which input row (or column) the kernel's row t meets for output o, as (K, out), and whether it exists."""
    taps = torch.arange(kernel_size, device=device)[:, None]
    outputs = torch.arange(out, device=device)[None, :]
    row = outputs * stride + taps - (kernel_size - 1) // 2
    return row.clamp(0, size - 1), (row >= 0) & (row < size)


def _pairs(rows: Tensor, rows_ok: Tensor, cols: Tensor, cols_ok: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Combine rows and columns (n, out) to flat positions in a table of (·, width, oh, ow), and validity."""
    oh, ow = rows.shape[1], cols.shape[1]
    outputs = torch.arange(oh * ow, device=rows.device).view(1, 1, oh, ow)
    position = rows[:, None, :, None] * width + cols[None, :, None, :]
    inside = rows_ok[:, None, :, None] & cols_ok[None, :, None, :]
    return (position * (oh * ow) + outputs).flatten(), inside.flatten()


def _shifts(kernel_size: int, stride: int, oh: int, ow: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """For each tap of the kernel: its number and the part of the phases (see `_grouped`) that it sees."""
    for i in range(kernel_size):
        for j in range(kernel_size):
            y, x = i // stride, j // stride
            yield i * kernel_size + j, (i % stride, j % stride, ..., slice(y, y + oh), slice(x, x + ow))


def _grouped(x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> tuple[Tensor, Tensor]:
    """Padded input as (s, s, b, g, 16, h', w') and kernels as (b, g, K², oh, ow).

    The first two axes are the pixel's row and column modulo the stride, so that a tap sees neighbouring pixels
    in memory (64 channels of 32×32 px with stride 2: 160 ms instead of 260). With stride 1 this is the padded
    input itself.
    """
    b, c, h, w = x.shape
    oh, ow = kernel.shape[-2:]
    pad = (kernel_size - 1) // 2
    padded = F.pad(x, (pad, pad + -(w + 2 * pad) % stride, pad, pad + -(h + 2 * pad) % stride))
    rows, cols = padded.shape[2] // stride, padded.shape[3] // stride
    groups = c // GROUP_CHANNELS
    split = padded.view(b, groups, GROUP_CHANNELS, rows, stride, cols, stride)
    phases = split.permute(4, 6, 0, 1, 2, 3, 5).contiguous()
    return phases, kernel.reshape(b, groups, kernel_size**2, oh, ow)


def _ungrouped(phases: Tensor, shape: torch.Size, kernel_size: int) -> Tensor:
    """The reverse of `_grouped` for the input: (s, s, b, g, 16, h', w') → (b, c, h, w), padding cut off."""
    (b, c, h, w), stride, pad = shape, phases.shape[0], (kernel_size - 1) // 2
    padded = phases.permute(2, 3, 4, 5, 0, 6, 1).reshape(b, c, phases.shape[5] * stride, phases.shape[6] * stride)
    return padded[..., pad : pad + h, pad : pad + w]


def _sum_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def shifts_forward(x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> Tensor:
    """The loop over the K² shifts."""
    oh, ow = kernel.shape[-2:]
    phases, kernels = _grouped(x, kernel, kernel_size, stride)
    out = phases.new_zeros(*phases.shape[2:5], oh, ow, dtype=_sum_dtype(x.dtype))
    for tap, window in _shifts(kernel_size, stride, oh, ow):
        out.addcmul_(phases[window], kernels[:, :, tap, None])
    return out.view(*x.shape[:2], oh, ow).to(x.dtype)


def shifts_backward(grad: Tensor, x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> tuple[Tensor, Tensor]:
    """Gradients of `shifts_forward`."""
    oh, ow = kernel.shape[-2:]
    phases, kernels = _grouped(x, kernel, kernel_size, stride)
    grad = grad.reshape(*phases.shape[2:5], oh, ow)
    sums = _sum_dtype(x.dtype)
    grad_phases = torch.zeros_like(phases, dtype=sums)
    grad_kernels = torch.empty_like(kernels)
    products = torch.empty_like(grad, dtype=sums)  # one buffer for all taps: new ones cost page faults
    for tap, window in _shifts(kernel_size, stride, oh, ow):
        grad_phases[window].addcmul_(grad, kernels[:, :, tap, None])
        torch.mul(grad, phases[window], out=products)
        grad_kernels[:, :, tap] = products.sum(2)
    grad_x = _ungrouped(grad_phases, x.shape, kernel_size).to(x.dtype)
    return grad_x, grad_kernels.view(kernel.shape)


def program_forward(x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Involution as a program for other engines than PyTorch: few operators, which all engines have."""
    if _is_small(x, kernel_size, stride):
        return matrix_forward(x, kernel, kernel_size, stride)
    return rows_forward(x, kernel, kernel_size, stride)


def rows_forward(x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> Tensor:
    """A loop over the K rows of the kernel; the K shifts within a row are gathered side by side."""
    b, c, h, w = x.shape
    oh, ow = kernel.shape[-2:]
    groups, pad = c // GROUP_CHANNELS, (kernel_size - 1) // 2
    padded = F.pad(x, (pad, pad + -(w + 2 * pad) % stride, pad, pad + -(h + 2 * pad) % stride))
    taps, outputs = torch.arange(kernel_size, device=x.device), torch.arange(ow, device=x.device)
    columns = (taps[:, None] + outputs * stride).flatten()
    kernels = kernel.reshape(b, groups, 1, kernel_size, kernel_size, oh, ow)
    out = None
    for i in range(kernel_size):
        rows = padded[:, :, i : i + (oh - 1) * stride + 1 : stride].index_select(3, columns)
        windows = rows.view(b, groups, GROUP_CHANNELS, oh, kernel_size, ow)
        row = (windows * kernels[:, :, :, i].transpose(3, 4)).sum(4)
        out = row if out is None else out + row
    assert out is not None
    return out.view(b, c, oh, ow)
