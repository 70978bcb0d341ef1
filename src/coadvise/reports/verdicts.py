"""Verdicts shown: the table of all claims, the claims of one experiment, and a sentence on kinds of teachers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ..paper.arms import Arm
from ..paper.declared import Experiment, Near
from ..significance import DOES_NOT_HOLD, HOLDS
from .claims import NO_MEANING, NOT_MEASURED, Judged
from .page import Section, Text
from .tables import ABSENT, Cell, Table, p_value, shown, title_of

FINDS = "Could find (alone)"


def claims_section(experiments: Sequence[Experiment], judged: Mapping[str, Sequence[Judged]]) -> Section:
    """How many claims of each table hold; they themselves stand with their tables."""
    kinds = (HOLDS, DOES_NOT_HOLD, "undecided", NO_MEANING, NOT_MEASURED)
    counts = [(one, Counter(map(_kind, judged[one.name]))) for one in experiments if judged[one.name]]
    rows: list[list[str | Cell]] = [
        [Cell(title_of(one.name), link=one.name), one.title, *(f"{found[kind]}" for kind in kinds)]
        for one, found in counts
    ]
    columns = ["In", "On", "Hold", "Do not hold", "Undecided", "Mean nothing here", "Not measured"]
    table = Table("The paper's claims by their verdicts", columns, rows, "llrrrrr")
    note = (
        "The claims themselves stand with their tables. "
        "Differences are in percentage points where no unit is given, and in the claim's own direction: above zero "
        "speaks for it. Where a margin stands beside a difference, such as ±1.5, the claim is that it is nearer to "
        "zero than that, or below it, and p is about its distance to the margin. “Could find” is the smallest true "
        "difference that a test of this n and spread finds with 80 % power, at the level of Holm's first step and, in "
        "brackets, uncorrected; of a claim that two are about equal, the smallest margin within which two that are "
        "equal are shown to be. What is undecided may be as large. The files behind each are named in verdicts.json."
    )
    return Section(
        "claims", "The claims", [table, Text(note, "note")] if rows else [Text("No claim belongs to these.")]
    )


def _kind(one: Judged) -> str:
    """Its verdict, without the number of seeds where it is undecided."""
    return one.verdict if one.verdict in (HOLDS, DOES_NOT_HOLD, NO_MEANING, NOT_MEASURED) else "undecided"


def claims_table(judged: Sequence[Judged]) -> Table:
    """The claims of one experiment with their intervals and remarks."""
    rows = []
    for one in judged:
        ends = [] if one.test is None else [end for end in (one.test.low, one.test.high) if end is not None]
        interval = " … ".join(shown(end, one.claim.unit, True) for end in ends) or ABSENT
        difference, n, p, find, cell = _cells(one)
        rows.append([one.claim.text, one.claim.place, cell, one.reason or ABSENT, difference, interval, n, p, find])
    columns = [
        "Claim", "Place", "Verdict", "Remark", "Difference", "95 % interval, uncorrected", "n", "p (Holm)", FINDS,
    ]  # fmt: skip
    return Table("Claims", columns, rows, "llllrrrrr", frozenset({1, 3, 5}))


def _reach(one: Judged) -> str:
    """What the test could have found, at the corrected level and alone."""
    if one.reach is None:
        return ABSENT
    margin = "within ±" if isinstance(one.claim.says, Near) else "≥ "
    corrected, alone = (shown(value, one.claim.unit) for value in (one.reach.corrected, one.reach.alone))
    return f"{margin}{corrected} ({alone})"


def _cells(one: Judged) -> list[str | Cell]:
    cell = Cell(one.verdict, {HOLDS: "good", DOES_NOT_HOLD: "bad"}.get(one.verdict, "open"))
    claim = one.claim
    if claim.compared and one.differences:
        return [shown(next(iter(one.differences.values())), claim.unit, True), ABSENT, "compared", ABSENT, cell]
    if one.test is None:
        return [ABSENT, "0", ABSENT, ABSENT, cell]
    sign = "±" if isinstance(claim.says, Near) else "< "
    margin = "" if claim.margin is None else f" ({sign}{shown(claim.margin, claim.unit)})"
    return [shown(one.test.mean, claim.unit, True) + margin, str(one.test.n), p_value(one.p), _reach(one), cell]


def kinds_sentences(judged: Sequence[Judged]) -> list[str]:
    """Whether teachers of different kinds taught better than as many of the same kind, by the claims about that."""
    found, undecided = [], []
    for one in judged:
        claim = one.claim
        if claim.says != "above" or one.test is None or [_kinds(v.arm) for v in claim.values] != [2, 1]:
            continue
        if one.verdict not in (HOLDS, DOES_NOT_HOLD):
            gap = shown(one.test.mean, "%", True)
            undecided.append(f"“{claim.text}” is {one.verdict}, with a difference of {gap} points")
            continue
        better, worse = ["different kinds", "the same kind"][:: 1 if one.verdict == HOLDS else -1]
        p = p_value(one.p) if one.p is not None and one.p < 0.001 else f"= {p_value(one.p)}"
        found.append(
            f"Teachers of {better} taught better than teachers of {worse} here, by {shown(abs(one.test.mean), '%')} "
            f"points (p {p}, n = {one.test.n}): “{claim.text}” {one.verdict}."
        )
    if undecided:
        some = "on all counts" if found else "here"
        found.append(
            "Whether teachers of different kinds teach better than teachers of the same kind is not decided "
            f"{some}: {'; '.join(undecided)}."
        )
    return found


def _kinds(arm: Arm) -> int:
    """Number of kinds among several teachers; 0 for one teacher or none."""
    return len({teacher.bias for teacher in arm.teachers}) if len(arm.teachers) > 1 else 0
