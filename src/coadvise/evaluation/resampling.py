"""A bootstrap over images and over seeds of teachers, the same for every quantity.

Images are drawn with replacement, as many as there are (Efron 1979). An image stands for all samples in which it has
the larger share. Where a model has S > 1 seeds, each resample draws S − 1 of them with replacement and weighs them by
S / (S − 1) (Rao and Wu, "Resampling inference with complex survey data", Journal of the American Statistical
Association, 1988): the variance of a mean is then unbiased for few seeds, too.

Row 0 of everything is what was measured, the others are the resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..run.headroom import Estimate
from ..shapes import Bool, Float32, Float64, Int64

RESAMPLES = 2000
# Resamples that are computed at once: a row for each, of all images.
_AT_ONCE = 50

Draws = Float64[np.ndarray, " r"]
"""A quantity, and what it is in each resample."""


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Being right and cross entropy: a row for each teacher, then for each pair of them.

    Attributes:
        image: the image that a sample counts for.
        images: how many there are; some may have no sample.
    """

    right: Bool[np.ndarray, "q n"]
    loss: Float32[np.ndarray, "q n"]
    image: Int64[np.ndarray, " n"]
    images: int


def joined(parts: Iterable[tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.int64]]], images: int) -> Outcomes:
    """Outcomes of batches, each with the images of its samples, as one."""
    right, loss, image = zip(*parts, strict=True)
    return Outcomes(np.concatenate(right, axis=1), np.concatenate(loss, axis=1), np.concatenate(image), images)


def estimate(draws: Draws) -> Estimate:
    """A quantity with its percentile interval; resamples in which it is not defined are left out."""
    value, rest = float(draws[0]), draws[1:][np.isfinite(draws[1:])]
    if not math.isfinite(value) or not len(rest):
        return Estimate(None, None, None)
    low, high = np.quantile(rest, (0.025, 0.975))
    return Estimate(value, float(low), float(high))


def means(
    values: Sequence[NDArray[np.bool_] | NDArray[np.float32]], outcomes: Outcomes, resamples: int, seed: int
) -> Float64[np.ndarray, "r q"]:
    """Means of rows of numbers over the samples, and over those of the images of each resample."""
    sums = np.concatenate([_sums(rows, outcomes) for rows in values])
    n, counts = outcomes.images, np.bincount(outcomes.image, minlength=outcomes.images).astype(np.float32)
    generator = np.random.default_rng(np.random.SeedSequence((seed, 0)))
    found = [(sums.sum(axis=1, dtype=np.float64) / counts.sum())[None]]
    for at in range(0, resamples, _AT_ONCE):
        drawn = generator.integers(n, size=(min(_AT_ONCE, resamples - at), n))
        # Of whole numbers below 2²⁴ float32 makes no error.
        weights = np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            found.append((weights @ sums.T).astype(np.float64) / (weights @ counts)[:, None])
    return np.concatenate(found)


def _sums(rows: NDArray[np.bool_] | NDArray[np.float32], outcomes: Outcomes) -> Float32[np.ndarray, "q m"]:
    """Sums of each row over the samples of each image."""
    order = np.argsort(outcomes.image, kind="stable")
    there, starts = np.unique(outcomes.image[order], return_index=True)
    sums = np.zeros((len(rows), outcomes.images), dtype=np.float32)
    for row, values in enumerate(rows):
        sums[row, there] = np.add.reduceat(values[order].astype(np.float32), starts)
    return sums


def seed_weights(models: Sequence[str], resamples: int, seed: int) -> Float64[np.ndarray, "r t"]:
    """How much each teacher weighs in each resample: 1 where it is the only one of its model.

    Args:
        models: of each teacher, the model of which it is a seed.
    """
    generator = np.random.default_rng(np.random.SeedSequence((seed, 1)))
    weights = np.ones((resamples + 1, len(models)))
    for model in dict.fromkeys(models):
        places = [i for i, one in enumerate(models) if one == model]
        if (count := len(places)) > 1:
            counts = generator.multinomial(count - 1, np.full(count, 1 / count), size=resamples)
            weights[1:, places] = counts * count / (count - 1)
    return weights
