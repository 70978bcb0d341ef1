"""Inference: RedNet-101 against timm's RegNetY-4GF, and `cit_small` against timm's DeiT-S distilled, at 224 px.

Each network in float32 and bfloat16; the teachers as they come, fused, and on a GPU also fused and compiled, as
training uses them there. Before a clock starts, each form is compared with the network as it comes, in float32.

python benchmarks/bench_inference.py [--only teachers]
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import timm
import torch
from side_by_side import agree, arguments, claim, interleaved, kept, precisions, report
from torch import nn

import coadvise  # noqa: F401  (registers the models)
from coadvise.models.compiling import compile_blocks
from coadvise.models.teachers import Teachers

TEACHERS = {"rednet101": "RedNet-101", "regnety_040": "RegNetY-4GF"}
OFF = {"fp32": 1e-3, "bf16": 1e-1}
DTYPES = {"fp32": None, "bf16": torch.bfloat16}


def main() -> None:
    options = arguments(__doc__ or "", only=("teachers", "students"))
    torch.manual_seed(0)
    x = torch.randn(options.batch_size, 3, 224, 224).to(options.device, memory_format=torch.channels_last)
    claims, details = kept("inference", options)
    for name, part in (("teachers", teachers), ("students", students)):
        if options.only in (None, name):
            new, seconds = part(x, options)
            claims = [one for one in claims if one["what"] not in {line["what"] for line in new}] + new
            details["seconds"] = details.get("seconds", {}) | seconds
            report("inference", options, claims, details)


def teachers(x: torch.Tensor, options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """RedNet-101 against RegNetY-4GF: lines of the table, and the seconds of each form."""
    sides, cuda = {}, options.device != "cpu"
    for name in TEACHERS:
        model = timm.create_model(name).eval()
        plain = Teachers({"t": copy.deepcopy(model)}).to(options.device)
        exact = plain(x)["t"]
        kinds = precisions(options.device)
        sides |= {f"{name}, as it comes, {kind}": (plain, kind) for kind in kinds}
        for kind, dtype in ((kind, DTYPES[kind]) for kind in kinds):
            # Fused for this precision; float32 is compiled for nobody.
            for form in ("fused", "fused and compiled") if cuda and kind == "bf16" else ("fused",):
                side = Teachers({"t": copy.deepcopy(model)}).to(options.device)
                assert side.fuse(x[:2], dtype) == ("t",)
                if form != "fused":
                    with torch.autocast(x.device.type, dtype):
                        failed = side.compile(tuple(x.shape))
                    assert side.compiled() == ("t",), failed
                agree(_answer(side, x, kind)["t"], exact, OFF[kind], f"{name}, {form}, {kind}")
                sides[f"{name}, {form}, {kind}"] = (side, kind)
    seconds = interleaved(
        {name: lambda m=model, kind=kind: _answer(m, x, kind) for name, (model, kind) in sides.items()},
        options.rounds, options.device,
    )  # fmt: skip
    best = {
        start: min(value for name, value in seconds.items() if name.startswith(start))
        for start in (*TEACHERS, "rednet101, fused", "regnety_040, as it comes", "regnety_040, fused")
    }
    forms = {name: min((k for k in seconds if k.startswith(name)), key=lambda k: seconds[k]) for name in TEACHERS}
    how = ", ".join(f"{word}: {forms[name].partition(', ')[2]}" for name, word in TEACHERS.items())
    lines = [
        claim(
            "RedNet-101 fused against timm's RegNetY-4GF, each in its best precision",
            best["regnety_040, as it comes"] / best["rednet101, fused"], "≥ 1×",
        ),
        claim("RedNet-101 against RegNetY-4GF, both fused", best["regnety_040, fused"] / best["rednet101, fused"]),
        claim("RedNet-101 against RegNetY-4GF, each in its best form", best["regnety_040"] / best["rednet101"],
              "≥ 0.8×" if cuda else "", why=how),
    ]  # fmt: skip
    return lines, seconds


def students(x: torch.Tensor, options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """`cit_small` against DeiT-S distilled: lines of the table, and seconds."""
    networks: dict[str, nn.Module] = {
        name: timm.create_model(name).eval().to(options.device)
        for name in ("cit_small", "deit_small_distilled_patch16_224")
    }
    cit, deit = networks
    for name in (cit, deit):
        networks[f"{name}, compiled"] = faster = copy.deepcopy(networks[name])
        compile_blocks(faster)
        for kind in precisions(options.device):
            agree(_answer(faster, x, kind), _answer(networks[name], x, "fp32"), OFF[kind], f"{name}, compiled, {kind}")
    sides = {
        f"{name}, {kind}": lambda m=model, kind=kind: _answer(m, x, kind)
        for name, model in networks.items()
        for kind in precisions(options.device)
    }
    seconds = interleaved(sides, 4 * options.rounds, options.device)
    lines = [
        claim(
            f"cit_small against timm's DeiT-S distilled, {how or 'eager'}, {kind}",
            seconds[f"{deit}{how and ', ' + how}, {kind}"] / seconds[f"{cit}{how and ', ' + how}, {kind}"],
            "≥ 0.99×",
        )
        for how in ("", "compiled")
        for kind in precisions(options.device)
    ]
    return lines, seconds


@torch.no_grad()  # not in inference mode: teachers are not compiled for it
def _answer(model: nn.Module, x: torch.Tensor, kind: str) -> Any:
    with torch.autocast(x.device.type, torch.bfloat16, enabled=kind == "bf16"):
        return model(x)


if __name__ == "__main__":
    main()
