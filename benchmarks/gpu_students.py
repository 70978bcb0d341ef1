"""`cit_small`'s step on labels alone at 224 px, as `coadvise train cit-s` runs it without teachers; and its forms.

The forms stand beside each other so that the choice of `run.compile: auto` can be judged: student and loss as they are,
with attention and MLP compiled, compiled as one, and as one with CUDA graphs; the rest of the step is the same.

python benchmarks/gpu_students.py --output OUT --work WORK
"""

from __future__ import annotations

import torch
from gpu_common import Part, in_the_way, options_of
from gpu_training import co_advised, in_training
from side_by_side import interleaved

from coadvise.cost.model import matrix_peak

PEAK, SPEED = "cit_small alone, part of the speed of a matrix product", "cit_small alone, images/s"


def main() -> None:
    options = options_of(__doc__ or "")
    part, tiny = Part("students", options), options.tiny
    classes, each, images = (10, 2, 400) if tiny else (1000, 5, 1_000_000)
    part.details["forms"] = forms = {}
    with part.attempt(PEAK, SPEED):
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
            forms["cit_small"] = training.in_forms(each, *([("blocks", "plain")] if tiny else []))
    with part.attempt():
        recipe = co_advised("cit-sak", options.work, tiny).model_copy(update={"teachers": {}})
        with in_training(recipe, images, classes) as training:
            forms["cit_small_sa"] = training.in_forms(each, ("plain",) if tiny else ("whole", "blocks", "plain"))
    part.end()


if __name__ == "__main__":
    main()
