"""Inference: RedNet-101 against timm's RegNetY-4GF, and `cit_small` against timm's DeiT-S distilled, at 224 px.

Each network in float32 and bfloat16; the teachers fused, as training uses them, against timm's model as it comes.

python benchmarks/bench_inference.py
"""

from __future__ import annotations

import timm
import torch
from side_by_side import arguments, claim, interleaved, report
from torch import nn

import coadvise  # noqa: F401  (registers the models)
from coadvise.fuse import fused


def main() -> None:
    options = arguments(__doc__ or "")
    torch.manual_seed(0)
    x = torch.randn(options.batch_size, 3, 224, 224).to(options.device)
    teachers: dict[str, nn.Module] = {}
    for name in ("rednet101", "regnety_040"):
        model = timm.create_model(name).eval().to(options.device)
        teachers[f"{name}, as it comes"] = model
        faster = fused(model, x[:2])
        assert faster is not None
        teachers[f"{name}, fused"] = faster
    students = {
        name: timm.create_model(name).eval().to(options.device)
        for name in ("cit_small", "deit_small_distilled_patch16_224")
    }
    seconds = {}
    for group in (teachers, students):
        sides = {
            f"{name}, {kind}": lambda m=model, kind=kind: _answer(m, x, kind)
            for name, model in group.items()
            for kind in ("fp32", "bf16")
        }
        seconds |= interleaved(sides, options.rounds, options.device)
    best = {
        start: min(value for name, value in seconds.items() if name.startswith(start))
        for start in ("rednet101, fused", "regnety_040, as it comes", "regnety_040, fused")
    }
    cit, deit = ([seconds[f"{name}, {kind}"] for kind in ("fp32", "bf16")] for name in students)
    claims = [
        claim(
            "RedNet-101 fused against timm's RegNetY-4GF, each in its best precision",
            best["regnety_040, as it comes"] / best["rednet101, fused"],
            "≥ 1×",
        ),
        claim("RedNet-101 against RegNetY-4GF, both fused", best["regnety_040, fused"] / best["rednet101, fused"]),
        claim("cit_small against timm's DeiT-S distilled, eager, fp32", deit[0] / cit[0], "≥ 0.99×"),
        claim("cit_small against timm's DeiT-S distilled, eager, bf16", deit[1] / cit[1], "≥ 0.99×"),
    ]
    report("inference", options, claims, {"seconds": seconds})


@torch.inference_mode()
def _answer(model: nn.Module, x: torch.Tensor, kind: str) -> torch.Tensor:
    with torch.autocast(x.device.type, torch.bfloat16, enabled=kind == "bf16"):
        return model(x)


if __name__ == "__main__":
    main()
