"""Run by the distributed tests under torchrun: train, and get Ctrl-C in one process after so many updates."""

import os
import signal
import sys
from typing import Any

import torch

from coadvise.errors import Interrupted
from coadvise.recipe.reading import load_recipe
from coadvise.system.progress import Display
from coadvise.training.train import train

torch.set_num_threads(1)
wanted, seen = int(sys.argv[2]), 0
original = torch.optim.AdamW.step


def counting_step(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
    global seen
    seen += 1
    if seen == wanted and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGINT)
    return original(self, *args, **kwargs)


torch.optim.AdamW.step = counting_step  # type: ignore[method-assign]
try:
    train(load_recipe(sys.argv[1]), display=Display(quiet=True))
except Interrupted as stop:
    print(stop, file=sys.stderr)
