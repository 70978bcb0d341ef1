"""Images on which a teacher counts by chance (`loss.gate: random` and `harder`).

What is drawn belongs to the view, as all else that is drawn of an image: it follows from the data seed, the view, the
place of the image in it and the teacher's place among the teachers. So it is the same for live and stored advice,
for any batch size, micro-batches and processes, and after a resume; and it recurs with a view that recurs. Each
teacher has a draw of its own, so that an image may be left without any advice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..data.views.draws import Stream, uniforms
from ..data.views.finish import Batch
from ..losses import Kept
from ..recipe.schema import Loss

Choose = Callable[[Batch], Kept]
"""By teacher, the images of a batch that are kept, (b,); nothing where all are, or none beside those the loss finds."""


def all_kept(batch: Batch) -> Kept:
    """Nothing is left to chance."""
    return {}


def kept_by_chance(settings: Loss, seed: int, teachers: Sequence[str], device: torch.device) -> Choose:
    """What a recipe leaves to chance.

    Args:
        seed: of the data.
        teachers: names under which advice comes, in order.
    """
    drop = settings.drop
    if settings.gate not in ("random", "harder") or drop == (1 if settings.gate == "harder" else 0):
        return all_kept

    def choose(batch: Batch) -> Kept:
        place = batch.position
        drawn = uniforms(Stream.GATE, seed, batch.view, place, np.zeros_like(place), len(teachers))
        kept = torch.from_numpy(np.greater_equal(drawn.T, drop, order="C"))
        if device.type == "cuda":  # otherwise the copy waits for the device
            kept = kept.pin_memory()
        return dict(zip(teachers, kept.to(device, non_blocking=True).unbind(), strict=True))

    return choose
