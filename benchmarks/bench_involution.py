"""Involution at the shapes of RedNet-26's stages (224 px): `coadvise.ops.involution` against the unfold form.

The floor of a shape is what its bytes take at the speed of a copy of as many, or its operations at that of a float32
matrix product, whichever is longer: input, kernel and output once forward, with both gradients and the output's
backward.

python benchmarks/bench_involution.py
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from baseline import unfold_involution
from side_by_side import agree, arguments, claim, copy_bandwidth, geometric_mean, interleaved, peak_bytes, report

from coadvise.cost import matrix_peak
from coadvise.ops import involution

# channels, side of the input in pixels, stride
SHAPES = [(64, 56, 1), (128, 56, 2), (128, 28, 1), (256, 28, 2), (256, 14, 1), (512, 14, 2), (512, 7, 1)]
K = 7


def main() -> None:
    options = arguments(__doc__ or "")
    dtype = torch.bfloat16 if options.device != "cpu" else torch.float32
    rows, memory = [], []
    rate = matrix_peak(torch.device(options.device), None)
    for channels, side, stride in SHAPES:
        generator = torch.Generator().manual_seed(0)
        out = side // stride
        x = torch.randn(options.batch_size, channels, side, side, generator=generator)
        kernel = torch.randn(options.batch_size, channels // 16 * K * K, out, out, generator=generator)
        plain = [t.to(options.device, dtype).requires_grad_() for t in (x, kernel)]
        last = [t.detach().contiguous(memory_format=torch.channels_last).requires_grad_() for t in plain]
        sides = {"unfold": (unfold_involution, plain), "coadvise": (involution, last)}
        grad = torch.randn(options.batch_size, channels, out, out, generator=generator).to(options.device, dtype)
        grads = {"unfold": grad, "coadvise": grad.contiguous(memory_format=torch.channels_last)}

        def forward(name: str, sides=sides) -> torch.Tensor:
            function, (a, b) = sides[name]
            with torch.no_grad():
                return function(a, b, K, stride)  # noqa: B023 - called before the loop goes on

        def both(name: str, sides=sides, grads=grads, stride=stride) -> tuple[torch.Tensor, ...]:
            function, (a, b) = sides[name]
            y = function(a, b, K, stride)
            return (y, *torch.autograd.grad(y, (a, b), grads[name]))

        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        for a, b in zip(both("coadvise"), both("unfold"), strict=True):
            agree(a, b, tolerance, f"{channels} channels, {side} px, stride {stride}")
        names = list(sides)
        timed = interleaved({n: lambda n=n: forward(n) for n in names}, options.rounds, options.device)
        timed_both = interleaved({n: lambda n=n: both(n) for n in names}, options.rounds, options.device)
        function, (a, b) = sides["coadvise"]
        y = function(a, b, K, stride)

        def backward(y=y, a=a, b=b, grads=grads) -> tuple[torch.Tensor, ...]:
            return torch.autograd.grad(y, (a, b), grads["coadvise"], retain_graph=True)

        timed_backward = interleaved({"coadvise": backward}, options.rounds, options.device)
        memory.append(partial(_memory, both, names, options.device))
        x_bytes, kernel_bytes, out_bytes = (t.numel() * dtype.itemsize for t in (x, kernel, grad))
        forward_bytes, flops = x_bytes + kernel_bytes + out_bytes, 2 * K * K * grad.numel()
        backward_bytes = forward_bytes + x_bytes + kernel_bytes
        rows.append(
            {
                "channels": channels, "side": side, "stride": stride,
                "forward_ms": {n: timed[n] * 1e3 for n in names},
                "both_ms": {n: timed_both[n] * 1e3 for n in names},
                "backward_ms": timed_backward["coadvise"] * 1e3,
                "floor_ms": {
                    "forward": 1e3 * max(forward_bytes / copy_bandwidth(options.device, forward_bytes), flops / rate),
                    "backward": 1e3 * max(
                        backward_bytes / copy_bandwidth(options.device, backward_bytes), 2 * flops / rate
                    ),
                },
            }
        )  # fmt: skip
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
    claims = [
        claim("involution forward, against unfold (geometric mean)", geometric_mean(ratios["forward"]), "≥ 20×"),
        claim("involution forward + backward, against unfold (geometric mean)", geometric_mean(ratios["both"]), "≥ 8×"),
        claim("worst shape, forward or forward + backward", min(ratios["forward"] + ratios["both"]), "≥ 2×"),
        claim("memory of unfold over ours, forward + backward (worst shape)", min(saved), "≥ 10×"),
    ]
    goal = "≥ 50 %" if options.device != "cpu" else ""
    for what in ("forward", "backward"):
        times = [row["forward_ms"]["coadvise"] if what == "forward" else row["backward_ms"] for row in rows]
        parts = [row["floor_ms"][what] / time for row, time in zip(rows, times, strict=True)]
        claims.append(claim(f"involution {what}, the floor over our time (geometric mean)", 100 * geometric_mean(parts),
                            goal, " %"))  # fmt: skip
    report("involution", options, claims, {"shapes": rows, "float32_flops_per_s": rate})


def _memory(run: Callable[[str], object], names: list[str], device: str) -> dict[str, int | None]:
    return {name: peak_bytes(lambda n=name: run(n), device) for name in names}


if __name__ == "__main__":
    main()
