"""The co-advised step of an earlier tree (934e134's layout) against the same plain baseline, and its memory.

Runs with that tree's `src` and `benchmarks` on PYTHONPATH, and none of this one's: `python -P benchmarks/gpu_old.py`.
Its step is timed eager, as its own benchmark does, and with attention and MLP compiled, as its long runs are.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from pathlib import Path
from statistics import median

import timm
import torch
from bench_step import Step
from coadvise.compiling import compile_blocks, plain_attention
from coadvise.teachers import Teachers


def peak_gib(run, before: int) -> float | None:
    """Device memory at the peak of a call beyond `before` bytes; None on the CPU."""
    if not torch.cuda.is_available():
        run()
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", choices=("full", "tiny"), default="full")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, required=True, help="the JSON file")
    options = parser.parse_args()
    tiny, device = options.sizes == "tiny", torch.device(options.device)
    side, batch, classes = (32, 4, 10) if tiny else (224, 256, 1000)
    shape = {"img_size": 32, "depth": 2, "embed_dim": 32, "num_heads": 2} if tiny else {}
    torch.manual_seed(0)
    student = timm.create_model("cit_small_sa", num_classes=classes, drop_path_rate=0.0, **shape)
    names = ("resnet10t", "rednet26") if tiny else ("regnety_040", "rednet101")
    models = dict(zip(("conv", "inv"), (timm.create_model(name, num_classes=classes) for name in names), strict=True))
    x = torch.randn(batch, 3, side, side).to(device).contiguous(memory_format=torch.channels_last)
    y = torch.randint(classes, (batch,)).to(device)
    memory: dict[str, float | None] = {}
    steps, seconds = {}, {}
    for name in ("eager", "plain", "attention and MLP compiled"):
        if name.startswith("attention") and device.type == "cpu" and not tiny:
            continue
        before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
        teachers, fast = Teachers(copy.deepcopy(models)).to(device), name != "plain"
        if fast:
            teachers.fuse(x[:2], torch.bfloat16)
        steps[name] = step = Step(copy.deepcopy(student).to(device), teachers, fast, fast)
        if fast:
            plain_attention(step.student, device, torch.bfloat16)
        if name.startswith("attention"):
            compile_blocks(step.student, True, device, 10**6)
        step(x, y)
        memory[name] = peak_gib(lambda step=step: step(x, y), before)
        if "plain" in steps:  # written before the compiler is asked
            seconds |= interleaved(steps, x, y, options.rounds)
            found = {"seconds": seconds, "memory_gib": memory, "device": options.device, "torch": torch.__version__}
            write(options.output, json.dumps(found))
            print(json.dumps(found), flush=True)


def interleaved(steps: dict[str, Step], x: torch.Tensor, y: torch.Tensor, rounds: int) -> dict[str, float]:
    """Median seconds of a step of each side, in turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            wait()
            start = time.perf_counter()
            step(x, y)
            wait()
            times[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in times.items()}


def wait() -> None:
    """For the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def write(path: Path, text: str) -> None:
    """A file in one go."""
    part = path.with_suffix(".part")
    part.write_text(text)
    os.replace(part, path)


if __name__ == "__main__":
    main()
