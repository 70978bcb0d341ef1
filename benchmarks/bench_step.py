"""One co-advised training step of `cit_small_sa` with RegNetY-4GF and RedNet-101 at 224 px, against the plain baseline.

The step is what `coadvise train` runs: live teachers, Eq. 1, backward, AdamW. The baseline computes the same in eager
float32 with unfold involution, plain stems and teachers as they were trained. On the CPU each side has the memory that
it has in a run of its own: kept from step to step in training, as glibc has it in the baseline.

python benchmarks/bench_step.py
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable

import timm
import torch
from baseline import by_unfold, usual_memory
from side_by_side import agree, arguments, claim, interleaved, precisions, report
from timm.optim import create_optimizer_v2
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import coadvise
from coadvise.cost.model import matrix_peak
from coadvise.models.compiling import plain_attention
from coadvise.models.teachers import Teachers
from coadvise.system.allocator import keep_freed_memory


class Step:
    """Student, teachers and optimizer of one side."""

    def __init__(self, student: nn.Module, teachers: Teachers, fast: bool, bf16: bool) -> None:
        self.student, self.teachers, self.fast, self.bf16 = student.train(), teachers, fast, bf16
        self.optimizer = create_optimizer_v2(student, opt="adamw", lr=1e-5, weight_decay=0.05, fused=fast)

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with contextlib.nullcontext() if self.fast else by_unfold():
            terms = self.terms(x, y)
            terms.total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return terms.total.detach()

    def alone(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The step on labels alone, through the same heads."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            total = coadvise.co_advise_loss(self.student.forward_tokens(x), {}, y).total
        total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total.detach()

    def terms(self, x: torch.Tensor, y: torch.Tensor) -> coadvise.LossTerms:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            advice = self.teachers(x)
            return coadvise.co_advise_loss(self.student.forward_tokens(x), advice, y)


def main() -> None:
    options = arguments(__doc__ or "")
    torch.manual_seed(0)
    student = timm.create_model("cit_small_sa", drop_path_rate=0.0)
    models = {"conv": timm.create_model("regnety_040"), "inv": timm.create_model("rednet101")}
    x = torch.randn(options.batch_size, 3, 224, 224).to(options.device)
    y = torch.randint(1000, (options.batch_size,)).to(options.device)
    steps = {}
    ours = {f"coadvise {kind}": kind == "bf16" for kind in precisions(options.device)}
    for name, fast, bf16 in (("baseline", False, False), *((name, True, bf16) for name, bf16 in ours.items())):
        teachers = Teachers(copy.deepcopy(models)).to(options.device)
        dtype = torch.bfloat16 if bf16 else None
        if fast:
            assert teachers.fuse(x[:2], dtype) == ("conv", "inv")
        steps[name] = Step(copy.deepcopy(student).to(options.device), teachers, fast, bf16)
        if fast:
            plain_attention(steps[name].student, torch.device(options.device), dtype)
    with torch.no_grad(), by_unfold():
        expected = steps["baseline"].terms(x, y)
    for name, bf16 in ours.items():
        with torch.no_grad():
            found = steps[name].terms(x, y)
        agree(torch.stack(list(found.values())), torch.stack(list(expected.values())), 5e-2 if bf16 else 1e-4, name)
    images = {name: _images(x, step.fast) for name, step in steps.items()}

    def before(name: str) -> None:
        if options.device != "cpu":
            return
        if steps[name].fast:
            keep_freed_memory()
            steps[name](images[name], y)  # until what is kept is what a step needs
        else:
            usual_memory()

    sides = {name: lambda s=step, n=name: s(images[n], y) for name, step in steps.items()}
    seconds = interleaved(sides, options.rounds, options.device, before)
    parts = interleaved(
        {
            "teacher RegNetY-4GF, baseline": lambda: steps["baseline"].teachers.members[0](x),
            "teacher RegNetY-4GF, fused": lambda: steps["coadvise fp32"].teachers.members[0](x),
            "teacher RedNet-101, baseline": lambda: _unfolded(steps["baseline"].teachers.members[1], x),
            "teacher RedNet-101, fused": lambda: steps["coadvise fp32"].teachers.members[1](x),
        },
        max(options.rounds // 2, 2), options.device,
    )  # fmt: skip
    last = [*ours][-1]
    kind = last.split()[1]
    alone = interleaved({"student": lambda: steps[last].alone(x, y)}, options.rounds, options.device)
    base = seconds["baseline"]
    goal = "≥ 2.5×" if options.device == "cpu" else "≥ 6×"
    claims = [
        claim(f"co-advised step, {name.split()[1]}, against the plain baseline", base / seconds[name], goal)
        for name in ours
    ]
    cuda = options.device != "cpu"
    peak = matrix_peak(torch.device(options.device), torch.bfloat16 if ours[last] else torch.float32)
    flops = {"step": _flops(lambda: steps[last](x, y)), "student": _flops(lambda: steps[last].alone(x, y))}
    for name, time, goal in (("step", seconds[last], 20), ("student", alone["student"], 30)):
        what = f"co-advised {name}, {kind}, part of the speed of a matrix product"
        claims.append(claim(what, 100 * flops[name] / time / peak, f"≥ {goal} %" if cuda else "", " %"))
    details = {"seconds": seconds | {f"student alone, {kind}": alone["student"]}, "parts": parts, "flops": flops,
               "matrix_flops_per_s": peak}  # fmt: skip
    report("step", options, claims, details)


def _images(x: torch.Tensor, fast: bool) -> torch.Tensor:
    """Channels-last in training, as its loader gives them; as PyTorch's own loader does in the baseline."""
    return x.contiguous(memory_format=torch.channels_last) if fast else x


def _flops(run: Callable[[], object]) -> int:
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # fused attention is not counted on every device
        run()
    return counter.get_total_flops()


def _unfolded(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with by_unfold():
        return model(x)


if __name__ == "__main__":
    main()
