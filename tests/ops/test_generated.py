"""Involution that makes its own kernels, against convolution, a loop over pixels and BatchNorm in float64."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import TESTS
from ops.test_involution import naive
from torch import Tensor

from coadvise.ops.generated import generated_involution


def draw(
    b: int, c: int, reduced: int, h: int, w: int, k: int, stride: int, dtype: torch.dtype
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The operator's arguments, rounded to their types, and what it should give of them, in float64."""
    generator = torch.Generator().manual_seed(c + h + k)
    groups, oh, ow = c // 16, math.ceil(h / stride), math.ceil(w / stride)
    shapes = ((b, c, h, w), (b, reduced, oh, ow), (k * k, groups, reduced), (k * k, groups), (c,), (c,))
    drawn = [torch.randn(shape, generator=generator) for shape in shapes]
    drawn[2] /= reduced**0.5 * k
    x, hidden, weight = (tensor.to(dtype) for tensor in drawn[:3])
    bias, scale, shift = drawn[3] / k, drawn[4], drawn[5]
    matrix = weight.double().transpose(0, 1).reshape(groups * k * k, reduced, 1, 1)
    kernel = F.conv2d(hidden.double(), matrix, bias.double().t().reshape(-1))
    applied = naive(x.double(), kernel, k, stride)
    expected = (applied * scale.double()[:, None, None] + shift.double()[:, None, None]).clamp_min(0)
    last = [tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, hidden)]
    return (*last, weight, bias, scale, shift), expected


@pytest.mark.parametrize(("k", "stride", "c"), [(3, 1, 32), (7, 2, 48)])
def test_the_chain_of_single_operations(k: int, stride: int, c: int) -> None:
    tensors, expected = draw(2, c, c // 4, 7, 5, k, stride, torch.float32)
    found = generated_involution(*tensors, k, stride)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(generated_involution(*tensors, k, stride), found)
    torch.library.opcheck(torch.ops.coadvise.generated_involution, (*tensors, k, stride), test_utils="test_faketensor")


# channels, hidden channels, height, width, K, stride: blocks of 32 pixels and 8 groups that are cut off, hidden
# channels that are no power of two, maps smaller than a kernel, as many groups as RedNet has
SHAPES = [
    (32, 8, 9, 8, 3, 1),
    (64, 16, 5, 4, 7, 1),
    (64, 16, 5, 4, 7, 2),
    (144, 20, 3, 4, 5, 3),
    (272, 128, 2, 2, 7, 1),
    (16, 4, 1, 1, 1, 1),
]


def check_kernel() -> None:
    """In a process of its own, in which Triton interprets."""
    from coadvise.ops import generated_triton

    empty = torch.empty
    torch.empty = lambda *args, **kwargs: empty(*args, **kwargs).fill_(torch.nan)  # type: ignore[assignment]
    for (number, shape), dtype in itertools.product(enumerate(SHAPES), (torch.bfloat16, torch.float16)):
        if number and (number + (dtype == torch.float16)) % 2:
            continue  # of these each in one type
        tensors, expected = draw(2 if number == 1 else 1, *shape, dtype)
        found = generated_triton.forward(*tensors, *shape[-2:])
        assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last)
        # The interpreter cuts bfloat16 off where a GPU rounds.
        eps = {torch.bfloat16: 2**-7, torch.float16: 2**-11}[dtype]
        torch.testing.assert_close(found.double(), expected, rtol=1.01 * eps, atol=2e-3 * float(expected.max()) * eps)
    none = draw(1, *SHAPES[0], torch.bfloat16)[0]
    assert generated_triton.forward(none[0][:0], none[1][:0], *none[2:], 3, 1).shape == (0, 32, 9, 8)


def test_the_gpu_kernel_under_the_interpreter() -> None:
    pytest.importorskip("triton", reason="Triton is not installed on this platform")
    code = (
        f"import sys; sys.path.insert(0, {str(TESTS)!r})\nfrom ops.test_generated import check_kernel\ncheck_kernel()"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize(  # RedNet's first stage, its last, and its stem
    ("k", "pixels", "groups", "reduced", "registers"),
    [(7, 32, 4, 16, 168), pytest.param(7, 32, 8, 128, 224, marks=pytest.mark.slow), (3, 64, 2, 16, 128)],
)
def test_the_gpu_kernel_compiles_without_spills(
    k: int, pixels: int, groups: int, reduced: int, registers: int, tmp_path: Path
) -> None:
    """For an H100, without one: the taps are made on tensor cores, and nothing leaves the registers."""
    pytest.importorskip("triton", reason="Triton is not installed on this platform")
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from coadvise.ops.generated_triton import _forward

    pointers = {"x": "*i32", "hidden": "*bf16", "weight": "*bf16", "out": "*i32"}
    pointers |= dict.fromkeys(("bias", "scale", "shift"), "*fp32")
    sizes = {"K": k, "STRIDE": 1, "PIXELS": pixels, "GROUPS": groups, "REDUCED": reduced, "WIDE": False}
    names = _forward.arg_names
    signature = {name: "constexpr" if name in sizes else pointers.get(name, "i32") for name in names}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in (*pointers, "reduced")}
    source = ASTSource(_forward, signature, {(names.index(name),): value for name, value in sizes.items()}, aligned)
    try:
        built = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4, "num_stages": 2})
    except (RuntimeError, OSError) as error:
        pytest.skip(f"Triton compiles nothing for a GPU here: {error}")
    file = tmp_path / "kernel.cubin"
    file.write_bytes(built.asm["cubin"])
    used = subprocess.run([knobs.nvidia.cuobjdump.path, "-res-usage", file], capture_output=True, text=True).stdout
    assert "mma" in built.asm["ptx"] and "ld.global.v4" in built.asm["ptx"]
    assert "STACK:0" in used and "LOCAL:0" in used and int(used.split("REG:")[1].split()[0]) <= registers
