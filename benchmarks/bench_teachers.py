"""One training step of small teachers at 32 px, as `coadvise train` makes it: channels-last memory against contiguous.

python benchmarks/bench_teachers.py
"""

from __future__ import annotations

import copy

import torch
from side_by_side import agree, arguments, claim, geometric_mean, interleaved, report
from torch import nn
from torch.nn.functional import cross_entropy

from coadvise.build import build_student
from coadvise.cost import DTYPES
from coadvise.experiments.scales import SCALES
from coadvise.preparation import make_optimizer
from coadvise.processes import resolve_precision
from coadvise.recipe import Recipe
from coadvise.recipe_file import recipe_from

SIZE, CLASSES, STEPS = 32, 10, 3
NAMES = ("resnet18", "regnety_006", "rednet26")


class Step:
    """A model and its optimizer under the precision that a run takes by itself."""

    def __init__(self, model: nn.Module, recipe: Recipe, device: torch.device) -> None:
        self.model = model.to(device).train()
        self.optimizer = make_optimizer(self.model, recipe, 1e-4)
        self.dtype = DTYPES[resolve_precision("auto", device.type != "cuda")]

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype is not None):
            logits: torch.Tensor = self.model.forward_tokens(x)["class"]  # type: ignore[operator]
        return logits

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        for _ in range(STEPS):
            cross_entropy(self.logits(x).float(), y).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


def main() -> None:
    options = arguments(__doc__ or "", batch_sizes=(100, 1024))
    device = torch.device(options.device)
    x = torch.randn(options.batch_size, 3, SIZE, SIZE).to(device)
    y = torch.randint(CLASSES, (options.batch_size,)).to(device)
    claims, details, ratios = [], {}, []
    for name in NAMES:
        data = {"source": "-", "image_size": SIZE}
        recipe = recipe_from({"name": "bench", "data": data, "student": SCALES["cifar-cpu"].model(name)})
        torch.manual_seed(0)
        model = build_student(recipe, CLASSES)
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        sides = {"contiguous": Step(model, recipe, device), "channels-last": Step(last, recipe, device)}
        with torch.no_grad():
            a, b = (step.logits(x) for step in sides.values())
        difference = agree(a.float(), b.float(), 5e-2, name)
        times = interleaved({side: lambda step=step: step(x, y) for side, step in sides.items()}, options.rounds)
        ratios.append(times["contiguous"] / times["channels-last"])
        details[name] = {"seconds": {side: t / STEPS for side, t in times.items()}, "difference": difference}
        claims.append(claim(f"training step of {name} at 32 px, channels-last over contiguous", ratios[-1]))
    claims.append(claim("training step of a small teacher, channels-last over contiguous", geometric_mean(ratios)))
    report("teachers", options, claims, details)


if __name__ == "__main__":
    main()
