"""The linear probe for images of any number of classes: a logistic regression for each class on the same features.

All classes share one strength of regularisation, the one with the best mAP on a fifth of the training images that is
held out for that; the validation images are only ranked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..data.sources.base import ImageSource, sets_of, strata
from ..data.sources.subsets import Subset, balanced_subset, hold_out
from ..data.views.augment import preserved_generators
from ..errors import DataError
from ..recipe.schema import Data
from ..run.several import average_precisions
from ..shapes import Bool, Float, Int64
from ..system.extras import need
from .features import Features, features_of
from .probe import FEWEST, MOST, PROBE, STRENGTHS, WORK, Head

HELD = 0.2
"""Part of the training images on which the strength is chosen."""


@dataclass(frozen=True)
class SeveralProbeFit:
    """A linear probe and its mAP.

    Attributes:
        head: its last layer, of features as the network gives them.
        mean_average_precision: on so many validation images, `samples`.
        train: training images that it was fitted to.
        features: numbers that describe an image.
        strength: the chosen `C` of scikit-learn.
        expected: its mAP on the training images that were held out, as a share.
        seconds: that reading, computing features and fitting took.
    """

    head: Head
    mean_average_precision: float
    samples: int
    train: int
    features: int
    strength: float
    expected: float
    seconds: float


def probe_of_several(
    model: nn.Module,
    sources: tuple[ImageSource, ImageSource],
    data: Data,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    advance: Callable[[int], None] = lambda samples: None,
) -> SeveralProbeFit:
    """Fit a probe to training images and rank the validation images by it; as `probe.linear_probe`.

    Raises:
        ModelError: the model does not say which of its layers is the classifier.
        DataError: classes so many that a fit would take too long, or no class that can be told apart.
    """
    need("sklearn", PROBE)
    started = time.monotonic()
    train, val = (_looked_at(source) for source in sources)
    with preserved_generators():
        of: Callable[[ImageSource], Features] = lambda source: features_of(
            model, source, data, batch_size=batch_size, device=device, advance=advance
        )
        seen, asked = of(train), of(val)
    classes, values = len(sources[0].class_names), seen.values.numpy()
    most = int(WORK / (classes * values.shape[1]))
    if most < FEWEST * classes:
        raise DataError(f"{classes:,} classes of {values.shape[1]:,} features would take too long to fit")
    groups = _groups(train)[seen.label.numpy()]
    chosen = balanced_subset(groups, most) if most < len(groups) else np.arange(len(groups))
    values, truth, groups = values[chosen], _truth(train, seen)[chosen], groups[chosen]
    strength, expected = _strength(values, truth, groups)
    head = fit_several(values, truth, strength)
    found = _mean(average_precisions(_truth(val, asked), asked.values.numpy() @ head.weight.T + head.bias))
    seconds = round(time.monotonic() - started, 1)
    return SeveralProbeFit(head, found, len(asked.label), len(truth), values.shape[1], strength, expected, seconds)


def fit_several(values: Float[np.ndarray, "n d"], truth: Bool[np.ndarray, "n k"], strength: float) -> Head:
    """Logistic regressions on standardised features, as one layer of features as they are.

    A class of all images, or of none, is answered always, or never.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(values)
    scaled = scaler.transform(values)
    weight, bias = np.zeros((truth.shape[1], values.shape[1])), np.zeros(truth.shape[1])
    for place, there in enumerate(truth.T):
        if there.all() or not there.any():
            bias[place] = 10.0 if there.all() else -10.0
            continue
        one = LogisticRegression(C=strength, max_iter=500).fit(scaled, there)
        weight[place] = one.coef_[0] / scaler.scale_
        bias[place] = one.intercept_[0] - weight[place] @ scaler.mean_
    return Head(weight, bias, np.arange(truth.shape[1]))


def _strength(
    values: Float[np.ndarray, "n d"], truth: Bool[np.ndarray, "n k"], groups: Int64[np.ndarray, " n"]
) -> tuple[float, float]:
    """The strength with the best mAP on held-out training images, and that mAP."""
    kept, held = hold_out(groups, HELD)
    if not len(held) or not truth[held].any():
        raise DataError("there are too few training images of every class")
    scores: Sequence[float] = [
        _mean(average_precisions(truth[held], values[held] @ head.weight.T + head.bias))
        for head in (fit_several(values[kept], truth[kept], strength) for strength in STRENGTHS)
    ]
    best = int(np.argmax(scores))
    return STRENGTHS[best], scores[best]


def _looked_at(source: ImageSource) -> ImageSource:
    return source if len(source) <= MOST else Subset(source, balanced_subset(strata(source), MOST))


def _truth(source: ImageSource, features: Features) -> Bool[np.ndarray, "n k"]:
    sets = sets_of(source)
    assert sets is not None
    return np.asarray(sets[features.label.numpy()])


def _groups(source: ImageSource) -> Int64[np.ndarray, " m"]:
    """By what images are kept in balance, of each number of a set."""
    groups = np.zeros(int(source.labels.max()) + 1, dtype=np.int64)
    groups[source.labels] = strata(source)
    return groups


def _mean(values: Float[np.ndarray, " k"]) -> float:
    """Over the classes that have images."""
    return float(np.nanmean(values))
