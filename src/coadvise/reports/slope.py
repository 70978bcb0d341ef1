"""What students gain from pairs of teachers, against what these pairs know together before any student is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..paper.ablations import LABELS_ONLY
from ..paper.arms import Arm, arm
from ..paper.declared import Experiment, Value
from ..run.headroom import HeadroomResult
from ..run.measurement import Measurement
from .page import Section, Text
from .plots.slope import Dot, slope_figure
from .plots.style import draw
from .results import Results
from .tables import Table, number, percent, points

FEWEST = 8
"""Pairs from which on a line says anything."""
_RESAMPLES = 2000


class Pair(NamedTuple):
    """A pair of teachers: its names and kinds, the accuracy of the mean of both as students see images, and what its
    students gain over labels alone, the mean of so many seeds; shares."""

    title: str
    kinds: str
    together: float
    gain: float
    seeds: int


class Line(NamedTuple):
    """A line through pairs: gain for each point of headroom with its 95 % interval, R², and the gain at no headroom."""

    slope: float
    low: float
    high: float
    r2: float
    start: float


def pairs_of(experiments: Sequence[Experiment], results: Results, headroom: HeadroomResult) -> list[Pair]:
    """Every pair of teachers with a measured headroom, whose students differ from labels alone in nothing else.

    A headroom that is of other runs of these teachers than those that taught says nothing of the students.
    """
    known = {frozenset(two.names): two for two in headroom.student.pairs}
    base = results.series(Value(LABELS_ONLY))
    found = []
    for one in dict.fromkeys(one for experiment in experiments for one in experiment.arms()):
        two = known.get(frozenset(teacher.name for teacher in one.teachers))
        series = results.series(Value(one))
        seeds = sorted(series.keys() & base.keys())
        if not _plain(one) or two is None or two.accuracy.value is None or not seeds:
            continue
        if not all(_of(headroom, run) for run in results.runs(one)):
            continue
        kinds = " + ".join(sorted({teacher.bias for teacher in one.teachers}))
        gain = fmean(series[seed] - base[seed] for seed in seeds)
        title = " + ".join(teacher.name for teacher in one.teachers)
        found.append(Pair(title, kinds, two.accuracy.value, gain, len(seeds)))
    return found


def taught_by_others(results: Results, headroom: HeadroomResult) -> list[str]:
    """Teachers of a headroom that are other trainings than those of the same name that taught, by their names."""
    return sorted(
        name
        for name, fact in headroom.facts.items()
        if any(name in run.advisers and not _same(fact, name, run) for run in results.files.values())
    )


def _of(headroom: HeadroomResult, run: Measurement) -> bool:
    """Whether it is of the weights that taught a run; where it does not say, of runs of the same names."""
    return all(_same(headroom.facts[name], name, run) for name in run.advisers if name in headroom.facts)


def _same(fact: Mapping[str, Any], name: str, run: Measurement) -> bool:
    known, taught = fact.get("file digest"), run.teacher_weights.get(name)
    if known is not None and taught is not None:
        return bool(known == taught)
    folder = Path(str(fact.get("file"))).parent.name.split(".")  # MODEL.sSEED.HASH of `reproduce`
    return len(folder) != 3 or run.advisers[name].startswith(folder[2])


def _plain(one: Arm) -> bool:
    return len(one.teachers) == 2 and one == arm(LABELS_ONLY.model, *one.teachers)


def line_through(pairs: Sequence[Pair], seed: int = 0) -> Line | None:
    """Least squares, and percentiles of a bootstrap over the pairs; None where all have the same headroom."""
    x, y = (np.array([getattr(one, name) for one in pairs]) for name in ("together", "gain"))
    if len(pairs) < 3 or np.ptp(x) == 0:
        return None
    slope, start, r2 = _fit(x, y)
    draws = np.random.default_rng(seed).integers(0, len(pairs), (_RESAMPLES, len(pairs)))
    slopes = [_fit(x[rows], y[rows])[0] for rows in draws if np.ptp(x[rows]) > 0]
    low, high = np.percentile(slopes, [2.5, 97.5])
    return Line(slope, float(low), float(high), r2, start)


def _fit(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float]:
    """Slope, value at 0, and R²."""
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    left, whole = float(((dy - slope * dx) ** 2).sum()), float(dy @ dy)
    return slope, float(y.mean() - slope * x.mean()), 1 - left / whole if whole else 0.0


def slope_section(
    experiments: Sequence[Experiment], results: Results, headroom: HeadroomResult | None
) -> Section | None:
    """Figure, line and table; None without a headroom, or with fewer than three pairs."""
    pairs = [] if headroom is None else pairs_of(experiments, results, headroom)
    line = line_through(pairs)
    if line is None:
        return None
    seeds = sorted({one.seeds for one in pairs})
    said = (
        f"{len(pairs)} pairs, students of {' or '.join(map(str, seeds))} seeds: a point of headroom goes with "
        f"{number(line.slope, 2)} points of gain (95 % of a bootstrap over the pairs: {number(line.low, 2)} … "
        f"{number(line.high, 2)}), R² {number(line.r2, 2)}."
    )
    if len(pairs) < FEWEST:
        said += f" Fewer than {FEWEST} pairs say little."
    alt = "Gain of students over labels alone, over the accuracy of the mean of their two teachers."
    dots = [Dot(one.title, one.kinds, 100 * one.together, 100 * one.gain) for one in pairs]
    ends = (line.slope, 100 * line.start)
    rows = [
        [one.title, one.kinds, percent(one.together), points(one.gain), f"{one.seeds}"]
        for one in sorted(pairs, key=lambda one: -one.together)
    ]
    columns = ["Teachers", "Kinds", "Mean of both, % as students see images", "Student's gain, points", "n"]
    note = (
        "Pairs share teachers and all students share images and views, so that the points are not independent: a "
        "description, no test."
    )
    table = Table("Headroom of pairs of teachers and the gain of their students", columns, rows, "llrrr")
    drawing = draw("slope", alt, lambda: slope_figure(dots, ends))
    return Section("slope", "Gain against headroom", [Text(said), drawing, table, Text(note, "note")])
