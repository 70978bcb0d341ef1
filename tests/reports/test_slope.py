"""The line through pairs of teachers against SciPy's, and what counts as a pair."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from coadvise.paper.ablations import LABELS_ONLY
from coadvise.paper.kinds import BOTH_KINDS, KINDS_EXPERIMENT, TWO_CONV, TWO_INV
from coadvise.reports.results import Results
from coadvise.reports.slope import Pair, line_through, pairs_of, slope_section, taught_by_others
from coadvise.run.headroom import Estimate, Headroom, HeadroomResult, Two
from tests.reports.test_contrasts import files

ABSENT = Estimate(None, None, None)


def headroom(accuracies: dict[tuple[str, str], float]) -> HeadroomResult:
    pairs = tuple(
        Two(names, ("conv", "inv"), 1, Estimate(value, value, value), ABSENT, ABSENT, ABSENT, ABSENT, None)
        for names, value in accuracies.items()
    )
    seen = Headroom(10, 10, 1, (), pairs, (), ())
    return HeadroomResult("h", seen, seen, 1, 10, 0, 1.0)


def test_a_line_is_that_of_scipy_and_its_interval_holds_it() -> None:
    x, noise = np.linspace(0.6, 0.7, 9), np.random.default_rng(0).normal(0, 0.002, 9)
    pairs = [
        Pair(f"p{i}", "conv", float(a), float(0.5 * a - 0.2 + e), 6)
        for i, (a, e) in enumerate(zip(x, noise, strict=True))
    ]
    line, wanted = line_through(pairs), stats.linregress(x, [one.gain for one in pairs])
    assert line is not None
    assert line.slope == pytest.approx(wanted.slope) and line.start == pytest.approx(wanted.intercept)
    assert line.r2 == pytest.approx(wanted.rvalue**2) and line.low < line.slope < line.high
    assert line_through([replace_together(one) for one in pairs]) is None


def replace_together(one: Pair) -> Pair:
    return one._replace(together=0.5)


def test_pairs_are_those_whose_students_differ_in_nothing_else() -> None:
    found = files({(LABELS_ONLY,): 0.5, BOTH_KINDS: 0.55, TWO_CONV: 0.53, TWO_INV: 0.54}, spread=0.0)
    names = [tuple(teacher.name for teacher in one.teachers) for one in (*BOTH_KINDS, *TWO_CONV, *TWO_INV)]
    known = headroom({(b, a): 0.6 + 0.01 * i for i, (a, b) in enumerate(names)})  # in the other order
    pairs = pairs_of([KINDS_EXPERIMENT], Results(found), known)
    assert len(pairs) == 9 and {round(one.gain, 3) for one in pairs} == {0.05, 0.03, 0.04}
    assert {one.kinds for one in pairs} == {"conv + inv", "conv", "inv"}
    section = slope_section([KINDS_EXPERIMENT], Results(found), known)
    assert section is not None and "9 pairs" in str(section.parts[0])
    changed = replace(KINDS_EXPERIMENT, rows=(), contrasts=(), claims=(), figure=None)
    assert not pairs_of([changed], Results(found), known) and slope_section([changed], Results(found), known) is None
    assert slope_section([KINDS_EXPERIMENT], Results(found), None) is None


def test_a_headroom_of_other_runs_of_the_teachers_is_not_taken() -> None:
    found = files({(LABELS_ONLY,): 0.5, TWO_CONV: 0.53}, spread=0.0)
    advisers = {teacher.name: f"{i}aaaaaaaaaaaaaaa" for one in TWO_CONV for i, teacher in enumerate(one.teachers)}
    taught = {
        name: replace(one, advisers={key: advisers[key] for key in advisers if key in one.arm.split(".")})
        for name, one in found.items()
    }
    known = headroom({(names[0].name, names[1].name): 0.6 for one in TWO_CONV if (names := one.teachers)})
    for digest, there in (("aaaaaaa", True), ("bbbbbbb", False)):
        facts = {key: {"file": f"runs/x/runs/m.s0.{one[0]}{digest}/best.safetensors"} for key, one in advisers.items()}
        pairs = pairs_of([KINDS_EXPERIMENT], Results(taught), replace(known, facts=facts))
        assert bool(pairs) is there
    of = {name: replace(one, teacher_weights=dict.fromkeys(one.advisers, "1")) for name, one in taught.items()}
    for digest, there in (("1", True), ("2", False)):  # whatever the folders are called
        facts = {key: {"file": "/w/best.pth", "file digest": digest} for key in advisers}
        assert bool(pairs_of([KINDS_EXPERIMENT], Results(of), replace(known, facts=facts))) is there
        assert taught_by_others(Results(of), replace(known, facts=facts)) == ([] if there else sorted(advisers))
        unheard_of = replace(known, facts={"none of theirs": {"file": "/w/x.pth", "file digest": digest}})
        assert taught_by_others(Results(of), unheard_of) == []
