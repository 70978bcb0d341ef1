"""The paper's claims tested on our runs.

A claim is about the sum of some measured values less the sum of others, for each seed. These differences are tested
against zero over the seeds (two-sided t-test) and corrected (Holm) over the claims of their table. A claim that two
ways are about equal is tested against a margin: the mean difference must be nearer to zero. As that is another
question, such claims are corrected among themselves. Claims about sizes and speeds are decided by comparison: sizes
are those of the networks that the paper names, at any scale; speeds are measured at the paper's own scale alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

from ..paper.declared import SIMILAR, Below, Claim, Condition, Experiment, Near, Value
from ..paper.sizes import PARAMETERS
from ..significance import (
    ALPHA,
    DOES_NOT_HOLD,
    HOLDS,
    Paired,
    Summary,
    detectable,
    equal_within,
    holm,
    paired_difference,
    verdict,
)  # fmt: skip
from .results import Results
from .titles import arm_title

NOT_MEASURED = "not measured"
NO_MEANING = "means nothing here"
RESOLUTION = 2e-6
"""Of a difference: older result files keep six decimals of each number."""
OWN_SCALE = "imagenet"
"""The paper's scale; at all others the sizes of models, and so their speeds, are chosen with the scale."""


@dataclass(frozen=True)
class Reach:
    """What a test of this n and spread finds with 80 % power, in the metric's own unit.

    The smallest true difference or, of a claim that two are about equal, the smallest margin within which it would be
    shown of two that are equal.

    Attributes:
        alone: uncorrected.
        corrected: at the strictest level of Holm's correction: were no other claim of the table found.
    """

    alone: float
    corrected: float


@dataclass(frozen=True)
class Judged:
    """A claim with what speaks for or against it.

    Attributes:
        differences: by seed, in the metric's own unit (shares, nats).
        test: of the differences; None where there is none, and for sizes and speeds.
        p: of what the claim says: of the differences, or of their distance to the margin.
        files: result files it rests on.
        reason: why there is no verdict, or what limits it.
        reach: what could have been found; None where there is no test.
    """

    experiment: str
    claim: Claim
    differences: Mapping[int, float]
    test: Summary | None
    p: float | None
    verdict: str
    files: Sequence[str]
    reason: str = ""
    reach: Reach | None = None

    def as_json(self) -> dict[str, Any]:
        """For `verdicts.json`."""
        return {
            "experiment": self.experiment,
            "claim": self.claim.text,
            "place": self.claim.place,
            "says": _said(self.claim),
            "plus": [value.as_json() for value in self.claim.plus],
            "minus": [value.as_json() for value in self.claim.minus],
            **({} if self.claim.times == 1 else {"times": self.claim.times}),
            "unit": self.claim.unit,
            "differences": {_by(self.claim, seed): round(value, 6) for seed, value in self.differences.items()},
            "margin": self.claim.margin,
            "mean": None if self.test is None else round(self.test.mean, 6),
            "p (Holm)": None if self.p is None else float(f"{self.p:.4g}"),
            "could find": None if self.reach is None else round(self.reach.alone, 6),
            "could find (Holm)": None if self.reach is None else round(self.reach.corrected, 6),
            "verdict": self.verdict,
            "reason": self.reason,
            "files": list(self.files),
        }


def _by(claim: Claim, seed: int) -> str:
    """Of what a difference is."""
    if claim.counted:
        return "networks"
    return "best" if claim.compared else str(seed)


def _said(claim: Claim) -> str:
    """What is asked of the number, in a word."""
    if claim.compared:
        return "compared"
    return claim.says if isinstance(claim.says, str) else type(claim.says).__name__.lower()


def judge(experiment: Experiment, results: Results) -> list[Judged]:
    """Every claim of an experiment, corrected over all that it makes."""
    differences = [_differences(claim, results) for claim in experiment.claims]
    tests = [
        _tests(claim, list(found.values())) if found and not claim.compared else (None, None)
        for claim, found in zip(experiment.claims, differences, strict=True)
    ]
    corrected = _corrected(experiment.claims, [None if decisive is None else decisive.p for _, decisive in tests])
    judged = []
    for claim, found, (test, decisive), p in zip(experiment.claims, differences, tests, corrected, strict=True):
        if not found:
            word, reason = _absent(claim, results)
        else:
            word, reason = _meaningless(claim, found, results) or (_word(claim, found, decisive, p), _limits(claim))
        used = _files(claim, found, results)
        reach = _reach(claim, test, len(_family(experiment.claims, claim.margin is not None)), p)
        judged.append(Judged(experiment.name, claim, found, test, p, word, used, reason, reach))
    return judged


def _reach(claim: Claim, test: Summary | None, family: int, p: float | None) -> Reach | None:
    """What the test could have found among so many claims; the spread of differences is that to any margin, too."""
    if test is None or test.sd is None or p is None:
        return None
    least = equal_within if isinstance(claim.says, Near) else detectable
    se = test.sd / math.sqrt(test.n)
    return Reach(se * least(test.n - 1), se * least(test.n - 1, ALPHA / family))


def _word(claim: Claim, differences: Mapping[int, float], tested: Paired | None, p: float | None) -> str:
    """The verdict of a claim that means something."""
    if claim.compared:
        return HOLDS if all(value > 0 for value in differences.values()) else DOES_NOT_HOLD
    word = verdict(tested, p)
    return HOLDS if claim.says == "differs" and word == DOES_NOT_HOLD else word


def _against_zero(differences: Sequence[float]) -> Paired:
    return paired_difference(differences, [0.0] * len(differences), resolution=RESOLUTION)


def _tests(claim: Claim, differences: Sequence[float]) -> tuple[Paired, Paired]:
    """The test of the differences, and the one that decides: the same, or that of their distance to the margin.

    For a margin on both sides, that side counts on which the mean lies: whether the mean is inside on this side is what
    decides a test for equivalence. The two-sided p is twice that test's.
    """
    test = _against_zero(differences)
    match claim.says:
        case "above" | "differs":
            return test, test
        case Below(margin):
            return test, _against_zero([margin - one for one in differences])
        case Near(margin):
            side = 1.0 if test.mean >= 0 else -1.0
            return test, _against_zero([margin - side * one for one in differences])


def _corrected(claims: Sequence[Claim], p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction over the claims that something is better, and over those that two are about equal."""
    corrected: list[float | None] = [None] * len(claims)
    for about_equal in (False, True):
        family = _family(claims, about_equal)
        for i, p in zip(family, holm([p_values[i] for i in family]), strict=True):
            corrected[i] = p
    return corrected


def _family(claims: Sequence[Claim], about_equal: bool) -> list[int]:
    """Which of the claims are corrected together."""
    return [i for i, one in enumerate(claims) if not one.compared and (one.margin is not None) == about_equal]


def _limits(claim: Claim) -> str:
    """What a reader of the verdict should know of the claim."""
    known = []
    if claim.counted:
        great, small = (sum(_size(value) or 0 for value in values) / 1e6 for values in (claim.plus, claim.minus))
        known.append(f"{small:.1f} of {great:.1f} M, {100 * small / great:.0f} %: counted in the paper's networks")
    if claim.margin is not None:
        near = "near zero: " if isinstance(claim.says, Near) else ""
        known.append(f"{near}by less than {100 * claim.margin:g} points")
    if any(value.seed is not None for one in claim.conditions for value in (one.first, one.second)):
        known.append("one run of each teacher")
    return "; ".join(known)


def _differences(claim: Claim, results: Results) -> dict[int, float]:
    """By seed; of what is compared, one difference of the best runs."""
    if claim.counted:
        found = {0: _difference(claim, _size)}
    elif claim.compared:
        found = {0: _difference(claim, results.best) if _at_own_scale(results) else None}
    else:
        free = [value for value in claim.values if value.seed is None]
        seeds = set.intersection(*(set(results.series(value)) for value in free)) if free else {0}
        found = {seed: _difference(claim, partial(results.value, seed=seed)) for seed in sorted(seeds)}
    return {seed: difference for seed, difference in found.items() if difference is not None}


def _difference(claim: Claim, number: Callable[[Value], float | None]) -> float | None:
    plus, minus = ([n for value in values if (n := number(value)) is not None] for values in (claim.plus, claim.minus))
    return sum(plus) - claim.times * sum(minus) if len(plus) + len(minus) == len(claim.values) else None


def _size(value: Value) -> float | None:
    """Parameters of the network that the paper names."""
    return PARAMETERS.get(value.arm.id)


def _at_own_scale(results: Results) -> bool:
    return all(run.scale == OWN_SCALE for run in results.files.values())


def _absent(claim: Claim, results: Results) -> tuple[str, str]:
    """Verdict and reason where not a single seed has all numbers."""
    if claim.compared and not _at_own_scale(results):
        return NOT_MEASURED, f"not at this scale, whose models are smaller; --scale {OWN_SCALE} measures it"
    if missing := sorted({arm_title(value.arm) for value in claim.values if not results.seeds(value.arm)}):
        return NOT_MEASURED, f"no finished run of {'; '.join(missing)}"
    if lacking := sorted({value.metric for value in claim.values if not results.series(value)}):
        return NOT_MEASURED, "; ".join(dict.fromkeys(why_absent(metric) for metric in lacking))
    return NOT_MEASURED, "no seed that all runs share"


def why_absent(metric: str) -> str:
    """Why finished runs lack a metric."""
    group = metric.partition("/")[0]
    if group in ("a", "r"):
        return f"give the images with --shifted {group}=FOLDER"
    return f"no run has {metric}"


def _meaningless(claim: Claim, differences: Mapping[int, float], results: Results) -> tuple[str, str] | None:
    """Verdict and reason where a claim says nothing here, or cannot be known to; None where it does."""
    if claim.compared and not claim.counted:
        machines = {str(run.machine_of(value.metric)) for value in claim.values for run in results.runs(value.arm)}
        if len(machines) > 1:
            return NOT_MEASURED, "the runs are of different machines"
    for condition in claim.conditions:
        if problem := _unmet(condition, _seeds(claim, condition, differences, results), results):
            return problem
    return None


def _seeds(
    claim: Claim, condition: Condition, differences: Mapping[int, float], results: Results
) -> dict[Value, list[int]]:
    """The seeds over which each side of a condition is averaged: those that the claim is judged by and both sides have.

    Where there are none, as for a claim that is not of seeds, all seeds of each side.
    """
    sides = {value: results.series(value) for value in (condition.first, condition.second)}
    free = [series.keys() for value, series in sides.items() if value.seed is None]
    of_seeds = not claim.compared and any(value.seed is None for value in claim.values)
    shared = [] if not of_seeds else [seed for seed in differences if all(seed in one for one in free)]
    return {value: shared if shared and value.seed is None else sorted(series) for value, series in sides.items()}


def _unmet(condition: Condition, seeds: Mapping[Value, Sequence[int]], results: Results) -> tuple[str, str] | None:
    values = (condition.first, condition.second)
    if condition.kind == "images":
        sizes = ([run.settings.get("data.image_size") for run in results.runs(value.arm)] for value in values)
        one, other = (next(iter(found), None) for found in sizes)
        return None if one == other else (NO_MEANING, f"{condition.text}; here they see {one} and {other} pixels")
    series = (results.series(value) for value in values)
    first, second = (
        fmean(one[seed] for seed in seeds[value]) if one else None for value, one in zip(values, series, strict=True)
    )
    if first is None or second is None:
        missing = "; ".join(arm_title(value.arm) for value in values if results.mean(value) is None)
        return NOT_MEASURED, f"{condition.text}; no finished run of {missing}"
    met = abs(first - second) <= SIMILAR if condition.kind == "similar" else first - second > condition.by
    return None if met else (NO_MEANING, f"{condition.text}; here they have {100 * first:.1f} and {100 * second:.1f} %")


def _files(claim: Claim, differences: Mapping[int, float], results: Results) -> list[str]:
    if claim.counted:
        return []
    used = [
        (value, seed if value.seed is None else value.seed)
        for value in claim.values
        for seed in (results.seeds(value.arm) if claim.compared and differences else differences)
    ]
    for one in claim.conditions if differences else ():
        used += [(v, seed) for v, all_ in _seeds(claim, one, differences, results).items() for seed in all_]
    return sorted({f"{name}.json" for value, seed in used if (name := results.file(value.arm, seed)) is not None})
