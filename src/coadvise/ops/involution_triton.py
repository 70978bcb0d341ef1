"""Involution on the GPU: Triton kernels, forward and backward, for channels-last tensors.

A group's 16 channels lie side by side: 32 bytes in half precision, a whole sector of memory. Each program computes a
block of pixels of one group; neighbouring pixels read the same inputs, which the cache serves. Sums are in float32.
Sizes are run-time values, so that one compilation serves every stage of a network of one kernel size and stride.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

CHANNELS = tl.constexpr(16)  # of a group
BLOCK = 64  # pixels of a program
BLOCK_TAPS = 16  # pixels of a program in the kernel's gradient, which holds a row of taps for each


@triton.jit
def _pixel(index, height, width):
    """Image, row and column of a flat pixel index."""
    return index // (height * width), index // width % height, index % width


@triton.jit
def _forward(
    x, kernel, out, pixels, height, width, out_height, out_width, groups,
    K: tl.constexpr, STRIDE: tl.constexpr, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0).to(tl.int64) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    group = tl.program_id(1)
    there = pixel < pixels
    n, oy, ox = _pixel(pixel, out_height, out_width)
    channel = tl.arange(0, CHANNELS)
    taps = kernel + (pixel * groups + group) * (K * K)
    total = tl.zeros((BLOCK_SIZE, CHANNELS), dtype=tl.float32)
    for i in range(K):
        y = oy * STRIDE + i - (K - 1) // 2
        for j in tl.static_range(K):
            z = ox * STRIDE + j - (K - 1) // 2
            inside = there & (y >= 0) & (y < height) & (z >= 0) & (z < width)
            at = (((n * height + y) * width + z) * groups + group) * CHANNELS
            seen = tl.load(x + at[:, None] + channel[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
            weight = tl.load(taps + i * K + j, mask=inside, other=0.0).to(tl.float32)
            total += weight[:, None] * seen
    to = out + ((pixel * groups + group) * CHANNELS)[:, None] + channel[None, :]
    tl.store(to, total.to(out.dtype.element_ty), mask=there[:, None])


@triton.jit
def _backward_input(
    kernel, grad, grad_x, pixels, height, width, out_height, out_width, groups,
    K: tl.constexpr, STRIDE: tl.constexpr, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    # Each input pixel gathers from the outputs whose window holds it, so that no two programs write to one place.
    pixel = tl.program_id(0).to(tl.int64) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    group = tl.program_id(1)
    there = pixel < pixels
    n, y, z = _pixel(pixel, height, width)
    channel = tl.arange(0, CHANNELS)
    total = tl.zeros((BLOCK_SIZE, CHANNELS), dtype=tl.float32)
    for i in range(K):
        up = y + (K - 1) // 2 - i
        for j in tl.static_range(K):
            across = z + (K - 1) // 2 - j
            oy, ox = up // STRIDE, across // STRIDE
            inside = there & (up >= 0) & (across >= 0) & (oy < out_height) & (ox < out_width)
            if STRIDE > 1:
                inside = inside & (up % STRIDE == 0) & (across % STRIDE == 0)
            at = ((n * out_height + oy) * out_width + ox) * groups + group
            outer = tl.load(grad + (at * CHANNELS)[:, None] + channel[None, :], mask=inside[:, None], other=0.0)
            weight = tl.load(kernel + at * (K * K) + i * K + j, mask=inside, other=0.0).to(tl.float32)
            total += weight[:, None] * outer.to(tl.float32)
    to = grad_x + ((pixel * groups + group) * CHANNELS)[:, None] + channel[None, :]
    tl.store(to, total.to(grad_x.dtype.element_ty), mask=there[:, None])


@triton.jit
def _backward_kernel(
    x, grad, grad_kernel, pixels, height, width, out_height, out_width, groups,
    K: tl.constexpr, STRIDE: tl.constexpr, BLOCK_SIZE: tl.constexpr, ROW: tl.constexpr,
):  # fmt: skip
    # A row of taps at a time, so that neighbouring taps are written together.
    pixel = tl.program_id(0).to(tl.int64) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    group = tl.program_id(1)
    there = pixel < pixels
    n, oy, ox = _pixel(pixel, out_height, out_width)
    channel, tap = tl.arange(0, CHANNELS), tl.arange(0, ROW)
    at = (pixel * groups + group) * CHANNELS
    outer = tl.load(grad + at[:, None] + channel[None, :], mask=there[:, None], other=0.0).to(tl.float32)
    z = ox[:, None] * STRIDE + tap[None, :] - (K - 1) // 2
    taps = grad_kernel + ((pixel * groups + group) * (K * K))[:, None] + tap[None, :]
    written = there[:, None] & (tap[None, :] < K)
    for i in range(K):
        y = (oy * STRIDE + i - (K - 1) // 2)[:, None]
        inside = written & (y >= 0) & (y < height) & (z >= 0) & (z < width)
        start = (((n[:, None] * height + y) * width + z) * groups + group) * CHANNELS
        seen = tl.load(x + start[:, :, None] + channel[None, None, :], mask=inside[:, :, None], other=0.0)
        product = tl.sum(outer[:, None, :] * seen.to(tl.float32), axis=2)
        tl.store(taps + i * K, product.to(grad_kernel.dtype.element_ty), mask=written)


def forward(x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Involution of channels-last tensors of one type (shapes as in `involution`)."""
    b, c, h, w = x.shape
    oh, ow = kernel.shape[-2:]
    out = torch.empty((b, c, oh, ow), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    pixels, groups = b * oh * ow, c // 16
    if out.numel():
        _forward[(triton.cdiv(pixels, BLOCK), groups)](
            x, kernel, out, pixels, h, w, oh, ow, groups, K=kernel_size, STRIDE=stride, BLOCK_SIZE=BLOCK
        )
    return out


def backward(grad: Tensor, x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> tuple[Tensor, Tensor]:
    """Gradients with respect to input and kernel; all tensors are channels-last and of one type."""
    b, c, h, w = x.shape
    oh, ow = kernel.shape[-2:]
    groups = c // 16
    grad_x = torch.empty_like(x, memory_format=torch.channels_last)
    grad_kernel = torch.empty_like(kernel, memory_format=torch.channels_last)
    if x.numel():
        sizes = (h, w, oh, ow, groups)
        _backward_input[(triton.cdiv(b * h * w, BLOCK), groups)](
            kernel, grad, grad_x, b * h * w, *sizes, K=kernel_size, STRIDE=stride, BLOCK_SIZE=BLOCK
        )
        _backward_kernel[(triton.cdiv(b * oh * ow, BLOCK_TAPS), groups)](
            x, grad, grad_kernel, b * oh * ow, *sizes, K=kernel_size, STRIDE=stride, BLOCK_SIZE=BLOCK_TAPS,
            ROW=triton.next_power_of_2(kernel_size),
        )  # fmt: skip
    return grad_x, grad_kernel
