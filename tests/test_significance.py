"""Statistics against SciPy, NumPy and examples worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from coadvise.significance import (
    DOES_NOT_HOLD,
    HOLDS,
    detectable,
    equal_within,
    holm,
    mcnemar,
    paired_difference,
    summarise,
    verdict,
    wilson,
)  # fmt: skip


@pytest.mark.parametrize("n", [2, 3, 10])
def test_summary_is_numpys_mean_and_sample_sd_and_scipys_interval(n: int) -> None:
    values = np.random.default_rng(n).normal(0.9, 0.02, n)
    found = summarise(values.tolist())
    assert (found.n, found.mean) == (n, pytest.approx(values.mean()))
    assert found.sd == pytest.approx(values.std(ddof=1))
    low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_one_value_has_no_spread() -> None:
    found = summarise([0.5])
    assert (found.n, found.mean, found.sd, found.low, found.high) == (1, 0.5, None, None, None)


@pytest.mark.parametrize("values", [[], [0.1, float("nan")], [float("inf")]])
def test_no_summary_of_nothing_or_of_what_is_not_finite(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        summarise(values)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_paired_p_and_interval_are_scipys(n: int) -> None:
    rng = np.random.default_rng(n)
    b = rng.normal(0.84, 0.01, n)
    a = b + rng.normal(0.01, 0.01, n)
    found, oracle = paired_difference(a.tolist(), b.tolist()), stats.ttest_rel(a, b)
    assert found.p == pytest.approx(oracle.pvalue, rel=1e-9)
    interval = oracle.confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_equal_differences_are_no_certainty(shift: float) -> None:
    b = [0.1, 0.2, 0.7]
    found = paired_difference([value + shift for value in b], b)  # 0.1 + 0.2 ≠ 0.3: equal but for the last bits
    assert found.p is found.low is found.high is None and found.mean == pytest.approx(shift)
    assert verdict(found, None) == "undecided at n = 3 (all differences equal)"


def test_pairs_need_equal_lengths() -> None:
    with pytest.raises(ValueError, match="2 and 1"):
        paired_difference([1.0, 2.0], [1.0])


def test_holm_by_hand() -> None:
    # Sorted: 0.005·4 = 0.02; 0.01·3 = 0.03; 0.03·2 = 0.06; 0.04·1 = 0.04, raised to 0.06 to stay in order.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_an_untested_comparison_still_counts() -> None:
    assert holm([0.01, None, 0.02]) == [pytest.approx(0.03), None, pytest.approx(0.04)]


def test_verdicts() -> None:
    up, one = paired_difference([0.9, 0.8, 0.95], [0.5, 0.6, 0.7]), paired_difference([0.9], [0.5])
    down = paired_difference([0.5, 0.6, 0.7], [0.9, 0.8, 0.95])
    assert verdict(up, 0.049) == HOLDS
    assert verdict(down, 0.01) == DOES_NOT_HOLD
    assert verdict(up, 0.05) == "undecided at n = 3"
    assert verdict(one, None) == "undecided (one seed)"
    assert verdict(None, None) == "undecided (no seed in common)"


def test_mcnemar_is_the_binomial_test_of_the_images_on_which_two_models_differ() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(200) < 0.8, rng.random(200) < 0.7
    found = mcnemar(first, second)
    one, other = int((first & ~second).sum()), int((second & ~first).sum())
    assert (found.first, found.second) == (one, other)
    tail = stats.binom.cdf(min(one, other), one + other, 0.5)
    assert found.p == pytest.approx(min(1, 2 * tail))
    assert mcnemar(second, first).p == found.p
    assert mcnemar([True, False], [True, False]).p is None
    with pytest.raises(ValueError, match="equal lengths"):
        mcnemar([True], [True, False])


@pytest.mark.parametrize(("right", "of"), [(0, 5), (5, 5), (3, 10), (172, 175), (1, 1)])
def test_wilsons_interval_is_scipys(right: int, of: int) -> None:
    expected = stats.binomtest(right, of).proportion_ci(0.95, "wilson")
    assert wilson(right, of) == pytest.approx((expected.low, expected.high))
    assert wilson(0, 0) == (0, 1)


@pytest.mark.parametrize(("df", "alpha"), [(2, 0.05), (4, 0.05), (4, 0.05 / 11), (9, 0.01), (60, 0.05)])
def test_detectable_has_80_percent_power_by_scipys_noncentral_t(df: int, alpha: float) -> None:
    shift, limit = detectable(df, alpha), stats.t.isf(alpha / 2, df)
    assert stats.nct.sf(limit, df, shift) + stats.nct.cdf(-limit, df, shift) == pytest.approx(0.8, abs=2e-4)


def test_detectable_against_the_sample_size_that_is_printed_for_half_a_standard_deviation() -> None:
    n = 33.36713  # paired t-test, d = 0.5, 5 % two-sided, 80 %: the worked example of R's package pwr
    assert detectable(n - 1) / n**0.5 == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(("n", "alpha"), [(2, 0.05), (5, 0.05), (5, 0.01), (20, 0.05)])
def test_margins_of_equality_have_80_percent_power_in_a_simulation(n: int, alpha: float) -> None:
    draws = np.random.default_rng(n).normal(size=(40_000, n))
    se = draws.std(axis=1, ddof=1) / n**0.5
    margin = equal_within(n - 1, alpha) / n**0.5
    within = [stats.t.sf((margin + side * draws.mean(axis=1)) / se, n - 1) < alpha / 2 for side in (1, -1)]
    assert np.mean(within[0] & within[1]) == pytest.approx(0.8, abs=0.008)


def test_two_runs_that_are_strictly_corrected_still_have_a_shift() -> None:
    draws = np.random.default_rng(0).normal(size=(200_000, 2))
    shifted = draws + detectable(1, 0.05 / 22) / 2**0.5
    assert np.mean(stats.ttest_1samp(shifted, 0, axis=1).pvalue < 0.05 / 22) == pytest.approx(0.8, abs=0.005)
