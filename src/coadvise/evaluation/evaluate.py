"""Evaluation: accuracy of every token, and its divergence from each teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from ..data.views.finish import Batch
from .metrics import Sums, means
from .tasks import TASKS, Task

Keep = Callable[[Batch, Mapping[str, Tensor], Mapping[str, Tensor]], None]
"""Takes a batch and the logits (b, k) of its tokens and of its teachers, by name."""


@torch.no_grad()
def evaluate(
    forward_tokens: Callable[[Tensor], Mapping[str, Tensor]],
    batches: Iterable[Batch],
    *,
    tokens: Iterable[str],
    device: torch.device,
    teachers: Callable[[Tensor], Mapping[str, Tensor]] | None = None,
    teacher_names: Iterable[str] = (),
    reduce: Callable[[Tensor], Tensor] = lambda state: state,
    advance: Callable[[int], None] = lambda samples: None,
    keep: Keep = lambda batch, tokens, advice: None,
    task: Task = TASKS["one"],
) -> tuple[dict[str, float], int]:
    """Evaluate over all samples of all processes.

    Args:
        forward_tokens: images (b, 3, h, w) → logits by token, of a model in evaluation mode.
        batches: this process's share of the validation set, each sample once.
        reduce: sums a float64 tensor over the processes.
        advance: called with the number of samples done, for a progress bar.
        keep: called with each batch and the logits of its tokens and teachers.
        task: what is measured.

    Returns:
        Metrics as in `metrics.batch_metrics`, or what `task` measures, and the number of unreadable images that were
        left out.
    """
    sums, skipped = Sums(), 0
    for batch in batches:
        skipped += len(batch.skipped)
        if len(batch.label) == 0:
            continue
        images = batch.images
        advice = teachers(images) if teachers is not None else {}
        logits = forward_tokens(images)
        for name, values in task.measure(logits, advice, batch).items():
            sums.add(name, values)
        keep(batch, logits, advice)
        advance(len(batch.label))
    names = task.names(tokens, teacher_names)
    state = torch.cat([sums.state(names, device), torch.tensor([[skipped, 0.0]], dtype=torch.float64, device=device)])
    state = reduce(state)
    return means(names, state[:-1]), int(state[-1, 0])
