"""A Ti student on 64 px images, patches of 8, with advice that is there: images/s of the training loop, loader and all.

The loop is that of `coadvise train`: images kept as 8-bit pixels on the device, cropped, flipped and mixed there, Eq. 1
with advice of two teachers, AdamW. On a GPU the same student stands beside it in each form that compilation offers.

python benchmarks/bench_small_images.py
"""

from __future__ import annotations

import torch
from gpu_common import Part, count_waits, in_the_way, options_of
from gpu_training import in_training
from side_by_side import interleaved

from coadvise.cost.model import matrix_peak
from coadvise.recipe.reading import recipe_from
from coadvise.recipe.schema import Recipe

SPEED, BUSY = "training on 64 px images, Ti student, advice given", "device busy meanwhile"


def small_recipe(tiny: bool, batch_size: int, teachers: bool = True) -> Recipe:
    """A Ti student with patches of 8 on images of 64 px, advised by two small networks from the cache."""
    teacher = {"model": "resnet10", "options": {"channels": [8, 8, 8, 8]}, "small_stem": True, "pretrained": True}
    shape = {"depth": 2, "embed_dim": 32, "num_heads": 2} if tiny else {}
    return recipe_from(
        {
            "name": "small",
            "data": {
                "source": "-", "image_size": 16 if tiny else 64, "views": 2,
                "workers": 8 if torch.cuda.is_available() else 0,
                "augment": {"policy": "light", "mixup": 0.8, "cutmix": 1.0},
            },
            "student": {"model": "cit_tiny", "options": {"patch_size": 8, **shape},
                        "tokens": {"conv": "conv", "inv": "inv"}},
            "teachers": {"conv": {**teacher, "bias": "conv"}, "inv": {**teacher, "bias": "inv"}} if teachers else {},
            "advice": {"source": "cache"} if teachers else {},
            "optim": {"batch_size": batch_size},
            "schedule": {"epochs": 500},
        }
    )  # fmt: skip


def main() -> None:
    options = options_of(__doc__ or "")
    part, tiny = Part("small_images", options), options.tiny
    device = torch.device(options.device)
    cuda = device.type == "cuda"
    classes, images, batch = (10, 64, 16) if tiny else (100, 61_440, 1024) if cuda else (100, 640, 64)
    with part.attempt(SPEED, *([BUSY] if cuda else [])):
        peak = matrix_peak(device, torch.bfloat16 if cuda else torch.float32)
        recipe = small_recipe(tiny, batch)
        with in_training(recipe, images, classes, held=0) as training:
            training.steps(3)
            training.epoch()  # from here on whole ones: the pipeline starts anew with each, as in training
            each = training.per_epoch
            part.details |= {"matrix_flops_per_s": peak, "form": training.form}
            sides = {"loop": training.epoch}
            seconds = interleaved(sides, options.rounds, options.device)["loop"] / each
            profile, floor = training.profile(each), training.operations / peak
            waits = count_waits(lambda: training.steps(3, logged=False))
            part.details |= {"seconds": seconds, "profile": profile, "operations": training.operations, "waits": waits}
            part.measured(SPEED, batch / seconds, in_the_way(profile, floor))
            if cuda:
                reached = ", ".join(f"waits at {place} {count}" for place, count in waits.items())
                part.measured(BUSY, 100 * (profile.busy or 0.0), reached)
            if cuda or tiny:
                part.details["forms"] = training.in_forms(None, *([("blocks", "plain")] if tiny else []))
    part.end()


if __name__ == "__main__":
    main()
