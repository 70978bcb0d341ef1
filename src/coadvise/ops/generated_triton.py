"""Involution on the GPU whose kernels are made where they are used, for frozen networks: one Triton kernel.

A program has 32 pixels and 8 groups. For each of the K² taps the 32 × 8 weights are a small product on tensor cores, of
the pixels' hidden channels and that tap's matrix; they are multiplied at once with the shifted input, which lies side
by side in memory for all channels of a pixel, and are gone. Sums, BatchNorm and ReLU are in float32; what is stored is
the activated map.

What has to be moved, and computed, for a map of c channels, g = c/16 groups and r = c/4 hidden channels, for each pixel
(stride 1, 16 bits):

- with kernels in memory: 2·(r + K²·g) bytes to make them, 2·(c + K²·g + c) to apply them, 4·c for BatchNorm and ReLU;
- made here: 2·(r + c + c) bytes. For K = 7 that is 4.5·c beside 20.8·c: 4.6 times less;
- either way 2·r·K²·g floating-point operations for the kernels and 2·K²·c for the sums: (1.5·c + 98)·c for K = 7.

The products with the input are not on tensor cores: a pixel's kernel would have to be shifted along its row first,
which takes more instructions (by shuffles, as Triton compiles a gather) than the products themselves.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PIXELS, GROUPS = 32, 8  # of a program
PAIRS = tl.constexpr(8)  # of channels of a group


@triton.jit
def _low(pair, dtype: tl.constexpr):
    """The first of two 16-bit numbers that lie in one word, in float32."""
    if dtype == tl.bfloat16:
        return (pair << 16).to(tl.float32, bitcast=True)
    return pair.to(tl.int16).to(dtype, bitcast=True).to(tl.float32)


@triton.jit
def _high(pair, dtype: tl.constexpr):
    """The second of them."""
    if dtype == tl.bfloat16:
        return (pair & -65536).to(tl.float32, bitcast=True)
    return (pair >> 16).to(tl.int16).to(dtype, bitcast=True).to(tl.float32)


@triton.jit
def _pair(low, high, dtype: tl.constexpr):
    """Two numbers of float32 as 16-bit ones in one word."""
    low = low.to(dtype).to(tl.int16, bitcast=True).to(tl.int32) & 65535
    return low | (high.to(dtype).to(tl.int16, bitcast=True).to(tl.int32) << 16)


@triton.jit
def _forward(
    x, hidden, weight, bias, scale, shift, out, pixels, height, width, out_height, out_width, groups, reduced,
    K: tl.constexpr, STRIDE: tl.constexpr, PIXELS: tl.constexpr, GROUPS: tl.constexpr, REDUCED: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    # x and out are words of two channels; neighbouring programs share pixels, and with them lines of the cache.
    dtype: tl.constexpr = hidden.dtype.element_ty
    blocks = tl.cdiv(groups, GROUPS)
    pixel = (tl.program_id(0) // blocks).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    group = tl.program_id(0) % blocks * GROUPS + tl.arange(0, GROUPS)
    there, known = pixel < pixels, group < groups
    n, oy, ox = pixel // (out_height * out_width), pixel // out_width % out_height, pixel % out_width
    top, left = (oy * STRIDE - (K - 1) // 2).to(tl.int32), (ox * STRIDE - (K - 1) // 2).to(tl.int32)
    word = group[:, None] * PAIRS + tl.arange(0, PAIRS)[None, :]
    step = groups * PAIRS
    corner = x + ((n * height + top) * width + left)[:, None, None] * step + word[None, :, :]
    inner = tl.arange(0, REDUCED)
    made_of = tl.load(
        hidden + pixel[:, None] * reduced + inner[None, :],
        mask=there[:, None] & (inner < reduced)[None, :], other=0.0,
    )  # fmt: skip
    if WIDE:
        made_of = made_of.to(tl.float32)
    weights = weight + group[None, :] * reduced + inner[:, None]
    used = known[None, :] & (inner < reduced)[:, None]
    even = tl.zeros((PIXELS, GROUPS, PAIRS), dtype=tl.float32)
    odd = tl.zeros((PIXELS, GROUPS, PAIRS), dtype=tl.float32)
    for i in range(K):
        row = there & (top + i >= 0) & (top + i < height)
        for j in tl.static_range(K):
            inside = row & (left + j >= 0) & (left + j < width)
            seen = tl.load(corner + (i * width + j) * step, mask=inside[:, None, None] & known[None, :, None], other=0)
            taps = tl.load(weights + (i * K + j) * groups * reduced, mask=used, other=0.0)
            start = tl.load(bias + (i * K + j) * groups + group, mask=known, other=0.0)
            if WIDE:
                taps = taps.to(tl.float32)
            kernel = (tl.dot(made_of, taps) + start[None, :])[:, :, None]
            even += kernel * _low(seen, dtype)
            odd += kernel * _high(seen, dtype)
    first, mask = 2 * word, known[:, None]
    even = even * tl.load(scale + first, mask=mask)[None, :, :] + tl.load(shift + first, mask=mask)[None, :, :]
    odd = odd * tl.load(scale + first + 1, mask=mask)[None, :, :] + tl.load(shift + first + 1, mask=mask)[None, :, :]
    done = _pair(tl.maximum(even, 0.0), tl.maximum(odd, 0.0), dtype)
    to = out + pixel[:, None, None] * step + word[None, :, :]
    tl.store(to, done, mask=there[:, None, None] & known[None, :, None])


def forward(
    x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, kernel_size: int, stride: int
) -> Tensor:
    """See `generated.generated_involution`; maps are channels-last, with `hidden` and `weight` in the input's type."""
    b, c, h, w = x.shape
    reduced, (oh, ow) = hidden.shape[1], hidden.shape[2:]
    out = torch.empty((b, c, oh, ow), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    groups, pixels = c // 16, b * oh * ow
    if not out.numel():
        return out
    together = min(triton.next_power_of_2(groups), GROUPS)
    block = PIXELS if together > 2 else 2 * PIXELS  # else there were too little for each of the 128 threads
    _forward[(triton.cdiv(pixels, block) * triton.cdiv(groups, together),)](
        _words(x), hidden, weight, bias, scale, shift, _words(out), pixels, h, w, oh, ow, groups, reduced,
        K=kernel_size, STRIDE=stride, PIXELS=block, GROUPS=together, REDUCED=max(triton.next_power_of_2(reduced), 16),
        WIDE=x.device.type == "cpu",  # Triton's interpreter multiplies the bits of bfloat16, as if of whole numbers
        num_warps=4, num_stages=2,
    )  # fmt: skip
    return out


def _words(x: Tensor) -> Tensor:
    """The memory of a channels-last map as words of two channels."""
    return x.permute(0, 2, 3, 1).reshape(-1).view(torch.int32)
