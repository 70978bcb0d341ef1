"""Whether a file that was written computes what the model computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import ModelError
from ..models.deviation import deviation
from ..shapes import Float
from .job import Job

TOLERANCE = 1e-4
"""Largest difference of logits; where logits are larger than 1, as a part of the largest one (`deviation`)."""
BATCH = 8

Logits = Callable[[Float[np.ndarray, "b 3 h w"]], Float[np.ndarray, "b k"]]
"""What runs a file: normalised float32 images → logits, for any number of images."""


@dataclass(frozen=True)
class Parity:
    """How near the logits of a file are to the model's.

    Attributes:
        difference: largest, absolute.
        deviation: the same as a part of the model's largest logit, at least of 1, without what stands for classes that
            it has never seen.
        same: images of which the likeliest class is the same.
        count: images.
        images: which ones, in words.
    """

    difference: float
    deviation: float
    same: int
    count: int
    images: str

    @property
    def line(self) -> str:
        """In words."""
        return f"largest difference of logits {self.difference:.1e}, top class the same on {self.same} of {self.count}"


def require_parity(job: Job, logits: Logits, engine: str) -> Parity:
    """Compare what a file says, run by a real engine, with what the model says.

    The first image comes alone, the others in batches, the last of which is smaller: the batch has to be free.

    Args:
        engine: its name, for messages.

    Raises:
        ModelError: logits differ by more than `TOLERANCE`, or a top class differs.
    """
    found = measure_parity(job, logits)
    if not found.deviation <= TOLERANCE or found.same < found.count:
        raise ModelError(
            f"{engine} does not compute what the model computes ({found.line}; {found.images}); nothing was written. "
            "This is a fault of the export or of the engine: try another version of it, or another target"
        )
    return found


@torch.no_grad()
def measure_parity(job: Job, logits: Logits) -> Parity:
    """The comparison alone."""
    checked = job.check
    expected = torch.cat([job.trained.model(part) for part in in_batches(checked.images)]).double().numpy()
    found = np.concatenate([logits(part.contiguous().numpy()) for part in in_batches(checked.images)]).astype(
        np.float64
    )
    if found.shape != expected.shape:
        raise ModelError(f"the exported file gives logits of shape {found.shape}, the model {expected.shape}")
    finite = bool(np.isfinite(found).all())
    return Parity(
        difference=float(np.abs(found - expected).max()) if finite else float("inf"),
        deviation=deviation(torch.from_numpy(found), torch.from_numpy(expected)) if finite else float("inf"),
        same=int((found.argmax(1) == expected.argmax(1)).sum()),
        count=len(expected),
        images=checked.words,
    )


def in_batches(images: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
    """The first image alone, then `BATCH` at a time."""
    return [images[:1], *images[1:].split(BATCH)] if len(images) > 1 else [images]
