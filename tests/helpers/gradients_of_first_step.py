"""Run by the distributed tests, alone or under torchrun: gradients of the first update, before clipping."""

import sys
from typing import Any

import torch
from safetensors.torch import save_file

from coadvise.recipe.reading import load_recipe
from coadvise.system.progress import Display
from coadvise.training.train import train

torch.set_num_threads(1)
recipe, output = load_recipe(sys.argv[1]), sys.argv[2]
gradients: dict[str, torch.Tensor] = {}
original = torch.optim.AdamW.step


def recording_step(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
    if not gradients:
        for i, parameter in enumerate(p for group in self.param_groups for p in group["params"]):
            assert parameter.grad is not None, f"parameter {i} of shape {tuple(parameter.shape)} got no gradient"
            gradients[str(i)] = parameter.grad.detach().clone()
    return original(self, *args, **kwargs)


torch.optim.AdamW.step = recording_step  # type: ignore[method-assign]
train(recipe, display=Display(quiet=True))
rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
save_file(gradients, f"{output}.{rank}.safetensors")
