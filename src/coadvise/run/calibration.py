"""How far a model's confidence can be believed, of answers image by image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..shapes import Bool, Float
from .answers import Answers

BINS = 15
"""Equally wide bins of confidence, open at their lower end, as in Guo et al. 2017."""


class Bin(NamedTuple):
    """Answers of about the same confidence: its mean, the share of right ones, and how many images there are."""

    confidence: float
    accuracy: float
    images: int


def calibration(confidence: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"]) -> tuple[float, list[Bin]]:
    """Expected calibration error (mean over the images of the distance of confidence and accuracy of their bin), and
    the bins that are not empty."""
    sure = confidence.astype(float)
    place = np.clip(np.ceil(sure * BINS), 1, BINS).astype(int) - 1
    bins = [Bin(float(sure[at].mean()), float(right[at].mean()), int(at.sum()))
            for i in range(BINS) if (at := place == i).any()]  # fmt: skip
    return sum(one.images * abs(one.accuracy - one.confidence) for one in bins) / max(len(right), 1), bins


def calibration_errors(answers: Answers) -> dict[str, float]:
    """`ece/OUTPUT` of every output, as shares."""
    return {f"ece/{name}": calibration(sure, answers.right(name))[0] for name, sure in answers.confidence.items()}
