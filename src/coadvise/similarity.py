"""How alike two classifiers are, beyond accuracy; pure functions of logits, features and labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BINS = 15


def error_consistency(right: Bool[Tensor, " n"], other: Bool[Tensor, " n"]) -> float | None:
    """Cohen's κ of being right: 1 where both err on the same images, 0 where no more than by chance.

    None where chance alone makes them agree always (both always right, or always wrong). Geirhos et al. 2020,
    "Beyond accuracy: quantifying trial-by-trial behaviour of CNNs and humans by measuring error consistency".
    """
    a, b = right.double(), other.double()
    agree = (a == b).double().mean()
    chance = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    return None if chance >= 1 - 1e-12 else float((agree - chance) / (1 - chance))


def linear_cka(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> float | None:
    """Linear centred kernel alignment (Kornblith et al. 2019, the biased estimator), in float64.

    1 where one is a rotation and scaling of the other; None where either does not vary.
    """
    x, y = (z.double() - z.double().mean(dim=0) for z in (x, y))
    cross = (x.T @ y).square().sum()
    own = (x.T @ x).norm() * (y.T @ y).norm()
    return float(cross / own) if own > 0 else None


def calibration_error(probabilities: Float[Tensor, "n k"], label: Int[Tensor, " n"], bins: int = BINS) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over equally wide bins of confidence."""
    confidence, answer = probabilities.double().max(dim=1)
    right = (answer == label).double()
    place = (confidence * bins).ceil().clamp(1, bins).long() - 1
    gaps = torch.zeros(bins, dtype=torch.float64, device=label.device).index_add(0, place, right - confidence)
    return float(gaps.abs().sum() / len(label))


def ensemble(logits: Sequence[Float[Tensor, "n k"]], label: Int[Tensor, " n"]) -> tuple[float, float]:
    """Accuracy of the mean of the members' probabilities, and the share of images on which some member is right."""
    mean = torch.stack([z.double().softmax(dim=1) for z in logits]).mean(dim=0)
    some = torch.stack([z.argmax(dim=1) == label for z in logits]).any(dim=0)
    return float((mean.argmax(dim=1) == label).double().mean()), float(some.double().mean())
