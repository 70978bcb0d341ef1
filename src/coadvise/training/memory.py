"""What is said when memory is not enough for a step: how many images at once would fit."""

from __future__ import annotations

import gc
import traceback

import torch

from ..errors import RunError, one_line, out_of_memory
from .setup import Setup
from .state import State


def too_large(setup: Setup, state: State, error: BaseException) -> RunError:
    """The message about a step that needed more memory than there is. It tries smaller ones; the run cannot go on."""
    traceback.clear_frames(error.__traceback__)  # they hold on to the step's tensors
    optim, folder = setup.optim, setup.folder
    images = optim.batch_size // (setup.accelerator.num_processes * optim.accumulate)
    parts = 2
    while images % parts == 0 and not _fits(setup, state, images // parts):
        parts *= 2
    advice = "give a smaller optim.batch_size, data.image_size or model"
    if images % parts == 0:
        advice = f"{images // parts} would fit: optim.accumulate={optim.accumulate * parts} makes the same updates"
        if folder.last.is_file():
            advice += ", in a new run (run.output=FOLDER)"
    return RunError(f"out of memory with {images} images at once; {advice} ({one_line(error)[:200]})")


def _fits(setup: Setup, state: State, images: int) -> bool:
    """Whether there is memory to learn from so many images at once, on this process alone.

    `grad` in place of `backward`, on which DistributedDataParallel would wait for the others.
    """
    device, size = setup.accelerator.device, setup.loader.data.image_size
    state.optimizer.zero_grad()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        # As the loader's are in memory: convolutions need another room where channels come first.
        batch = torch.zeros(images, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
        with setup.accelerator.autocast():
            setup.validation.teachers(batch)
            logits = state.student.forward_tokens(batch)  # type: ignore[operator]
        total = torch.stack([one.float().sum() for one in logits.values()]).sum()
        learnt = [parameter for parameter in state.student.parameters() if parameter.requires_grad]
        torch.autograd.grad(total, learnt, allow_unused=True)
    except (RuntimeError, MemoryError, ValueError) as error:
        if not out_of_memory(error) and not isinstance(error, ValueError):  # BatchNorm of a single image
            raise
        return False
    return True
