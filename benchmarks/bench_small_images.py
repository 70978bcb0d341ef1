"""Training a Ti student on 64 px images with patches of 8 and advice given: images/s, and how busy the device is.

The step is what `coadvise train` runs on a small set: images kept as 8-bit pixels on the device, cropped, flipped and
mixed there, forward, Eq. 1 with advice of two teachers that is there already, backward, AdamW.

python benchmarks/bench_small_images.py
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import torch
from bench_cache import CLASSES, Pictures
from side_by_side import arguments, claim, report
from torch.autograd import DeviceType

from coadvise.checkpoints.build import build_student
from coadvise.data.loader import TrainLoader
from coadvise.losses import co_advise_loss
from coadvise.models.compiling import WORTHWHILE_STEPS, compile_blocks, plain_attention
from coadvise.recipe.reading import recipe_from
from coadvise.system.clock import seconds_of, synchronize
from coadvise.system.devices import DTYPES, resolve_precision
from coadvise.training.optimizer import make_optimizer

STEPS = 10


def main() -> None:
    options = arguments(__doc__ or "", batch_sizes=(64, 1024))
    device = torch.device(options.device)
    cuda = device.type == "cuda"
    batch_size, dtype = options.batch_size, DTYPES[resolve_precision("auto", not cuda)]
    recipe = recipe_from(
        {
            "name": "bench",
            "data": {"source": "-", "image_size": 64, "workers": 0, "augment": {"policy": "light"}},
            "student": {
                "model": "cit_tiny",
                "options": {"patch_size": 8},
                "tokens": {"conv": "conv", "inv": "inv"},
            },
            "optim": {"batch_size": batch_size},
        }
    )
    torch.manual_seed(0)
    student = build_student(recipe.student, recipe.tokens(), CLASSES, recipe.data.image_size).to(device).train()
    plain_attention(student, device, dtype)
    compile_blocks(student, "auto", device, WORTHWHILE_STEPS)
    optimizer = make_optimizer(student, recipe.optim)
    loader = TrainLoader(Pictures(64, STEPS * batch_size), recipe.data, batch_size, device=device)
    batches = itertools.chain.from_iterable(map(loader.epoch, itertools.count()))
    advice = {name: torch.randn(batch_size, CLASSES, device=device) for name in ("conv", "inv")}

    def steps() -> None:
        for batch in itertools.islice(batches, STEPS):
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                logits = student.forward_tokens(batch.images)
            co_advise_loss(logits, advice, batch.target).total.backward()
            optimizer.step()
            optimizer.zero_grad()

    seconds = seconds_of(steps, device, options.rounds)
    speed = STEPS * batch_size / seconds
    goal = "≥ 40,000 images/s" if cuda else ""
    claims = [claim("training on 64 px images, Ti student, advice given", speed, goal, " images/s")]
    if cuda:
        claims.append(claim("device busy meanwhile", 100 * _busy(steps, device), "≥ 90 %", " %"))
    loader.close()
    report("small_images", options, claims, {"seconds_per_step": seconds / STEPS, "precision": str(dtype)})


def _busy(run: Callable[[], None], device: torch.device) -> float:
    """Share of the time in which at least one kernel runs, by PyTorch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        start = time.perf_counter()
        run()
        synchronize(device)
        seconds = time.perf_counter() - start
    spans = sorted((event.time_range.start, event.time_range.end) for event in profile.events()
                   if event.device_type == DeviceType.CUDA and not event.is_user_annotation)  # fmt: skip
    busy, reached = 0.0, float("-inf")
    for begin, end in spans:
        busy += max(end - max(begin, reached), 0.0)
        reached = max(reached, end)
    return busy / 1e6 / seconds


if __name__ == "__main__":
    main()
