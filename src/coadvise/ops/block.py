"""A transformer block on the CPU as one operation each way, by compiled code: `block.cpp`.

It goes through a block with a few images at a time, so that what one matrix product gives is still in the core's cache
for the next, and does norms, GELU, sums and the attention of few tokens between them without PyTorch's kernels, each of
which reads and writes all of a batch. In float32 the same numbers up to the order of sums.

The matrix products with weights can also take factors rounded to bfloat16, as are queries, keys, values, chances and
GELU's slopes, which are kept for the backward pass; sums and all else stay float32. On matrix units (AMX) this is
quicker; `block.cpp` uses them itself where widths are multiples of 32.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..shapes import Float
from ..system.native import compiled, cpu_info

SOURCE = Path(__file__).with_name("block.cpp")
# Tokens of an image and channels of a head, at most; all widths are multiples of a register's 16 numbers.
MOST, STEP = 64, 16
# Rows and columns that matrix units take at a time.
SIDE = 32
# Tokens of the images that go through a block together. On matrix units, where products cost less than reading what is
# far away, fewer: as many as a token has channels, and `LEAST` at least.
ROWS, LEAST = 480, 96


class Weights(NamedTuple):
    """Parameters of a block of width d with an MLP of width m, in the order of `block.cpp`."""

    norm1_weight: Float[Tensor, " d"]
    norm1_bias: Float[Tensor, " d"]
    qkv_weight: Float[Tensor, "3d d"]
    qkv_bias: Float[Tensor, " 3d"]
    proj_weight: Float[Tensor, "d d"]
    proj_bias: Float[Tensor, " d"]
    norm2_weight: Float[Tensor, " d"]
    norm2_bias: Float[Tensor, " d"]
    fc1_weight: Float[Tensor, "m d"]
    fc1_bias: Float[Tensor, " m"]
    fc2_weight: Float[Tensor, "d m"]
    fc2_bias: Float[Tensor, " d"]


class _Sizes(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in ("images", "length", "queries", "width", "heads", "hidden", "chunk", "threads")
        ),
        *((name, ctypes.c_float) for name in ("eps1", "eps2")),
    )


class _Code(NamedTuple):
    library: ctypes.CDLL
    product: ctypes.c_void_p
    """The matrix product of the library that PyTorch brings."""
    half_product: ctypes.c_void_p | None
    """The one of factors in bfloat16; None where the library has none."""


@functools.cache
def code() -> _Code | None:
    """The compiled functions and the product they call; None where there is no compiler, or no such product."""
    if "ILP64" in torch.__config__.show():  # sizes of another width
        return None
    try:
        products = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        product = ctypes.cast(products.sgemm_, ctypes.c_void_p)
    except (OSError, AttributeError):
        return None
    library = compiled(SOURCE, "small transformers are trained without compiled code here, more slowly")
    half = getattr(products, "gemm_bf16bf16f32_", None)
    return None if library is None else _Code(library, product, half and ctypes.cast(half, ctypes.c_void_p))


def has_bf16() -> bool:
    """Whether blocks can be computed with factors in bfloat16."""
    return (found := code()) is not None and found.half_product is not None


def bf16_pays() -> bool:
    """Whether this is quicker than PyTorch's layers under autocast: where the processor has matrix units for it."""
    return "amx_bf16" in (cpu_info("flags") or "").split() and has_bf16()


def uses_units() -> bool:
    """Whether products of factors in bfloat16 are the matrix units' own, where widths are multiples of 32."""
    return (found := code()) is not None and bool(found.library.has_units())


def fits(length: int, width: int, heads: int, hidden: int) -> bool:
    """Whether blocks of such sizes can be computed so: tokens, width, heads, width of the MLP."""
    depth = width // heads
    return length <= MOST and depth <= MOST and not (depth % STEP or width % STEP or hidden % STEP)


def transformer_block(
    x: Float[Tensor, "b l d"], weights: Weights, heads: int, eps: tuple[float, float], count: int, bf16: bool = False
) -> Float[Tensor, "b n d"]:
    """`a = x + proj(attention(qkv(norm1(x))))`, then `a + fc2(gelu(fc1(norm2(a))))`, of each image's first tokens.

    Args:
        x: float32 on the CPU; sizes that `fits` allows.
        heads: of attention.
        eps: of both norms.
        count: so many tokens are computed, from all.
        bf16: round the factors of the matrix products with weights, and what is kept, to bfloat16.
    """
    answer: Tensor = _Block.apply(x, heads, eps, count, bf16, *weights)
    return answer


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, heads: int, eps: tuple[float, float], count: int, bf16: bool, *weights: Tensor
    ) -> Tensor:
        x = x.contiguous()
        weights = tuple(one.contiguous() for one in weights)
        (images, length, width), hidden = x.shape, weights[8].shape[0]
        on_units = bf16 and not (width % SIDE or hidden % SIDE)  # if there are any
        chunk = max(1, (max(LEAST, width) if on_units else ROWS) // length)
        threads = max(1, min(torch.get_num_threads(), -(-images // chunk)))
        sizes = _Sizes(images, length, count, width, heads, hidden, chunk, threads, *eps)
        out = x.new_empty(images, count, width)  # of whatever type and device is the default one
        chances = heads * -(-length // STEP) * STEP
        factors = images * (length * 3 * width + count * (width + 2 * hidden + chances)) + SIDE * max(width, hidden)
        kept = x.new_empty(images * count * width + (factors // 2 if bf16 else factors))
        _call("forward", bf16, sizes, weights, x, out, kept)
        ctx.save_for_backward(x, kept, *weights)
        ctx.sizes, ctx.bf16 = sizes, bf16
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, kept, *weights = ctx.saved_tensors
        sizes, grad = ctx.sizes, grad.contiguous()
        counts = [one.numel() for one in weights]
        dx = torch.empty_like(x)
        sums = x.new_zeros(sizes.threads, sum(counts))
        _call("backward", ctx.bf16, sizes, weights, x, grad, kept, dx, sums, more=(ctypes.c_int64(sums.shape[1]),))
        total = sums[0] if sizes.threads == 1 else sums.sum(0)
        parts = total.split(counts)
        return dx, None, None, None, None, *(part.view_as(one) for part, one in zip(parts, weights, strict=True))


def _call(
    what: str,
    bf16: bool,
    sizes: _Sizes,
    weights: tuple[Tensor, ...] | list[Tensor],
    *tensors: Tensor,
    more: tuple[Any, ...] = (),
) -> None:
    found = code()
    assert found is not None
    addresses = (ctypes.c_void_p * len(weights))(*(one.data_ptr() for one in weights))
    pointers = [ctypes.c_void_p(one.data_ptr()) for one in tensors]
    product = found.half_product if bf16 else found.product
    if product is None:
        raise RuntimeError("this PyTorch has no matrix product of factors in bfloat16")
    if getattr(found.library, what)(product, int(bf16), ctypes.byref(sizes), addresses, *pointers, *more):
        raise MemoryError
