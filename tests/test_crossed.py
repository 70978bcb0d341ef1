"""The mean of a table of differences, against t-tests of SciPy, a regression by NumPy, and simulation."""

import numpy as np
import pytest
from scipy import stats

from coadvise.crossed import Crossed, crossed


def table(values: np.ndarray) -> Crossed:
    return crossed({(k, s): float(value) for (k, s), value in np.ndenumerate(values)})


def test_one_set_is_a_t_test() -> None:
    values = np.array([[0.4, -0.1, 0.3, 0.9, 0.2, 0.5]])
    found, wanted = table(values), stats.ttest_1samp(values[0], 0.0)
    low, high = wanted.confidence_interval()
    assert found.p == pytest.approx(wanted.pvalue) and found.df == 5 and found.n == 6
    assert (found.low, found.high) == pytest.approx((low, high))


def test_where_sets_differ_their_means_are_what_is_tested() -> None:
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(3, 6))
    noise -= noise.mean(axis=0)  # nothing is left of the seeds
    values = np.array([[1.0], [3.0], [8.0]]) + 0.1 * noise
    found, wanted = table(values), stats.ttest_1samp(values.mean(axis=1), 0.0)
    assert found.p == pytest.approx(wanted.pvalue) and found.df == 2
    assert found.sd_sets == pytest.approx(values.mean(axis=1).std(ddof=1), rel=1e-3)


def test_mean_squares_are_those_of_a_regression() -> None:
    values = np.random.default_rng(1).normal(size=(3, 6)) + np.array([[0.0], [1.5], [-1.0]]) + 2 * np.arange(6) / 6
    sets, seeds = np.divmod(np.arange(18), 6)

    def rest(*groups: np.ndarray) -> float:
        """Sum of squares that indicators of these groups leave."""
        columns = [np.ones(18)] + [np.equal(one, level).astype(float) for one in groups for level in np.unique(one)]
        design = np.stack(columns, axis=1)
        fitted = design @ np.linalg.lstsq(design, values.ravel(), rcond=None)[0]
        return float(((values.ravel() - fitted) ** 2).sum())

    of_rest = rest(sets, seeds) / 10
    of_sets, of_seeds = (rest(seeds) - rest(sets, seeds)) / 2, (rest(sets) - rest(sets, seeds)) / 5
    assert min(of_sets, of_seeds) > of_rest
    found = table(values)
    total = of_sets + of_seeds - of_rest
    assert found.se == pytest.approx((total / 18) ** 0.5)
    assert found.df == pytest.approx(total**2 / (of_sets**2 / 2 + of_seeds**2 / 5 + of_rest**2 / 10))
    assert found.sd_seeds == pytest.approx(((of_seeds - of_rest) / 3) ** 0.5)


@pytest.mark.parametrize(("of_sets", "of_seeds"), [(0.0, 0.0), (0.3, 0.0), (0.5, 0.5)])
def test_true_nulls_are_refused_at_most_as_often_as_said(of_sets: float, of_seeds: float) -> None:
    generator, refused, runs = np.random.default_rng(2), 0, 400
    for _ in range(runs):
        values = generator.normal(size=(3, 6)) + of_sets * generator.normal(size=(3, 1))
        p = table(values + of_seeds * generator.normal(size=(1, 6))).p
        refused += p is not None and p < 0.05
    assert refused / runs < 0.08  # three standard errors above 0.05


def test_the_detectable_difference_is_found_in_eight_of_ten_experiments() -> None:
    generator = np.random.default_rng(3)
    found = table(generator.normal(size=(1, 18)))
    assert found.se is not None
    shift = found.detectable()
    assert shift is not None
    samples = generator.normal(shift, found.se * 18**0.5, size=(20_000, 18))
    assert (stats.ttest_1samp(samples, 0.0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.01)


def test_equivalence_is_two_one_sided_tests() -> None:
    values = np.array([[0.1, -0.1, 0.05, 0.15, -0.05, 0.0]])
    found = table(values)
    sides = [
        stats.ttest_1samp(values[0], -0.3, alternative="greater").pvalue,
        stats.ttest_1samp(values[0], 0.3, alternative="less").pvalue,
    ]
    assert found.p_within(0.3) == pytest.approx(max(sides)) and max(sides) < 0.05
    assert found.p_within(0.01) is not None and (found.p_within(0.01) or 0) > 0.05


def test_seeds_that_some_set_lacks_do_not_count_and_no_spread_decides_nothing() -> None:
    found = crossed({(0, 0): 1.0, (1, 0): 2.0, (0, 1): 5.0, (1, 1): 4.5, (0, 2): 9.0})
    assert (found.sets, found.seeds) == (2, 2) and found.mean == pytest.approx(3.125)
    alike = table(np.full((3, 6), 0.25))
    assert alike.mean == 0.25 and alike.p is None and alike.low is None and alike.p_within(0.3) is None
    assert crossed({(0, 0): 1.0}).p is None
    with pytest.raises(ValueError, match="at least one seed"):
        crossed({(0, 0): 1.0, (1, 1): 2.0})


def test_sets_that_share_teachers_have_a_wider_mean() -> None:
    """Run k teaches in the sets k and k − 1: their mean is that of the runs, seen by far less spread between sets."""
    generator, refused, plain, runs = np.random.default_rng(4), 0, 0, 400
    for _ in range(runs):
        teachers = generator.normal(size=3)
        pairs = (teachers + np.roll(teachers, -1)) / 2
        values = pairs[:, None] + 0.02 * generator.normal(size=(3, 6))
        found = crossed({(k, s): float(value) for (k, s), value in np.ndenumerate(values)}, correlation=0.5)
        assert found.se == pytest.approx(teachers.std(ddof=1) / 3**0.5, rel=0.5)
        wanted = stats.ttest_1samp(teachers, 0.0)
        refused, plain = refused + (wanted.pvalue < 0.05), plain + ((found.p or 1.0) < 0.05)
    assert abs(refused - plain) < 0.02 * runs
    with pytest.raises(ValueError, match="cannot correlate"):
        crossed({(0, 0): 1.0, (1, 0): 2.0}, correlation=1.0)


def mean_squares(values: np.ndarray) -> tuple[float, float, float]:
    """Between sets, between seeds, and of the rest."""
    rows, columns = values.shape
    of_sets, of_seeds = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    rest = values - of_sets - of_seeds + values.mean()
    return (
        columns * float(of_sets.var(ddof=1)), rows * float(of_seeds.var(ddof=1)),
        float((rest**2).sum()) / ((rows - 1) * (columns - 1)),
    )  # fmt: skip


@pytest.mark.parametrize(("correlation", "times", "rest"), [(0.5, 4.0, -1.0), (0.0, 1.0, -1.0), (-0.25, 0.4, -0.4)])
def test_degrees_of_freedom_are_those_of_the_sum(correlation: float, times: float, rest: float) -> None:
    """Satterthwaite's: of each mean square with the weight that it has in the variance."""
    values = np.random.default_rng(1).normal(size=(3, 6)) + np.array([[0.0], [1.5], [-1.0]]) + 2 * np.arange(6) / 6
    found = crossed({(k, s): float(one) for (k, s), one in np.ndenumerate(values)}, correlation=correlation)
    terms = np.array([times, 1.0, rest]) * mean_squares(values)
    assert mean_squares(values)[2] < min(mean_squares(values)[:2])
    assert found.se == pytest.approx((terms.sum() / 18) ** 0.5)
    assert found.df == pytest.approx(terms.sum() ** 2 / (terms**2 / [2, 5, 10]).sum())


def test_sets_that_correlate_are_never_left_out() -> None:
    noise = np.random.default_rng(5).normal(size=(3, 6))
    values = noise - 0.9 * noise.mean(axis=1, keepdims=True)  # less between the sets than chance alone would make
    between, seeds, rest = mean_squares(values)
    assert 4 * between < rest and seeds < rest
    both = (10 * rest + 5 * seeds) / 15  # which seeds that do not differ join
    found = crossed({(k, s): float(one) for (k, s), one in np.ndenumerate(values)}, correlation=0.5)
    assert found.se == pytest.approx((both / 18) ** 0.5) and found.df == 2
    one_seed = crossed({(k, 0): float(one) for k, one in enumerate(values[:, 0])}, correlation=0.5)
    assert one_seed.se == pytest.approx(2 * values[:, 0].std(ddof=1) / 3**0.5) and one_seed.df == 2
    one_set = crossed({(0, s): float(one) for s, one in enumerate(values[0])}, correlation=0.5)
    assert one_set.p == pytest.approx(stats.ttest_1samp(values[0], 0.0).pvalue)


@pytest.mark.parametrize(("of_runs", "of_seeds"), [(0.0, 0.0), (1.25, 0.0), (2.0, 1.0)])
def test_true_nulls_of_sets_that_share_teachers(of_runs: float, of_seeds: float) -> None:
    """Two of three runs teach in each set. In units of the rest; what was taken for one mean square refused 12 %."""
    generator, refused, runs = np.random.default_rng(6), 0, 400
    for _ in range(runs):
        teachers = of_runs * generator.normal(size=3)
        values = generator.normal(size=(3, 6)) + ((teachers + np.roll(teachers, -1)) / 2)[:, None]
        values = values + of_seeds * generator.normal(size=(1, 6))
        p = crossed({(k, s): float(one) for (k, s), one in np.ndenumerate(values)}, correlation=0.5).p
        refused += p is not None and p < 0.05
    assert refused / runs < 0.08  # three standard errors above 0.05
