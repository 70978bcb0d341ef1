"""The paper's claims against our runs: each is a number that must be above zero, tested over the seeds.

A claim is the sum of some measured values less the sum of others. Runs of one seed go together; the differences over
the seeds are tested against zero (two-sided t-test) and corrected (Holm) over the claims of their table. Claims about
numbers without chance, such as parameters, are decided by arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .experiments.arms import Arm
from .experiments.declared import Claim, Experiment, Value
from .report_inputs import finite
from .statistics import DOES_NOT_HOLD, HOLDS, Summary, holm, paired_difference, verdict

NOT_MEASURED = "not measured"
NO_MEANING = "means nothing here"
RESOLUTION = 2e-6
"""Of a difference: older result files keep six decimals of each number."""
SIMILAR = 0.02
"""Largest difference in top-1 at which two networks count as similar (Table 1)."""


class Results:
    """Result files by arm and seed.

    Args:
        files: name of the file → its content.
    """

    def __init__(self, files: Mapping[str, Mapping[str, Any]]) -> None:
        self.files = files
        self._by_arm: dict[str, dict[int, str]] = {}
        for name in sorted(files):
            self._by_arm.setdefault(files[name]["arm"], {})[int(files[name]["seed"])] = name

    def seeds(self, arm: Arm) -> list[int]:
        """Seeds of an arm that were run."""
        return sorted(self._by_arm.get(arm.id, {}))

    def file(self, arm: Arm, seed: int) -> str | None:
        """Name of a run's file."""
        return self._by_arm.get(arm.id, {}).get(seed)

    def content(self, arm: Arm, seed: int) -> Mapping[str, Any]:
        """A run's file; empty where it was not run."""
        name = self.file(arm, seed)
        return self.files[name] if name is not None else {}

    def value(self, value: Value, seed: int) -> float | None:
        """A measured number, None where it is missing or not finite."""
        content = self.content(value.arm, seed if value.seed is None else value.seed)
        return finite(content.get("measured", {}).get(value.metric))

    def series(self, value: Value) -> dict[int, float]:
        """A number by seed; a value of one fixed seed has that one alone."""
        seeds = self.seeds(value.arm) if value.seed is None else [value.seed]
        found = {seed: self.value(value, seed) for seed in seeds}
        return {seed: number for seed, number in found.items() if number is not None}


@dataclass(frozen=True)
class Judged:
    """A claim with what speaks for or against it.

    Attributes:
        differences: by seed, in the metric's own unit (shares, nats).
        test: of the differences; None where there is none, and for exact claims.
        files: result files it rests on.
        reason: why there is no verdict, or what limits it.
    """

    experiment: str
    claim: Claim
    differences: Mapping[int, float]
    test: Summary | None
    p: float | None
    verdict: str
    files: Sequence[str]
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """For `verdicts.json`."""
        return {
            "experiment": self.experiment,
            "claim": self.claim.text,
            "place": self.claim.place,
            "unit": self.claim.unit,
            "differences": {str(seed): round(value, 6) for seed, value in self.differences.items()},
            "mean": None if self.test is None else round(self.test.mean, 6),
            "p (Holm)": None if self.p is None else round(self.p, 6),
            "verdict": self.verdict,
            "reason": self.reason,
            "files": list(self.files),
        }


def judge(experiment: Experiment, results: Results) -> list[Judged]:
    """Every claim of an experiment, corrected over all that it makes."""
    differences = [_differences(claim, results) for claim in experiment.claims]
    tests = [
        paired_difference(list(found.values()), [0.0] * len(found), resolution=RESOLUTION)
        if found and not claim.exact
        else None
        for claim, found in zip(experiment.claims, differences, strict=True)
    ]
    by_chance = [i for i, claim in enumerate(experiment.claims) if not claim.exact]
    corrected: list[float | None] = [None] * len(tests)
    for i, p in zip(by_chance, holm([None if (test := tests[i]) is None else test.p for i in by_chance]), strict=True):
        corrected[i] = p
    judged = []
    for claim, found, test, p in zip(experiment.claims, differences, tests, corrected, strict=True):
        reason = ""
        if not found:
            word, reason = _absent(claim, results)
        elif claim.exact:
            word = HOLDS if all(value > 0 for value in found.values()) else DOES_NOT_HOLD
        else:
            word = verdict(test, p)
        if found and claim.condition and (problem := _condition(claim, results)):
            word, reason = NO_MEANING, problem
        judged.append(Judged(experiment.name, claim, found, test, p, word, _files(claim, found, results), reason))
    return judged


def _differences(claim: Claim, results: Results) -> dict[int, float]:
    free = [value for value in claim.values if value.seed is None]
    seeds = set.intersection(*(set(results.series(value)) for value in free)) if free else {0}
    found = {}
    for seed in sorted(seeds):
        plus = [results.value(value, seed) for value in claim.plus]
        minus = [results.value(value, seed) for value in claim.minus]
        if None not in (*plus, *minus):
            found[seed] = sum(v for v in plus if v is not None) - sum(v for v in minus if v is not None)
    return found


def _absent(claim: Claim, results: Results) -> tuple[str, str]:
    """Verdict and reason where not a single seed has all numbers."""
    missing = sorted({value.arm.id for value in claim.values if not results.seeds(value.arm)})
    if missing:
        return NOT_MEASURED, f"no finished run of {', '.join(missing)}"
    lacking = sorted({value.metric for value in claim.values if not results.series(value)})
    if lacking:
        return NOT_MEASURED, "; ".join(dict.fromkeys(why_absent(metric) for metric in lacking))
    return NOT_MEASURED, "no seed that all runs share"


def why_absent(metric: str) -> str:
    """Why finished runs lack a metric."""
    group = metric.partition("/")[0]
    if group in ("a", "r"):
        return f"give the images with --shifted {group}=FOLDER"
    return f"no run has {metric}"


def _condition(claim: Claim, results: Results) -> str:
    """Why a claim says nothing here, by the numbers; empty where it does."""
    arms = list(dict.fromkeys(value.arm for value in claim.values))
    means = {arm: _mean(results.series(Value(arm))) for arm in arms}
    if "similar top-1" in claim.condition:
        first, second = (means[arm] for arm in arms[:2])
        if first is not None and second is not None and abs(first - second) > SIMILAR:
            return f"{claim.condition}; here they have {100 * first:.1f} and {100 * second:.1f} %"
    if "the better one" in claim.condition:
        strong, weak = claim.plus[0], claim.minus[0]
        a, b = _mean(results.series(strong)), _mean(results.series(weak))
        if a is not None and b is not None and a <= b:
            return f"{claim.condition}; here it has {100 * a:.1f} %, the other one {100 * b:.1f} %"
    return ""


def _mean(series: Mapping[int, float]) -> float | None:
    return sum(series.values()) / len(series) if series else None


def _files(claim: Claim, differences: Mapping[int, float], results: Results) -> list[str]:
    names = {
        results.file(value.arm, seed if value.seed is None else value.seed)
        for value in claim.values
        for seed in differences
    }
    return sorted(f"{name}.json" for name in names if name is not None)
