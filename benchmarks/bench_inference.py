"""Inference: RedNet-101 against timm's RegNetY-4GF, and `cit_small` against timm's DeiT-S distilled, at 224 px.

Each network in float32 and bfloat16; the teachers fused, as training uses them, against timm's model as it comes.

python benchmarks/bench_inference.py
"""

from __future__ import annotations

import copy

import timm
import torch
from side_by_side import arguments, claim, interleaved, report
from torch import nn

import coadvise  # noqa: F401  (registers the models)
from coadvise.models.compiling import compile_blocks
from coadvise.models.fuse import fused


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
    compiled = {}
    for name, model in students.items():
        faster = copy.deepcopy(model)
        compile_blocks(faster, True, torch.device(options.device), 0)
        compiled[f"{name}, compiled"] = faster
    seconds = {}
    for group, rounds in ((teachers, options.rounds), (students | compiled, 4 * options.rounds)):
        sides = {
            f"{name}, {kind}": lambda m=model, kind=kind: _answer(m, x, kind)
            for name, model in group.items()
            for kind in ("fp32", "bf16")
        }
        seconds |= interleaved(sides, rounds, options.device)
    best = {
        start: min(value for name, value in seconds.items() if name.startswith(start))
        for start in ("rednet101, fused", "regnety_040, as it comes", "regnety_040, fused")
    }
    claims = [
        claim(
            "RedNet-101 fused against timm's RegNetY-4GF, each in its best precision",
            best["regnety_040, as it comes"] / best["rednet101, fused"],
            "≥ 1×",
        ),
        claim("RedNet-101 against RegNetY-4GF, both fused", best["regnety_040, fused"] / best["rednet101, fused"]),
    ]
    cit, deit = students
    claims += [
        claim(
            f"cit_small against timm's DeiT-S distilled, {how or 'eager'}, {kind}",
            seconds[f"{deit}{how and ', ' + how}, {kind}"] / seconds[f"{cit}{how and ', ' + how}, {kind}"],
            "≥ 0.99×",
        )
        for how in ("", "compiled")
        for kind in ("fp32", "bf16")
    ]
    report("inference", options, claims, {"seconds": seconds})


@torch.inference_mode()
def _answer(model: nn.Module, x: torch.Tensor, kind: str) -> torch.Tensor:
    with torch.autocast(x.device.type, torch.bfloat16, enabled=kind == "bf16"):
        return model(x)


if __name__ == "__main__":
    main()
