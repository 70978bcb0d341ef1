"""Involution at the shapes of RedNet-26's stages (224 px): `coadvise.ops.involution` against the unfold form.

The floor of a shape is what its bytes take at the speed of a copy of as many, or its operations at that of a float32
matrix product, whichever is longer: input, kernel and output once forward, with both gradients and the output's
backward. On a GPU the floor and the time that it is compared with are the device's own, without what Python takes to
start a kernel: several calls, each with inputs of its own, are recorded as one CUDA graph.

Before the clock starts, the results of two images are compared with those in float64, and all with the unfold form's;
memory that the kernels get has been filled with NaN.

python benchmarks/bench_involution.py
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from baseline import unfold_involution
from side_by_side import agree, arguments, claim, copy_bandwidth, geometric_mean, interleaved, peak_bytes, report

from coadvise.cost.model import matrix_peak
from coadvise.ops import involution
from coadvise.ops.involution_tiles import Pass, Shape
from coadvise.system.clock import seconds_of

# channels, side of the input in pixels, stride
SHAPES = [(64, 56, 1), (128, 56, 2), (128, 28, 1), (256, 28, 2), (256, 14, 1), (512, 14, 2), (512, 7, 1)]
K = 7
SETS, REPLAYS = 4, 5  # of inputs; of a graph that has a call for each set


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
    what = f"{channels} channels, {side} px, stride {stride}"
    poison(sum(t.numel() for t in (*last, grad)), grad)
    found = both("coadvise")
    for a, b in zip(found, exact([t[:2] for t in (*last, grad)], stride), strict=True):
        agree(a[:2].cpu(), b, 1e-5 if dtype == torch.float32 else 2**-7, f"{what}, against float64")
    for a, b in zip(found, both("unfold"), strict=True):
        agree(a, b, tolerance, what)
    del found
    y = involution(*last, K, stride)
    timed = interleaved({name: partial(forward, name) for name in sides}, options.rounds, options.device)
    timed_both = interleaved({name: partial(both, name) for name in sides}, options.rounds, options.device)
    backward = partial(torch.autograd.grad, y, last, grads["coadvise"], retain_graph=True)
    timed_backward = interleaved({"coadvise": backward}, options.rounds, options.device)
    sizes = Shape.of(x, kernel, K, stride)

    def floor_ms(which: Pass) -> float:
        size = sizes.bytes_once(len(x), dtype.itemsize, which)
        return 1e3 * max(copy_seconds(size, options), sizes.operations(len(x), which) / rate)

    row = {
        "channels": channels, "side": side, "stride": stride,
        "forward_ms": {name: seconds * 1e3 for name, seconds in timed.items()},
        "both_ms": {name: seconds * 1e3 for name, seconds in timed_both.items()},
        "backward_ms": timed_backward["coadvise"] * 1e3,
        "device_ms": device_ms([*last, grads["coadvise"]], stride, options),
        "floor_ms": {which: floor_ms(which) for which in ("forward", "backward")},
    }  # fmt: skip
    return row, lambda: {name: peak_bytes(partial(both, name), options.device) for name in sides}


def exact(tensors: list[torch.Tensor], stride: int) -> tuple[torch.Tensor, ...]:
    """Output and gradients in float64, on the CPU, of input, kernel and the output's gradient."""
    x, kernel, grad = (t.detach().cpu().double() for t in tensors)
    out = involution(x.requires_grad_(), kernel.requires_grad_(), K, stride)
    return (out, *torch.autograd.grad(out, (x, kernel), grad))


def poison(numbers: int, like: torch.Tensor) -> None:
    """Leave NaN in the memory that the next tensors get."""
    torch.full((2 * numbers,), torch.nan, dtype=like.dtype, device=like.device)


def device_ms(tensors: list[torch.Tensor], stride: int, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of a forward and of a backward pass on the device."""
    # The sets together do not fit into a GPU's cache.
    x, kernel, grad = zip(*([torch.randn_like(t) for t in tensors] for _ in range(SETS)), strict=True)
    operators = torch.ops.coadvise
    calls: dict[str, list[Callable[[], object]]] = {
        "forward": [partial(operators.involution, a, b, K, stride) for a, b in zip(x, kernel, strict=True)],
        "backward": [
            partial(operators.involution_backward, g, a, b, K, stride) for g, a, b in zip(grad, x, kernel, strict=True)
        ],
    }
    return {which: 1e3 * device_seconds(several, options) for which, several in calls.items()}


def copy_seconds(size: int, options: argparse.Namespace) -> float:
    """Seconds of a copy that reads and writes so many bytes together."""
    if options.device == "cpu":
        return size / copy_bandwidth(options.device, size)
    pairs = [torch.randn(2, max(size // 8, 1), device=options.device) for _ in range(SETS)]
    return device_seconds([partial(target.copy_, source) for source, target in pairs], options)


@torch.no_grad()
def device_seconds(calls: list[Callable[[], object]], options: argparse.Namespace) -> float:
    """Median seconds of one of the calls, by the device's clock: on a GPU they are replayed as one CUDA graph."""
    device = torch.device(options.device)
    if device.type == "cpu":
        return statistics.median(seconds_of(call, device, 1) for call in calls)
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    seconds = []
    for number in range(options.rounds + 1):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(REPLAYS):
            graph.replay()
        end.record()
        end.synchronize()
        if number:
            seconds.append(start.elapsed_time(end) / (1e3 * REPLAYS * len(calls)))
    return statistics.median(seconds)


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
    goals, part = ("≥ 20×", "≥ 8×"), {"forward": "", "backward": ""}
    if options.device != "cpu":
        goals, part = ("≥ 10×", "≥ 10×"), {"forward": "≥ 50 %", "backward": "≥ 40 %"}
    forward, both = geometric_mean(ratios["forward"]), geometric_mean(ratios["both"])
    claims = [
        claim("involution forward, against unfold (geometric mean)", forward, goals[0]),
        claim("involution forward + backward, against unfold (geometric mean)", both, goals[1]),
        claim("worst shape, forward or forward + backward", min(ratios["forward"] + ratios["both"]), "≥ 2×"),
        claim("memory of unfold over ours, forward + backward (worst shape)", min(saved), "≥ 10×"),
    ]
    for what in ("forward", "backward"):
        parts = [row["floor_ms"][what] / row["device_ms"][what] for row in rows]
        claims.append(claim(f"involution {what}, the floor over our time (geometric mean)", 100 * geometric_mean(parts),
                            part[what], " %"))  # fmt: skip
    report("involution", options, claims, {"shapes": rows, "float32_flops_per_s": rate})


if __name__ == "__main__":
    main()
