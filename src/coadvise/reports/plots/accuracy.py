"""Figures of accuracy: dots by arm, learning curves, and the curves of one run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ...significance import Summary
from .style import GRID, INK, MUTED, PAPER, Style, _wrap, curve_line, marks, style


class DotRow(NamedTuple):
    """One line of the dot plot; `values` and `summary` are shares of 1."""

    label: str
    values: Sequence[float]
    summary: Summary | None
    style: Style


def dot_plot(rows: Sequence[DotRow], teachers: Sequence[tuple[str, float]]) -> Figure:
    """Accuracy of every run (small), mean (large) and its 95 % t-interval (bar); teachers below, as stars."""
    total = len(rows) + len(teachers)
    figure = Figure(figsize=(8, 0.75 + 0.5 * max(1, total)), layout="constrained")
    axes = figure.add_subplot()
    for y, row in enumerate(rows):
        if row.summary is not None and row.summary.low is not None and row.summary.high is not None:
            # An accuracy above 100 % does not exist, even where the t-interval reaches there.
            bar = [100 * max(0.0, row.summary.low), 100 * min(1.0, row.summary.high)]
            axes.plot(bar, [y, y], color=row.style.color, lw=2.2, alpha=0.55, solid_capstyle="round")
        # Runs lie on a line of their own just under the mean, where its marker does not hide them.
        marks(axes, [100 * v for v in row.values], y + 0.27, row.style, ms=4.5, mfc="none", mew=1.1)
        if row.summary is not None:
            marks(axes, [100 * row.summary.mean], y, row.style, ms=9, mec=PAPER, mew=0.8)
            _say(axes, 100 * row.summary.mean, y)
    for y, (_, value) in enumerate(teachers, start=len(rows)):
        axes.plot([100 * value], [y], "*", color=MUTED, ms=9, clip_on=False)
        _say(axes, 100 * value, y)
    axes.set_yticks(range(total), [_wrap(row.label) for row in rows] + [_wrap(label) for label, _ in teachers])
    axes.set(ylim=(total - 0.45, -0.6), xlabel="top-1 accuracy, %")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=9, steps=[1, 2, 5, 10])
    if teachers and rows:
        axes.axhline(len(rows) - 0.42, color=GRID, lw=1)
    return figure


def _say(axes: Axes, value: float, y: int) -> None:
    axes.annotate(f"{value:.1f}", (value, y), (0, 7), textcoords="offset points", ha="center", fontsize=9)


Curve = Sequence[tuple[float, float]]


def learning_curves(arms: Sequence[tuple[str, Sequence[Curve], Style]]) -> Figure:
    """Accuracy against epochs completed: each seed thin, the mean (where all seeds have a value) thick.

    Left the whole course, right its second half, where the arms lie close together.
    """
    figure = Figure(figsize=(8, 3.6 + 0.26 * math.ceil(len(arms) / 3)), layout="constrained")
    whole, late = figure.subplots(1, 2)
    last = max((epoch for _, curves, _ in arms for curve in curves for epoch, _ in curve), default=0.0)
    handles = []
    for label, curves, look in arms:
        for axes, start in ((whole, 0.0), (late, last / 2)):
            parts = [[(epoch, 100 * v) for epoch, v in curve if epoch >= start] for curve in curves]
            handle = _mean_and_seeds(axes, parts, look)
        handles.append((handle, _wrap(label, 34)))
    whole.set_xlim(left=0)
    whole.set(xlabel="epochs completed", ylabel="top-1 of the class token, %")
    late.set_xlabel("epochs completed")
    whole.set_title("all epochs", loc="left", fontsize=9)
    late.set_title("second half, enlarged", loc="left", fontsize=9)
    if handles:
        lines, labels = zip(*handles, strict=True)
        figure.legend(lines, labels, loc="outside lower center", ncols=3, handlelength=3.4)
    return figure


def _mean_and_seeds(axes: Axes, curves: Sequence[Curve], look: Style) -> Line2D:
    for curve in curves:
        axes.plot([e for e, _ in curve], [v for _, v in curve], color=look.color, lw=0.7, alpha=0.45)
    tables = [dict(curve) for curve in curves if curve]
    shared = sorted(set.intersection(*map(set, tables))) if tables else []
    mean = [(epoch, sum(table[epoch] for table in tables) / len(tables)) for epoch in shared]
    return curve_line(axes, mean, look, 6, lw=1.9, ms=5, mew=0.6)


class Level(NamedTuple):
    """What the curves of a run are measured by: a teacher, or chance; a share of 1."""

    title: str
    share: float


def run_curves(
    terms: Mapping[str, Curve],
    rate: Curve,
    accuracy: Mapping[str, Curve],
    what: str = "top-1",
    levels: Sequence[Level] = (),
) -> Figure:
    """One run: loss terms and learning rate against steps, accuracy (or `what` else) of every output against epochs.

    Args:
        levels: lines across the accuracies.
    """
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[2.2, 1])
    loss, speed = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
    speed.sharex(loss)
    loss.tick_params(labelbottom=False)
    _lines(loss, terms)
    loss.set_ylabel("loss terms, nats")
    alone = {"marker": "o", "ms": 4} if len(rate) == 1 else {}  # a line of one point is not seen
    speed.plot([x for x, _ in rate], [y for _, y in rate], color=INK, lw=1.4, **alone)  # type: ignore[arg-type]
    speed.set(xlabel="step", ylabel="learning rate")
    speed.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=False)
    right = figure.add_subplot(grid[:, 1])
    across = [
        right.axhline(100 * level.share, color=MUTED, lw=1.1, ls=_ACROSS[place % len(_ACROSS)])
        for place, level in enumerate(levels)
    ]
    labels = [_wrap(f"{level.title} {100 * level.share:.1f}", 34) for level in levels]
    _lines(right, {name: [(x, 100 * y) for x, y in curve] for name, curve in accuracy.items()}, across, labels)
    right.set(xlabel="epochs completed", ylabel=f"{what} on the validation set, %")
    if levels:
        low, high = right.get_ylim()
        right.set_ylim(max(low, 0), min(high, 102))
    for axis in (right.xaxis, speed.xaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))  # of a run of one step, one
    return figure


_ACROSS: tuple[Any, ...] = ("-", (0, (8, 2)), (0, (3, 2)), (0, (1, 1.5)))
"""Styles of lines across a panel."""


def _lines(axes: Axes, curves: Mapping[str, Curve], across: Sequence[Line2D] = (), labels: Sequence[str] = ()) -> None:
    """Curves with a legend, which `labels` of the lines `across` the panel follow."""
    handles = [
        curve_line(axes, curve, style(position), 8, lw=1.5, ms=4.5, mew=0.5)
        for position, curve in enumerate(curves.values())
    ]
    if handles or across:
        names = [*map(_wrap, curves), *labels]
        box: Any = {
            "frameon": True,
            "facecolor": PAPER,
            "edgecolor": "none",
            "framealpha": 0.85,
        }  # lines pass behind it
        axes.legend([*handles, *across], names, fontsize=9, handlelength=3, **box)
