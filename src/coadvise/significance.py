"""Tests over seeds and over images: whether a difference between two ways of training is more than chance.

Runs with the same seed are compared in pairs: mean difference, Student's t-interval, two-sided paired t-test, and
Holm's correction over all comparisons that were planned. Where nothing can be tested (one seed, or differences without
any spread) there is no p-value, and the verdict is undecided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

ALPHA = 0.05
POWER = 0.8

HOLDS = "holds"
DOES_NOT_HOLD = "does not hold"


@dataclass(frozen=True)
class Summary:
    """Mean of `n` values in their own unit; the sample standard deviation (n − 1) needs n ≥ 2, the t-interval values
    that differ, too."""

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Paired(Summary):
    """Summary of the paired differences a − b; `p` is None where no test is possible."""

    p: float | None


def summarise(values: Sequence[float]) -> Summary:
    """Mean, sample standard deviation and 95 % t-interval of the mean.

    Raises:
        ValueError: no value, or one that is not finite.
    """
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"need at least one value, all finite; got {list(values)}")
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(1, mean, None, None, None)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    if sd == 0:
        return Summary(n, mean, sd, None, None)
    from scipy import stats  # slow to import, and only needed once there are two runs

    low, high = stats.t.interval(0.95, n - 1, loc=mean, scale=sd / math.sqrt(n))
    return Summary(n, mean, sd, float(low), float(high))


def paired_difference(a: Sequence[float], b: Sequence[float], *, resolution: float = 0.0) -> Paired:
    """Differences a − b pair by pair, with the two-sided p of a paired t-test.

    p and the interval are None for one pair, and where all differences are equal: without spread the t-statistic is
    0/0 or infinite, and two seeds that agree by chance must not become certainty.

    Args:
        resolution: of the values; differences that spread less than this are equal.

    Raises:
        ValueError: no pair, different lengths, or a value that is not finite.
    """
    if len(a) != len(b):
        raise ValueError(f"pairs need equal lengths, got {len(a)} and {len(b)}")
    differences = [x - y for x, y in zip(a, b, strict=True)]
    one = summarise(differences)
    # Equal differences of decimal numbers differ in their last bits, so "no spread" needs a tolerance.
    tiny = max(resolution, 1e-9 * max(1e-300, *(abs(value) for value in (*a, *b))))
    if one.sd is None or one.sd <= tiny:
        return Paired(one.n, one.mean, one.sd, None, None, p=None)
    from scipy import stats

    return Paired(**vars(one), p=float(stats.ttest_1samp(differences, 0.0).pvalue))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction, in the order given.

    A comparison without a p (None) stays None but still counts: the family is what was planned, and a run
    that is missing must not make the others look more certain.
    """
    ranked = sorted(range(len(p_values)), key=lambda i: 1.0 if (p := p_values[i]) is None else p)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(ranked):
        p = p_values[i]
        if p is not None:
            largest = max(largest, min(1.0, (len(p_values) - rank) * p))
            corrected[i] = largest
    return corrected


@cache
def detectable(df: float, alpha: float = ALPHA) -> float:
    """The smallest true difference that a two-sided t-test finds in 80 % of the cases, in standard errors of the mean.

    The t-statistic is then noncentral t. Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988.
    """
    from scipy.special import ndtr

    return _shift(lambda shift, limit: ndtr(shift - limit) + ndtr(-shift - limit), df, alpha)


@cache
def equal_within(df: float, alpha: float = ALPHA) -> float:
    """The smallest margin within which two equal means are shown to be equal in 80 % of the cases, in standard errors.

    Two one-sided t-tests at half of `alpha` each, so that the (1 − `alpha`) interval lies within the margin, and a true
    difference of zero. Schuirmann, A comparison of the two one-sided tests procedure and the power approach, 1987.
    """
    from scipy.special import ndtr

    return _shift(lambda shift, limit: (2 * ndtr(shift - limit) - 1).clip(min=0), df, alpha)


def _shift(found: Callable[[float, Any], Any], df: float, alpha: float) -> float:
    """The shift at which a test has its power.

    SciPy's noncentral t has no values for the large shifts that two runs need, so the power given the measured spread
    (`found`, of the shift and the limit in true standard errors) is averaged over the spreads that may be measured.
    """
    import numpy as np
    from scipy import optimize, stats

    quantiles = (np.arange(8192) + 0.5) / 8192
    limit = float(stats.t.isf(alpha / 2, df)) * np.sqrt(stats.chi2.ppf(quantiles, df) / df)
    lacking = lambda shift: float(found(shift, limit).mean()) - POWER
    return float(optimize.brentq(lacking, 0.0, float(limit.max()) + 10.0))


@dataclass(frozen=True)
class Changed:
    """Two models on the same images.

    Attributes:
        first: images that the first alone names rightly; `second` likewise.
        p: McNemar's exact test, two-sided: whether both are as often right. None where they never differ.
    """

    first: int
    second: int
    p: float | None


def mcnemar(first: Sequence[bool] | Any, second: Sequence[bool] | Any) -> Changed:
    """McNemar's exact test of whether two models are right equally often, image by image.

    Only images on which one of the two is right and the other is not count: were both as good, each would be right on
    half of these, by the binomial distribution.

    Raises:
        ValueError: different numbers of images.
    """
    if len(first) != len(second):
        raise ValueError(f"pairs need equal lengths, got {len(first)} and {len(second)}")
    pairs = [(bool(a), bool(b)) for a, b in zip(first, second, strict=True)]
    one, other = pairs.count((True, False)), pairs.count((False, True))
    if not one + other:
        return Changed(0, 0, None)
    from scipy.stats import binomtest

    return Changed(one, other, float(binomtest(one, one + other, 0.5).pvalue))


def wilson(right: int, of: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of a proportion, 95 % by default; (0, 1) of nothing.

    It keeps its coverage for few images and for shares near 0 and 1, where the usual ± interval is a point.
    """
    if not of:
        return 0.0, 1.0
    share, spread = right / of, z * z / of
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / of + spread / (4 * of)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def verdict(paired: Paired | None, corrected_p: float | None) -> str:
    """`holds`, `does not hold` (significantly the other way) or `undecided …` for the claim a > b."""
    if paired is None:
        return "undecided (no seed in common)"
    if paired.n < 2:
        return "undecided (one seed)"
    if corrected_p is None:
        return f"undecided at n = {paired.n} (all differences equal)"
    if corrected_p >= ALPHA:
        return f"undecided at n = {paired.n}"
    return HOLDS if paired.mean > 0 else DOES_NOT_HOLD
