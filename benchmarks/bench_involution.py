"""Involution at the shapes of RedNet-26's stages (224 px): `coadvise.ops.involution` against the unfold form.

The floor of a shape is what its bytes take at the speed of a copy of as many, or its operations at that of a float32
matrix product, whichever is longer: input, kernel and output once forward, with both gradients and the output's
backward.

python benchmarks/bench_involution.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from baseline import unfold_involution
from side_by_side import agree, arguments, claim, copy_bandwidth, geometric_mean, interleaved, peak_bytes, report

from coadvise.cost.model import matrix_peak
from coadvise.ops import involution

# channels, side of the input in pixels, stride
SHAPES = [(64, 56, 1), (128, 56, 2), (128, 28, 1), (256, 28, 2), (256, 14, 1), (512, 14, 2), (512, 7, 1)]
K = 7


def measured(
    shape: tuple[int, int, int], options: argparse.Namespace, rate: float
) -> tuple[dict[str, Any], Callable[[], object]]:
    """Times of one shape beside its floor, and what measures its memory when all clocks have stopped."""
    channels, side, stride = shape
    dtype = torch.bfloat16 if options.device != "cpu" else torch.float32
    generator = torch.Generator().manual_seed(0)
    out = side // stride
    x = torch.randn(options.batch_size, channels, side, side, generator=generator)
    kernel = torch.randn(options.batch_size, channels // 16 * K * K, out, out, generator=generator)
    plain = [t.to(options.device, dtype).requires_grad_() for t in (x, kernel)]
    last = [t.detach().contiguous(memory_format=torch.channels_last).requires_grad_() for t in plain]
    sides = {"unfold": (unfold_involution, plain), "coadvise": (involution, last)}
    grad = torch.randn(options.batch_size, channels, out, out, generator=generator).to(options.device, dtype)
    grads = {"unfold": grad, "coadvise": grad.contiguous(memory_format=torch.channels_last)}

    def forward(name: str) -> torch.Tensor:
        function, (a, b) = sides[name]
        with torch.no_grad():
            return function(a, b, K, stride)

    def both(name: str) -> tuple[torch.Tensor, ...]:
        function, (a, b) = sides[name]
        y = function(a, b, K, stride)
        return (y, *torch.autograd.grad(y, (a, b), grads[name]))

    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for a, b in zip(both("coadvise"), both("unfold"), strict=True):
        agree(a, b, tolerance, f"{channels} channels, {side} px, stride {stride}")
    y = involution(*last, K, stride)
    timed = interleaved({name: partial(forward, name) for name in sides}, options.rounds, options.device)
    timed_both = interleaved({name: partial(both, name) for name in sides}, options.rounds, options.device)
    backward = partial(torch.autograd.grad, y, last, grads["coadvise"], retain_graph=True)
    timed_backward = interleaved({"coadvise": backward}, options.rounds, options.device)
    x_bytes, kernel_bytes, out_bytes = (t.numel() * dtype.itemsize for t in (x, kernel, grad))
    flops, once = 2 * K * K * grad.numel(), x_bytes + kernel_bytes + out_bytes

    def floor_ms(size: int, operations: int) -> float:
        return 1e3 * max(size / copy_bandwidth(options.device, size), operations / rate)

    row = {
        "channels": channels, "side": side, "stride": stride,
        "forward_ms": {name: seconds * 1e3 for name, seconds in timed.items()},
        "both_ms": {name: seconds * 1e3 for name, seconds in timed_both.items()},
        "backward_ms": timed_backward["coadvise"] * 1e3,
        "floor_ms": {"forward": floor_ms(once, flops), "backward": floor_ms(once + x_bytes + kernel_bytes, 2 * flops)},
    }  # fmt: skip
    return row, lambda: {name: peak_bytes(partial(both, name), options.device) for name in sides}


def main() -> None:
    options = arguments(__doc__ or "")
    rate = matrix_peak(torch.device(options.device), None)
    rows, memory = zip(*(measured(shape, options, rate) for shape in SHAPES), strict=True)
    for row, measure in zip(rows, memory, strict=True):  # after the clocks: it changes how memory is had
        row["peak_bytes"] = measure()
    ratios = {
        what: [row[f"{what}_ms"]["unfold"] / row[f"{what}_ms"]["coadvise"] for row in rows]
        for what in ("forward", "both")
    }
    saved = [
        row["peak_bytes"]["unfold"] / max(row["peak_bytes"]["coadvise"], 1)
        for row in rows
        if row["peak_bytes"]["unfold"]
    ]
    goals, part = (("≥ 20×", "≥ 8×"), "") if options.device == "cpu" else (("≥ 10×", "≥ 10×"), "≥ 50 %")
    forward, both = geometric_mean(ratios["forward"]), geometric_mean(ratios["both"])
    claims = [
        claim("involution forward, against unfold (geometric mean)", forward, goals[0]),
        claim("involution forward + backward, against unfold (geometric mean)", both, goals[1]),
        claim("worst shape, forward or forward + backward", min(ratios["forward"] + ratios["both"]), "≥ 2×"),
        claim("memory of unfold over ours, forward + backward (worst shape)", min(saved), "≥ 10×"),
    ]
    for what in ("forward", "backward"):
        times = [row["forward_ms"]["coadvise"] if what == "forward" else row["backward_ms"] for row in rows]
        parts = [row["floor_ms"][what] / time for row, time in zip(rows, times, strict=True)]
        claims.append(claim(f"involution {what}, the floor over our time (geometric mean)", 100 * geometric_mean(parts),
                            part, " %"))  # fmt: skip
    report("involution", options, claims, {"shapes": rows, "float32_flops_per_s": rate})


if __name__ == "__main__":
    main()
