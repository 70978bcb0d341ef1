"""The co-advised step of CiT-S-SA, RegNetY-4GF and RedNet-101 at 224 px, as `coadvise train cit-sak` runs it.

Against the plain baseline (eager float32, involution by unfold, teachers as they come), against its own student's step
on labels alone, and against the speed of a matrix product. Before a clock starts, losses and gradients of one step are
compared with the plain way, the losses in float64. Drop path is off on all sides, so that they compute the same.

python benchmarks/gpu_step.py --output OUT --work WORK
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from baseline import by_unfold
from gpu_common import Part, count_waits, in_the_way, options_of, poison
from gpu_training import Training, co_advised, in_training, plain_copy
from side_by_side import agree, interleaved
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

import coadvise
from coadvise.cost.model import matrix_peak
from coadvise.data.views.finish import Batch
from coadvise.models.teachers import Teachers
from coadvise.training.loop import train_step

LOSSES, TERM, ADVICE, GRADIENTS = 5e-2, 0.1, 0.2, 0.95
"""What bfloat16 may be off: of the largest loss; of each term (and 0.01); of the teachers' logits, in their norm. And
the cosine of the gradients that is demanded."""
RATIO = "co-advised step, bf16, against the plain baseline"
MEMORY = "peak memory of the {}"
LABELS = "live co-advised step over the labels-only step of its student"
PEAK = "co-advised {}, part of the speed of a matrix product"
WAITS = "waits of the host for the device in a step, between log lines"


class Plain:
    """The plain way, from the published description."""

    def __init__(self, student: nn.Module, teachers: Teachers) -> None:
        self.student, self.teachers = student, teachers
        self.optimizer = create_optimizer_v2(student, opt="adamw", lr=1e-5, weight_decay=0.05)

    def terms(self, batch: Batch) -> coadvise.LossTerms:
        """Eq. 1 by the public functions."""
        with by_unfold():
            return coadvise.co_advise_loss(
                self.student.forward_tokens(batch.images),  # type: ignore[operator]
                self.teachers(batch.images), batch.target,
            )  # fmt: skip

    def step(self, batch: Batch) -> None:
        """Forward, backward, AdamW."""
        with by_unfold():
            self.terms(batch).total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def exact(plain: Plain, batch: Batch, share: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its terms, and the advice, in float64; teachers look at `share` images at a time."""
    student, members = copy.deepcopy(plain.student).double(), copy.deepcopy(plain.teachers).double()
    images = batch.images.double()
    with torch.no_grad(), by_unfold():
        parts = [members(part) for part in images.split(share)]
        advice = {name: torch.cat([part[name] for part in parts]) for name in members.names}
        logits = student.forward_tokens(images)  # type: ignore[operator]
        terms = coadvise.co_advise_loss(logits, advice, batch.target.double())
    return torch.stack([terms.total, *terms.values()]).double(), advice


def checked(training: Training, plain: Plain, batch: Batch) -> dict[str, Any]:
    """One step of the training beside the plain way, from the same weights: its losses, its advice, its gradients.

    Raises:
        SystemExit: they do not compute the same.
    """
    wanted, logits = exact(plain, batch, 32)
    plain.terms(batch).total.backward()
    expected = {name: one.grad for name, one in plain.student.named_parameters() if one.grad is not None}
    found = dict[str, Tensor]()

    def look(*_: Any) -> None:
        own = training.state.student.named_parameters()
        found.update({name: one.grad.float().clone() for name, one in own if one.grad is not None})

    poison(batch.images.device)
    optimizer = getattr(training.state.optimizer, "optimizer", training.state.optimizer)
    hook = optimizer.register_step_pre_hook(look)
    values = train_step(training.setup, training.state, batch).values.double()
    hook.remove()
    advice = training.setup.advise(batch)
    plain.optimizer.zero_grad()
    if batch.images.is_cuda:
        torch.cuda.empty_cache()
    cosines = {name: _cosine(found[name], one) for name, one in expected.items()}
    facts = {
        "losses": values.tolist(), "in float64": wanted.tolist(),
        "losses off by": agree(values, wanted, LOSSES, "loss of the co-advised step"),
        "advice off by": {name: float((one.double() - logits[name]).norm() / logits[name].double().norm())
                          for name, one in advice.items()},
        "cosine of the gradients": _cosine(*(torch.cat([side[name].flatten() for name in expected])
                                             for side in (found, expected))),
        "parameters with the lowest cosine": dict(sorted(cosines.items(), key=lambda item: item[1])[:5]),
    }  # fmt: skip
    if not bool(((values - wanted).abs() <= TERM * wanted.abs() + 0.01).all()):
        raise SystemExit(f"loss terms are {values.tolist()}, in float64 {wanted.tolist()}")
    if not all(off <= ADVICE for off in facts["advice off by"].values()):
        raise SystemExit(f"the teachers' logits are off by {facts['advice off by']}")
    if not facts["cosine of the gradients"] >= GRADIENTS:
        raise SystemExit(f"the gradients' cosine is {facts['cosine of the gradients']:.4f}, less than {GRADIENTS}")
    return facts


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0))


def peak_gib(run: Callable[[], Any], before: int) -> float | None:
    """Device memory at the peak of a call beyond `before` bytes; None on the CPU."""
    if not torch.cuda.is_available():
        run()
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def in_use() -> int:
    """Bytes of device memory."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def timed(part: Part, sides: dict[str, Callable[[], Any]], times: dict[str, int]) -> dict[str, float]:
    """Seconds of a step of each side, in turns; of a training `times` steps in a row are one turn."""
    options = part.options
    found = interleaved(sides, options.rounds, options.device)
    return {name: seconds / times.get(name, 1) for name, seconds in found.items()}


def against_plain(part: Part, training: Training, classes: int, each: int, before: int) -> float:
    """Memory, the check, the ratio, the profile; gives the seconds of a co-advised step."""
    training.steps(2)  # compiles
    part.details["form"] = training.form
    gib = peak_gib(lambda: training.steps(2), before)
    batch = next(training.setup.loader.epoch(0))
    own = in_use()
    plain = Plain(*plain_copy(training, classes))
    part.details["check"] = checked(training, plain, batch)
    plain_gib = peak_gib(lambda: plain.step(batch), own)
    sides = {"co-advised": lambda: training.steps(each), "plain": lambda: plain.step(batch)}
    seconds = timed(part, sides, {"co-advised": each})
    part.details["seconds"] = seconds
    part.measured(RATIO, seconds["plain"] / seconds["co-advised"])
    for what, value in (("co-advised step", gib), ("plain baseline", plain_gib)):
        part.measured(MEMORY.format(what), value, "" if value else "of a GPU alone")
    profile = training.profile()
    floor = training.operations / part.details["matrix_flops_per_s"]
    part.details |= {"profile": profile, "operations": training.operations}
    form = training.form
    chosen = f"{form['compiled']}, teachers compiled: {', '.join(form['teachers compiled']) or 'none'}; "
    part.measured(RATIO, seconds["plain"] / seconds["co-advised"], chosen + in_the_way(profile, floor))
    part.measured(PEAK.format("step, bf16"), 100 * floor / seconds["co-advised"])
    waits = count_waits(lambda: training.steps(3, logged=False))
    part.details["waits"] = waits
    part.measured(WAITS, sum(waits.values()) / 3 if torch.cuda.is_available() else None,
                  ", ".join(f"{place} {count}" for place, count in waits.items()))  # fmt: skip
    return seconds["co-advised"]


def main() -> None:
    options = options_of(__doc__ or "")
    part, tiny = Part("step", options), options.tiny
    recipe, classes = co_advised("cit-sak", options.work, tiny), 10 if tiny else 1000
    each, images = (2, 400) if tiny else (5, 1_000_000)
    whats = (RATIO, MEMORY.format("co-advised step"), MEMORY.format("plain baseline"), WAITS, PEAK.format("step, bf16"))
    with part.attempt(*whats, LABELS, PEAK.format("student alone")), ExitStack() as stack:
        part.details["matrix_flops_per_s"] = peak = matrix_peak(torch.device(options.device), torch.bfloat16)
        before = in_use()
        training = stack.enter_context(in_training(recipe, images, classes))
        with part.attempt(*whats):
            against_plain(part, training, classes, each, before)
        gc.collect()
        labels = stack.enter_context(in_training(recipe.model_copy(update={"teachers": {}}), images, classes))
        labels.steps(2)
        sides = {"co-advised": lambda: training.steps(each), "labels": lambda: labels.steps(each)}
        seconds = timed(part, sides, {"co-advised": each, "labels": each})
        profile, floor = labels.profile(), labels.operations / peak
        part.details |= {"labels": {"seconds": seconds, "profile": profile, "operations": labels.operations,
                                    "form": labels.form}}  # fmt: skip
        part.measured(LABELS, seconds["co-advised"] / seconds["labels"])
        part.measured(PEAK.format("student alone"), 100 * floor / seconds["labels"], in_the_way(profile, floor))
    part.end()


if __name__ == "__main__":
    main()
