"""The questions of an experiment over several sets of teachers: their tests, verdicts and table.

The primary question is the only one that is not corrected. Where it has several parts, it is answered by the worst of
them. All other contrasts are exploratory: Holm's correction over all of them, of the tests for a difference and of
those for none. Nothing is tested before all differences of a contrast are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..crossed import Crossed, crossed
from ..paper.declared import Contrast, Experiment
from ..significance import ALPHA, DOES_NOT_HOLD, HOLDS, holm
from .page import Part, Text
from .results import Results
from .tables import ABSENT, Cell, Table, number, p_value, shown

EQUAL = "no difference"


@dataclass(frozen=True)
class Answered:
    """A contrast with what speaks for or against it.

    Attributes:
        differences: by (set of teachers, seed), the first number of a pair less the second.
        n: so many differences are there.
        test: of their mean; None before all are there.
        p: of no difference, corrected where the contrast is exploratory.
        p_equal: of a difference of the margin or more, corrected likewise.
        files: result files that it rests on.
    """

    experiment: str
    contrast: Contrast
    differences: dict[tuple[int, int], float]
    n: int
    test: Crossed | None
    p: float | None
    p_equal: float | None
    verdict: str
    files: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """For `verdicts.json`."""
        test = self.test
        return {
            "experiment": self.experiment,
            "contrast": self.contrast.text,
            "primary": self.contrast.primary,
            "unit": self.contrast.unit,
            "pairs": [[first.as_json(), second.as_json()] for first, second in self.contrast.pairs],
            "seeds": self.contrast.seeds,
            "margin": self.contrast.margin,
            "differences": {f"{one}/{seed}": round(value, 6) for (one, seed), value in self.differences.items()},
            "mean": None if test is None else round(test.mean, 6),
            "standard error": None if test is None or test.se is None else round(test.se, 6),
            "degrees of freedom": None if test is None or test.df is None else round(test.df, 2),
            "p": None if self.p is None else float(f"{self.p:.4g}"),
            "p (within the margin)": None if self.p_equal is None else float(f"{self.p_equal:.4g}"),
            "verdict": self.verdict,
            "files": list(self.files),
        }


def answer(experiment: Experiment, results: Results) -> list[Answered]:
    """Every contrast of an experiment."""
    found = [_differences(contrast, results) for contrast in experiment.contrasts]
    tests = [_test(one, contrast) for one, contrast in zip(found, experiment.contrasts, strict=True)]
    primary = [one.primary for one in experiment.contrasts]
    unequal = _corrected([None if test is None else test.p for test in tests], primary)
    within = [
        None if test is None else test.p_within(one.margin)
        for test, one in zip(tests, experiment.contrasts, strict=True)
    ]
    answers = []
    for contrast, differences, test, p, equal in zip(
        experiment.contrasts, found, tests, unequal, _corrected(within, primary), strict=True
    ):
        n = len(differences)
        files = sorted(
            f"{name}.json"
            for number, pair in enumerate(contrast.pairs)
            for value in pair
            for one, seed in differences
            if one == number and (name := results.file(value.arm, seed)) is not None
        )
        verdict = _verdict(contrast, n, test, p, equal)
        answers.append(
            Answered(experiment.name, contrast, differences, n, test, p, equal, verdict, list(dict.fromkeys(files)))
        )
    return answers


def _corrected(p_values: Sequence[float | None], primary: Sequence[bool]) -> list[float | None]:
    """Holm's correction of the exploratory ones; one that is not there yet counts as one of them."""
    corrected = list(p_values)
    exploratory = [i for i, one in enumerate(primary) if not one]
    for i, p in zip(exploratory, holm([p_values[i] for i in exploratory]), strict=True):
        corrected[i] = p
    return corrected


def _differences(contrast: Contrast, results: Results) -> dict[tuple[int, int], float]:
    found: dict[tuple[int, int], float] = {}
    for row, (first, second) in enumerate(contrast.pairs):
        one, other = results.series(first), results.series(second)
        shared = (seed for seed in one.keys() & other.keys() if seed < contrast.seeds)
        found |= {(row, seed): one[seed] - other[seed] for seed in shared}
    return dict(sorted(found.items()))


def _test(differences: dict[tuple[int, int], float], contrast: Contrast) -> Crossed | None:
    if len(differences) < len(contrast.pairs) * contrast.seeds:
        return None
    return crossed(differences, correlation=contrast.correlation)


def _verdict(contrast: Contrast, n: int, test: Crossed | None, p: float | None, p_equal: float | None) -> str:
    if test is None:
        return f"not yet: {n} of {len(contrast.pairs) * contrast.seeds}"
    if p is not None and p < ALPHA:
        return HOLDS if test.mean > 0 else DOES_NOT_HOLD
    if p_equal is not None and p_equal < ALPHA:
        return f"{EQUAL} (within ±{shown(contrast.margin, contrast.unit)})"
    return f"undecided at n = {n}"


def primary_sentence(answers: Sequence[Answered]) -> str | None:
    """The answer to the primary question in one sentence; None for an experiment without one."""
    parts = [one for one in answers if one.contrast.primary]
    if not parts:
        return None
    said = "; ".join(f"{_lower(one.contrast.text)}: {_state(one)}" for one in parts)
    missing = any(one.test is None for one in parts)
    if any(map(_fails, parts)):
        also = ", whatever the missing runs say" if missing else ""
        return f"That a second kind pays is not shown here{also}: {said}."
    if missing:
        wanted = max(one.contrast.seeds for one in parts)
        return f"The primary question is not answered yet ({said}); the same command with --seeds {wanted} goes on."
    return f"A second kind pays here: {said}."


def is_decided(answers: Sequence[Answered]) -> bool:
    """Whether the primary question has an answer: all parts are there, or one that does not hold, as yes needs all."""
    parts = [one for one in answers if one.contrast.primary]
    return bool(parts) and (all(one.test is not None for one in parts) or any(map(_fails, parts)))


def _fails(one: Answered) -> bool:
    return one.test is not None and one.verdict != HOLDS


def primary_headline(answers: Sequence[Answered]) -> str | None:
    """The same for the top of a page, without numbers where there is an answer."""
    sentence = primary_sentence(answers)
    return None if sentence is None else sentence.partition(": both")[0]


def _state(one: Answered) -> str:
    if one.test is not None:
        return f"{_numbers(one)}, {_in_words(one)}"
    return f"{one.n} of {len(one.contrast.pairs) * one.contrast.seeds} differences are there"


def _in_words(one: Answered) -> str:
    return "a difference the other way" if one.verdict == DOES_NOT_HOLD else one.verdict


def _numbers(one: Answered) -> str:
    assert one.test is not None
    return f"{shown(one.test.mean, one.contrast.unit, True)} points ({_interval(one.test, one.contrast.unit)})"


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


def _interval(test: Crossed, unit: str) -> str:
    ends = [end for end in (test.low, test.high) if end is not None]
    return " … ".join(shown(end, unit, True) for end in ends) or ABSENT


def contrasts_parts(answers: Sequence[Answered]) -> list[Part]:
    """The answer to the primary question, and tables of its parts and of all other contrasts."""
    if not answers:
        return []
    columns = [
        "Contrast", "Verdict", "Difference", "95 % interval", "p", "p, within ±", "Could find", "n", "df",
    ]  # fmt: skip
    groups = {"The primary question": True, "Exploratory contrasts": False}
    tables = [
        Table(caption, columns, rows, "llrrrrrrr", frozenset({3, 8}))
        for caption, primary in groups.items()
        if (rows := [_row(one) for one in answers if one.contrast.primary == primary])
    ]
    sentence = primary_sentence(answers)
    note = (
        "Differences are in percentage points where no unit is given; above zero speaks for the contrast. The primary "
        "ones are parts of one question, which is answered by the worst of them, without correction. All others are "
        "exploratory, their p corrected (Holm) over all of them, for a difference and within the margin apart. “p, "
        "within ±” is that of two one-sided tests for a difference smaller than the margin. Nothing is tested "
        "before all differences are there. “Could find”: the smallest difference that a table of this size and spread "
        "finds with 80 % power, uncorrected. n counts differences, sets of teachers times seeds; df are those of the "
        "test with both as random effects: with few sets that differ, it is these, not n, that carry what is said of "
        "teachers in general."
    )
    return [*([Text(sentence)] if sentence else []), *tables, Text(note, "note")]


def _row(one: Answered) -> list[str | Cell]:
    unit, test = one.contrast.unit, one.test
    kind = {HOLDS: "good", DOES_NOT_HOLD: "bad"}.get(one.verdict, "open")
    cells: list[str | Cell] = [one.contrast.text, Cell(one.verdict, kind)]
    if test is None:
        return [*cells, *[ABSENT] * 5, f"{one.n}", ABSENT]
    finds = test.detectable()
    return [
        *cells, shown(test.mean, unit, True), _interval(test, unit), p_value(one.p), p_value(one.p_equal),
        ABSENT if finds is None else shown(finds, unit), f"{test.n}",
        ABSENT if test.df is None else number(test.df, 1),
    ]  # fmt: skip
