"""`cit_small`'s step on labels alone at 224 px, as `coadvise train cit-s` runs it without teachers; and its forms.

The forms stand beside each other so that the choice of `run.compile: auto` can be judged: the same student, loss and
AdamW eager, with attention and MLP compiled, compiled as a whole, and as a whole with CUDA graphs.

python benchmarks/gpu_students.py --output OUT --work WORK
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gpu_common import Part, in_the_way, options_of
from gpu_training import Training, co_advised, in_training, plain_copy, random_batch
from side_by_side import interleaved
from timm.optim import create_optimizer_v2
from torch import nn

import coadvise
from coadvise.cost.model import matrix_peak
from coadvise.models.compiling import compile_blocks
from coadvise.system.clock import seconds_of
from coadvise.system.devices import autocast_dtype

FORMS = ("eager", "attention and MLP", "whole", "whole, CUDA graphs")
PEAK, SPEED = "cit_small alone, part of the speed of a matrix product", "cit_small alone, images/s"


def in_form(form: str, student: nn.Module, batch: Any, dtype: torch.dtype | None) -> Callable[[], None]:
    """A step of a student in one form: forward, Eq. 1 on labels, backward, fused AdamW."""
    device = batch.images.device
    optimizer = create_optimizer_v2(student, opt="adamw", lr=1e-5, weight_decay=0.05, fused=True)

    def loss(images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            logits = student.forward_tokens(images)  # type: ignore[operator]
        return coadvise.co_advise_loss(logits, {}, target).total

    whole: Callable[..., torch.Tensor] = loss
    if form == FORMS[1]:
        compile_blocks(student, True, device, 0)
    elif form != FORMS[0]:
        whole = torch.compile(loss, mode="reduce-overhead" if form == FORMS[3] else None)

    def step() -> None:
        whole(batch.images, batch.target).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def forms(training: Training, classes: int, part: Part, times: int, only: tuple[str, ...] = FORMS) -> dict[str, float]:
    """Images/s of a student in each form, of a group of steps; what a form needs to be compiled is told beside it."""
    device, recipe = training.setup.accelerator.device, training.recipe
    batch = random_batch(recipe.optim.batch_size, recipe.data.image_size, classes, device, 0)
    dtype, found = autocast_dtype(training.setup.accelerator), dict[str, float]()
    place = part.details.setdefault("forms", {}).setdefault(recipe.student.model, {})
    for form in only:
        if form == FORMS[3] and device.type != "cuda":
            continue
        torch._dynamo.reset()
        step = in_form(form, plain_copy(training, classes)[0], batch, dtype)
        with part.attempt():
            first = seconds_of(step, device, 1)
            seconds = interleaved({form: lambda step=step: [step() for _ in range(times)]}, 3, str(device))[form]
            found[form] = times * recipe.optim.batch_size / seconds
            place[form] = {"images_per_s": found[form], "first_s": first}
            print(f"  {recipe.student.model}, {form}: {found[form]:,.0f} images/s", flush=True)
            part.write()
    return found


def main() -> None:
    options = options_of(__doc__ or "")
    part, tiny = Part("students", options), options.tiny
    classes, each, images = (10, 2, 400) if tiny else (1000, 5, 1_000_000)
    whats = (PEAK, SPEED)
    with part.attempt(*whats):
        peak = matrix_peak(torch.device(options.device), torch.bfloat16)
        recipe = co_advised("cit-s", options.work, tiny).model_copy(update={"teachers": {}})
        with in_training(recipe, images, classes) as training:
            training.steps(2)
            part.details |= {"matrix_flops_per_s": peak, "form": training.form}
            sides = {"cit_small": lambda: training.steps(each)}
            seconds = interleaved(sides, options.rounds, options.device)["cit_small"] / each
            profile, floor = training.profile(), training.operations / peak
            part.details |= {"seconds": seconds, "profile": profile, "operations": training.operations}
            part.measured(PEAK, 100 * floor / seconds, in_the_way(profile, floor))
            part.measured(SPEED, recipe.optim.batch_size / seconds)
            forms(training, classes, part, each)
    with part.attempt():
        recipe = co_advised("cit-sak", options.work, tiny).model_copy(update={"teachers": {}})
        with in_training(recipe, images, classes) as training:
            forms(training, classes, part, each, FORMS[:1] if tiny else FORMS)
    part.end()


if __name__ == "__main__":
    main()
