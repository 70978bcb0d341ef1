"""Involution on the GPU: Triton kernels, forward and backward, for channels-last tensors of one type.

The idea. In channels-last a group's 16 channels lie side by side, and so do the K² weights of a pixel. A program takes
a small tile of pixels of one group, and the patch of the other side that its windows reach: the forward pass a tile of
output pixels and a patch of the input, the backward pass a tile of the input and a patch of the output. The weights
between the two are spread into a matrix, pixels of one × pixels of the other, zero outside the windows ("the band"); a
row of K weights is read in one piece. Then everything is a matrix product over 16 channels, on tensor cores, with sums
in float32 (tensors of float32 take three TF32 products in place of one):

    forward     out    = band · x
    backward    grad_x = bandᵀ · grad      and      grad_kernel = what the band covers of  grad · xᵀ

Each pair of a weight and its output pixel meets one input pixel, so the backward pass reads every weight and writes
every weight's gradient in one program only: one launch, nothing added up in memory, the same result each time. Weights
that meet no pixel, outside the image, get a zero from the program that has their output pixel's place in its tile.

What it costs, for each output pixel and group at stride 1 with two bytes a number: 32 bytes of input, 2·K² of weights
and 32 of output must move forward, 162 for K = 7, and 2·K²·16 = 1,568 operations are asked for; backward 292 bytes and
3,136 operations. Rows of the input that several tiles reach come from the cache. The band is mostly zeros: with a tile
of 2 × 8 pixels and K = 7 the tensor cores do 2.6 times the operations that are asked for, which is still little for
them. What limits a kernel of this kind is the number of instructions, so weights are read at addresses that differ by
constants.

Since zeros of the band are multiplied, too, an infinity or a NaN in the input spreads over the tiles that reach it.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .involution_launch import KernelUnavailable, Launcher
from .involution_tiles import Shape

__all__ = ["KernelUnavailable", "backward", "forward"]

CHANNELS = tl.constexpr(16)  # of a group
# Rows and columns that are not there are moved so far away that no window reaches them: one comparison instead of two.
FAR = tl.constexpr(1 << 28)
SIZES = ("height", "width", "out_height", "out_width", "groups")  # one compilation for all


@triton.jit
def _place(height, width, groups, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """Image, group, and the first row and column of this program's tile; neighbours share lines of memory."""
    program = tl.program_id(0)
    group = program % groups
    tile = program // groups
    tiles_y, tiles_x = tl.cdiv(height, TILE_H), tl.cdiv(width, TILE_W)
    row = tile // tiles_x
    return (row // tiles_y).to(tl.int64), group, row % tiles_y * TILE_H, tile % tiles_x * TILE_W


@triton.jit
def _windows(i, j0, j1, j2, j3, b, K: tl.constexpr):
    """Which weights there are: row `i` of the window, and columns `j` of four neighbours less the other side's `b`."""
    row = i.to(tl.uint32) < K  # negative numbers are large ones
    return (
        row & ((j0[None, :] - b[:, None]).to(tl.uint32) < K),
        row & ((j1[None, :] - b[:, None]).to(tl.uint32) < K),
        row & ((j2[None, :] - b[:, None]).to(tl.uint32) < K),
        row & ((j3[None, :] - b[:, None]).to(tl.uint32) < K),
    )


@triton.jit
def _band(weights, m0, m1, m2, m3, P: tl.constexpr, Q: tl.constexpr):
    """The weights between P and Q pixels, of which `weights` points to each fourth."""
    # Four loads at constant distances: a thread has neighbours that it can hand on together.
    w0, w1 = tl.load(weights, mask=m0, other=0.0), tl.load(weights + 1, mask=m1, other=0.0)
    w2, w3 = tl.load(weights + 2, mask=m2, other=0.0), tl.load(weights + 3, mask=m3, other=0.0)
    return tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (P, Q))


@triton.jit
def _forward_step(
    total, weights, inputs, i, a, v, b, rows_left, columns_inside, line, down,
    K: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """What `ROWS` rows of the input, from row `down` of the patch on, add to the tile's sums."""
    m0, m1, m2, m3 = _windows((i + down)[None, :] - a[:, None], v, v + 1, v + 2, v + 3, b, K)
    band = _band(weights + down * K, m0, m1, m2, m3, total.shape[0], ROWS * COLUMNS)
    inside = columns_inside & (rows_left > down)
    seen = tl.load(inputs + down * line, mask=inside[:, None], other=0.0)
    return tl.dot(band, seen, total, input_precision="tf32x3")


@triton.jit(do_not_specialize=SIZES)
def _forward(
    x, kernel, out, height, width, out_height, out_width, groups,
    K: tl.constexpr, STRIDE: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEPS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    PAD: tl.constexpr = (K - 1) // 2
    n, group, oy0, ox0 = _place(out_height, out_width, groups, TILE_H, TILE_W)
    if WIDE:
        groups = groups.to(tl.int64)
    y0, x0 = tl.maximum(oy0 * STRIDE - PAD, 0), tl.maximum(ox0 * STRIDE - PAD, 0)  # the patch's first pixel
    first = ((n * out_height + oy0) * out_width + ox0) * groups + group
    p = tl.arange(0, TILE_H * TILE_W)
    a, b = p // TILE_W, p % TILE_W
    there = (oy0 + a < out_height) & (ox0 + b < out_width)
    pixel = (a * out_width + b) * groups
    channel = tl.arange(0, CHANNELS)

    q, fourth = tl.arange(0, ROWS * COLUMNS), 4 * tl.arange(0, ROWS * COLUMNS // 4)
    inputs = x + (((n * height + y0) * width + x0) * groups + group) * CHANNELS
    inputs += ((q // COLUMNS * width + q % COLUMNS) * groups * CHANNELS)[:, None] + channel[None, :]
    u, v = fourth // COLUMNS, fourth % COLUMNS
    i0, j0 = y0 + PAD - oy0 * STRIDE, x0 + PAD - ox0 * STRIDE
    far_a = tl.where(oy0 + a < out_height, a * STRIDE, FAR)
    far_b = tl.where(ox0 + b < out_width, b * STRIDE, FAR)
    weights = kernel + first * (K * K) + i0 * K + j0
    weights += (pixel * (K * K) - a * (STRIDE * K) - b * STRIDE)[:, None] + (u * K + v)[None, :]

    total = tl.zeros((TILE_H * TILE_W, CHANNELS), dtype=tl.float32)
    rows_left, columns_inside = height - y0 - q // COLUMNS, x0 + q % COLUMNS < width
    line = width * groups * CHANNELS
    if STEPS <= 8:
        for step in tl.static_range(STEPS):  # unrolled: a step's addresses differ by constants
            total = _forward_step(
                total, weights, inputs, i0 + u, far_a, j0 + v, far_b, rows_left, columns_inside, line, step * ROWS,
                K, ROWS, COLUMNS,
            )  # fmt: skip
    else:
        for step in range(STEPS):
            total = _forward_step(
                total, weights, inputs, i0 + u, far_a, j0 + v, far_b, rows_left, columns_inside, line, step * ROWS,
                K, ROWS, COLUMNS,
            )  # fmt: skip
    to = out + first * CHANNELS + (pixel * CHANNELS)[:, None] + channel[None, :]
    tl.store(to, total.to(out.dtype.element_ty), mask=there[:, None])


@triton.jit
def _backward_step(
    total, seen, weights, grad_weights, grads, i, a, j0, j1, j2, j3, b, rows_left, columns_inside, line, down,
    K: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """What `ROWS` rows of the output, from row `down` of the patch on, add to the input's gradient; their weights'."""
    P: tl.constexpr = ROWS * COLUMNS
    Q: tl.constexpr = total.shape[0]
    inside = columns_inside & (rows_left > down)
    far_a = tl.where(rows_left > down, (a + down) * STRIDE, FAR)
    m0, m1, m2, m3 = _windows(i[None, :] - far_a[:, None], j0, j1, j2, j3, b, K)
    on = down * (line * (K * K) - STRIDE * K)
    weights, grad_weights = weights + on, grad_weights + on
    band = _band(weights, m0, m1, m2, m3, P, Q)
    outer = tl.load(grads + down * line * CHANNELS, mask=inside[:, None], other=0.0)
    total = tl.dot(tl.trans(band), outer, total, input_precision="tf32x3")
    product = tl.dot(outer, tl.trans(seen), input_precision="tf32x3").to(grad_weights.dtype.element_ty)
    even, odd = tl.split(tl.reshape(product, (P, Q // 4, 2, 2)))
    d0, d2 = tl.split(even)
    d1, d3 = tl.split(odd)
    # Which weights there are is computed again, from what the compiler takes for other numbers: the answers of 64 loads
    # do not fit into the predicates until the stores, and packing them costs more.
    zero = tl.minimum(line, 0).to(tl.int32)
    m0, m1, m2, m3 = _windows(i[None, :] - (far_a + zero)[:, None], j0, j1, j2, j3, b + zero, K)
    tl.store(grad_weights, d0, mask=m0)
    tl.store(grad_weights + 1, d1, mask=m1)
    tl.store(grad_weights + 2, d2, mask=m2)
    tl.store(grad_weights + 3, d3, mask=m3)
    return total


@triton.jit
def _zero_outside(
    grad_kernel, n, group, y0, x0, height, width, out_height, out_width, groups,
    K: tl.constexpr, STRIDE: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """Zeros for the weights that meet no pixel, of the output pixels whose place is in this tile of the input."""
    PAD: tl.constexpr = (K - 1) // 2
    OWN_H: tl.constexpr = TILE_H // STRIDE if TILE_H % STRIDE == 0 else TILE_H  # at most; a power of two
    OWN_W: tl.constexpr = TILE_W // STRIDE if TILE_W % STRIDE == 0 else TILE_W
    p = tl.arange(0, OWN_H * OWN_W)
    oy, ox = (y0 + STRIDE - 1) // STRIDE + p // OWN_W, (x0 + STRIDE - 1) // STRIDE + p % OWN_W
    mine = (oy * STRIDE < y0 + TILE_H) & (ox * STRIDE < x0 + TILE_W) & (oy < out_height) & (ox < out_width)
    to = grad_kernel + (((n * out_height + oy) * out_width + ox) * groups + group) * (K * K)
    for first in range(0, K * K, TAPS):
        tap = first + tl.arange(0, TAPS)
        y = (oy * STRIDE - PAD)[:, None] + (tap // K)[None, :]
        z = (ox * STRIDE - PAD)[:, None] + (tap % K)[None, :]
        outside = (y < 0) | (y >= height) | (z < 0) | (z >= width)
        zeros = tl.zeros((OWN_H * OWN_W, TAPS), dtype=grad_kernel.dtype.element_ty)
        tl.store(to[:, None] + tap[None, :], zeros, mask=outside & mine[:, None] & (tap < K * K)[None, :])


@triton.jit(do_not_specialize=SIZES)
def _backward(
    x, kernel, grad, grad_x, grad_kernel, height, width, out_height, out_width, groups,
    K: tl.constexpr, STRIDE: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEPS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    PAD: tl.constexpr = (K - 1) // 2
    n, group, y0, x0 = _place(height, width, groups, TILE_H, TILE_W)
    if WIDE:
        groups = groups.to(tl.int64)
    oy0 = tl.maximum(y0 + PAD - K + STRIDE, 0) // STRIDE  # the first output pixel whose window reaches the tile
    ox0 = tl.maximum(x0 + PAD - K + STRIDE, 0) // STRIDE
    first = ((n * out_height + oy0) * out_width + ox0) * groups + group
    p = tl.arange(0, ROWS * COLUMNS)
    a, b = p // COLUMNS, p % COLUMNS
    pixel = (a * out_width + b) * groups
    channel = tl.arange(0, CHANNELS)
    grads = grad + first * CHANNELS + (pixel * CHANNELS)[:, None] + channel[None, :]

    q, fourth = tl.arange(0, TILE_H * TILE_W), 4 * tl.arange(0, TILE_H * TILE_W // 4)
    inside = (y0 + q // TILE_W < height) & (x0 + q % TILE_W < width)
    start = (((n * height + y0) * width + x0) * groups + group) * CHANNELS
    place = ((q // TILE_W * width + q % TILE_W) * groups * CHANNELS)[:, None] + channel[None, :]
    seen = tl.load(x + start + place, mask=inside[:, None], other=0.0)
    u, v = fourth // TILE_W, fourth % TILE_W
    i0, column = y0 + PAD - oy0 * STRIDE, x0 + PAD - ox0 * STRIDE
    i = tl.where(y0 + u < height, i0 + u, -FAR)
    left = width - x0 - v
    j0, j1 = tl.where(left > 0, column + v, -FAR), tl.where(left > 1, column + v + 1, -FAR)
    j2, j3 = tl.where(left > 2, column + v + 2, -FAR), tl.where(left > 3, column + v + 3, -FAR)
    far_b = tl.where(ox0 + b < out_width, b * STRIDE, FAR)
    at = (pixel * (K * K) - a * (STRIDE * K) - b * STRIDE)[:, None] + (u * K + v)[None, :]
    base = first * (K * K) + i0 * K + column
    weights, grad_weights = kernel + base + at, grad_kernel + base + at

    total = tl.zeros((TILE_H * TILE_W, CHANNELS), dtype=tl.float32)
    rows_left, columns_inside = out_height - oy0 - a, ox0 + b < out_width
    line = out_width * groups
    if STEPS <= 8:
        for step in tl.static_range(STEPS):
            total = _backward_step(
                total, seen, weights, grad_weights, grads, i, a, j0, j1, j2, j3, far_b,
                rows_left, columns_inside, line, step * ROWS, K, STRIDE, ROWS, COLUMNS,
            )  # fmt: skip
    else:
        for step in range(STEPS):
            total = _backward_step(
                total, seen, weights, grad_weights, grads, i, a, j0, j1, j2, j3, far_b,
                rows_left, columns_inside, line, step * ROWS, K, STRIDE, ROWS, COLUMNS,
            )  # fmt: skip
    tl.store(grad_x + start + place, total.to(grad_x.dtype.element_ty), mask=inside[:, None])
    if (y0 < PAD) | (x0 < PAD) | (y0 + TILE_H + PAD > height) | (x0 + TILE_W + PAD > width):
        _zero_outside(
            grad_kernel, n, group, y0, x0, height, width, out_height, out_width, groups,
            K, STRIDE, TILE_H, TILE_W, 16 if K == 3 else 64,
        )  # fmt: skip


FORWARD, BACKWARD = Launcher(_forward, "forward"), Launcher(_backward, "backward")


def forward(x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Involution of channels-last tensors of one type (shapes as in `involution`).

    Raises:
        KernelUnavailable: if the kernel cannot be built or started here.
    """
    b, c = x.shape[:2]
    out = torch.empty((b, c, *kernel.shape[2:]), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if out.numel():
        FORWARD.run((x, kernel, out), Shape.of(x, kernel, kernel_size, stride))
    return out


def backward(grad: Tensor, x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> tuple[Tensor, Tensor]:
    """Gradients with respect to input and kernel; all tensors are channels-last and of one type.

    Raises:
        KernelUnavailable: if the kernel cannot be built or started here.
    """
    grad_x = torch.empty_like(x, memory_format=torch.channels_last)
    grad_kernel = torch.empty_like(kernel, memory_format=torch.channels_last)
    if x.numel():
        BACKWARD.run((x, kernel, grad, grad_x, grad_kernel), Shape.of(x, kernel, kernel_size, stride))
    return grad_x, grad_kernel
