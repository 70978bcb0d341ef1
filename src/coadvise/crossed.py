"""The mean of differences that were measured for several sets of teachers, each with the same seeds of students.

The differences of one set share their teachers and those of one seed share initial weights and order of images, so
that they are not independent. The model is d(set, seed) = μ + a(set) + b(seed) + e, all but μ random, and the test of
μ = 0 is that of the balanced two-way table without repetition (Searle, Casella, McCulloch, Variance Components, 1992;
degrees of freedom by Satterthwaite, Biometrics Bulletin 2, 1946). A component that comes out at zero or below is left
out, and what it stood for is pooled with the rest.

Sets that have a run of a teacher in common are not independent either. Where every two of them correlate by ρ, what
lies between them is a(1 − ρ) and what their mean needs a(1 + (K − 1)ρ) of the variance a of one of K sets: f times as
much, f = (1 + (K − 1)ρ) / (1 − ρ). With mean squares S between sets, T between seeds and R of the rest, n times the
variance of the mean is f·S + T − f·R in expectation (f·S − (f − 1)·R without a component of seeds), of which each term
has its degrees of freedom. But where f > 1, a component of sets that is left out by chance is missing f times, and one
that is kept has next to no degrees of freedom where S comes out near R. So sets are then never left out, and R is taken
off for the seeds alone: f·S + T − R, or f·S. In expectation that is too much, by (f − 1)·R, and never too little; f·S
counts as R at least.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .significance import detectable


@dataclass(frozen=True)
class Crossed:
    """The mean of a table of differences.

    Attributes:
        sets, seeds: rows and columns of the table; `n` is their product.
        mean: μ; its standard error is `se`, with `df` degrees of freedom (None where there is no spread to judge by).
        sd_sets, sd_seeds, sd_rest: standard deviations of the three components, that of sets as seen between them.
        low, high: 95 % interval of μ.
        p: two-sided, of μ = 0.
    """

    sets: int
    seeds: int
    mean: float
    se: float | None
    df: float | None
    sd_sets: float
    sd_seeds: float
    sd_rest: float
    low: float | None
    high: float | None
    p: float | None

    @property
    def n(self) -> int:
        """How many differences there are."""
        return self.sets * self.seeds

    def p_within(self, margin: float) -> float | None:
        """p of two one-sided tests for |μ| < margin: below 0.05, the 90 % interval of μ lies within ±margin.

        None where there is no spread to judge by.
        """
        if self.se is None or self.df is None:
            return None
        from scipy import stats

        return float(stats.t.sf((margin - abs(self.mean)) / self.se, self.df))

    def detectable(self) -> float | None:
        """The smallest |μ| that a table of this size and spread finds with 80 % power, two-sided at α = 0.05.

        None where there is no spread to judge by.
        """
        return None if self.se is None or self.df is None else self.se * detectable(self.df)


def crossed(differences: Mapping[tuple[int, int], float], *, correlation: float = 0.0) -> Crossed:
    """The mean of differences by (set, seed), over the seeds that every set has.

    Args:
        correlation: of what two sets of teachers do, for those that share teachers; above −1 / (sets − 1), below 1.

    Raises:
        ValueError: no seed that all sets share, a value that is not finite, or such a correlation.
    """
    sets = sorted({one for one, _ in differences})
    seeds = [
        seed for seed in sorted({seed for _, seed in differences}) if all((one, seed) in differences for one in sets)
    ]
    table = [[differences[one, seed] for seed in seeds] for one in sets]
    if not seeds or not all(math.isfinite(value) for row in table for value in row):
        raise ValueError("need at least one seed that all sets of teachers share, and finite differences")
    rows, columns = len(sets), len(seeds)
    if (rows - 1) * correlation <= -1 or correlation >= 1:
        raise ValueError(f"{rows} sets cannot correlate by {correlation:g} with each other")
    mean = math.fsum(value for row in table for value in row) / (rows * columns)
    of_sets = [math.fsum(row) / columns for row in table]
    of_seeds = [math.fsum(row[i] for row in table) / rows for i in range(columns)]
    inflated = (1 + (rows - 1) * correlation) / (1 - correlation)
    squares = _Squares(
        columns * math.fsum((one - mean) ** 2 for one in of_sets),
        rows * math.fsum((one - mean) ** 2 for one in of_seeds),
        math.fsum(
            (table[k][s] - of_sets[k] - of_seeds[s] + mean) ** 2 for k in range(rows) for s in range(columns)
        ),
        rows,
        columns,
        1.0 if rows == 1 or abs(inflated - 1) < 1e-9 else inflated,
    )  # fmt: skip
    variance, df, components = squares.judged()
    if df <= 0 or variance <= (1e-12 * max(1.0, abs(mean))) ** 2:  # one difference, or all alike
        return Crossed(rows, columns, mean, None, None, 0.0, 0.0, 0.0, None, None, None)
    from scipy import stats  # slow to import

    se = math.sqrt(variance)
    half = float(stats.t.isf(0.025, df)) * se
    p = 2 * float(stats.t.sf(abs(mean) / se, df))
    return Crossed(rows, columns, mean, se, df, *components, mean - half, mean + half, p)


@dataclass(frozen=True)
class _Squares:
    """Sums of squares between sets, between seeds, and of the rest.

    `inflated`: how much more the variance of their mean has of the sets than what is seen between them says (f).
    """

    sets: float
    seeds: float
    rest: float
    rows: int
    columns: int
    inflated: float = 1.0

    def judged(self) -> tuple[float, float, tuple[float, float, float]]:
        """Variance of the mean, its degrees of freedom, and the components' standard deviations."""
        n = self.rows * self.columns
        of_sets, of_seeds = self.rows - 1, self.columns - 1
        of_rest = of_sets * of_seeds
        rest, df_rest = self.rest, of_rest
        # A mean square is compared with that of the rest; what is not above it joins it, the smaller one first.
        left = {"sets": (self.sets, of_sets), "seeds": (self.seeds, of_seeds)}
        for name in sorted(left, key=lambda one: _mean(*left[one])):
            square, df = left[name]
            if name == "sets" and self.inflated > 1:
                continue  # what is missing by chance would be missing several times
            if _mean(square, df) <= _mean(rest, df_rest) or not df_rest:
                rest, df_rest = rest + square, df_rest + df
                del left[name]
        error = _mean(rest, df_rest)
        terms, weight, sd = [], 1.0, {"sets": 0.0, "seeds": 0.0}  # weight: of the rest, in the variance of the mean
        for name, size, times in (("sets", self.columns, self.inflated), ("seeds", self.rows, 1.0)):
            if name in left:
                mean = _mean(*left[name])
                terms.append((max(times * mean, error) if times > 1 else times * mean, left[name][1]))
                weight -= min(times, 1.0)
                sd[name] = math.sqrt(max(0.0, (mean - error) / size))
        if weight or not terms:
            terms.append((weight * error, df_rest))
        total = math.fsum(value for value, _ in terms)
        freedom = total**2 / sum(value**2 / df for value, df in terms) if len(terms) > 1 else float(terms[0][1])
        return total / n, freedom, (sd["sets"], sd["seeds"], math.sqrt(error))


def _mean(square: float, df: int) -> float:
    return square / df if df else 0.0
