"""The linear probe for images of any number of classes: a logistic regression for each class on the same features.

All classes share one strength of regularisation, the one with the best mAP on a fifth of the training images that is
held out for that; the validation images are only ranked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
from .features import Features, features_by_batch, features_of
from .probe import FEWEST, MOST, PROBE, STRENGTHS, WORK, Head, asked_about

HELD = 0.2
"""Part of the training images on which the strength is chosen."""


@dataclass(frozen=True)
class SeveralProbeFit:
    """A linear probe and its mAP.

    Attributes:
        head: its last layer, of features as the network gives them.
        mean_average_precision: on so many validation images, `samples`: all that can be read, up to `probe.ASKED`.
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
    """Fit a probe to training images and rank all validation images by it; as `probe.linear_probe`.

    Raises:
        ModelError: the model does not say which of its layers is the classifier.
        DataError: classes so many that a fit would take too long, no class that can be told apart, or no image that can
            be read.
    """
    need("sklearn", PROBE)
    started = time.monotonic()
    train, val, classes = _looked_at(sources[0]), asked_about(sources[1]), len(sources[0].class_names)
    how: dict[str, Any] = {"batch_size": batch_size, "device": device, "advance": advance}
    with preserved_generators():
        seen = features_of(model, train, data, **how)
    values = seen.values.numpy()
    most = int(WORK / (classes * values.shape[1]))
    if most < FEWEST * classes:
        raise DataError(f"{classes:,} classes of {values.shape[1]:,} features would take too long to fit")
    groups = _groups(train)[seen.label.numpy()]
    chosen = balanced_subset(groups, most) if most < len(groups) else np.arange(len(groups))
    values, truth, groups = values[chosen], _truth(train, seen)[chosen], groups[chosen]
    strength, expected = _strength(values, truth, groups)
    head = fit_several(values, truth, strength)
    with preserved_generators():
        asked = [(_truth(val, one), one.values.numpy() @ head.weight.T + head.bias)
                 for one in features_by_batch(model, val, data, **how)]  # fmt: skip
    if not asked:
        raise DataError("none of the validation images can be read; repair them")
    known, scores = (np.concatenate(parts) for parts in zip(*asked, strict=True))
    found, seconds = _mean(average_precisions(known, scores)), round(time.monotonic() - started, 1)
    return SeveralProbeFit(head, found, len(known), len(truth), values.shape[1], strength, expected, seconds)


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
