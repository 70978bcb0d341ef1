"""Figures 1 and 4 of the paper with our numbers: colours that everyone can tell apart, markers that print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import GRID, MUTED, PAPER, Style, marks, style

# Labels stay legible where lines run through them.
_HALO = [patheffects.withStroke(linewidth=2.2, foreground=PAPER)]


class Point(NamedTuple):
    """A model in a plane; its top-1 `y` and the standard deviation of that in per cent."""

    label: str
    x: float
    y: float
    sd: float | None = None


def parameters_figure(panels: Sequence[tuple[str, Sequence[Point], Sequence[Point]]]) -> Figure:
    """Figure 1: top-1 against parameters, one panel a source: (title, DeiT's models, CiT's models)."""
    figure = Figure(figsize=(8, 3.9), layout="constrained")
    for axes, (title, deit, cit) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for position, (name, points) in enumerate((("DeiT", deit), ("CiT (ours)", cit)), start=1):
            _with_errors(axes, name, sorted(points, key=lambda point: (point.x, point.y)), style(position))
        _label_points(axes, [*deit, *cit])
        axes.set(title=title, xlabel="parameters, millions", ylabel="top-1 accuracy, %")
        axes.margins(x=0.28, y=0.18)
        axes.legend(loc="lower right", fontsize=8.5)
    return figure


class Family(NamedTuple):
    """A teacher's top-1 in per cent (`x`) and its student's, by family; `position` decides its looks in every panel."""

    name: str
    points: Sequence[Point]
    position: int


def teachers_figure(panels: Sequence[tuple[str, Sequence[Family]]], baseline: float | None) -> Figure:
    """Figure 4: a student's top-1 against its teacher's, a line a family; dashed: the student without a teacher."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes in grid[1:]:
        axes.sharey(grid[0])
    for axes, (title, families) in zip(grid, panels, strict=True):
        if baseline is not None:
            axes.axhline(baseline, color=MUTED, lw=1.1, ls=(0, (4, 3)), label="labels only")
        for family in families:
            look = style(family.position)
            _with_errors(axes, family.name, family.points, look, ls=look.line, lw=1.3)
            for point in family.points:  # beside the points: above and below are error bars
                right = point.x == max(one.x for one in family.points)
                axes.annotate(
                    point.label, (point.x, point.y), (7 if right else -7, 7 * family.position - 15),
                    textcoords="offset points", ha="left" if right else "right", va="center", fontsize=7.5,
                    color=look.color, path_effects=_HALO, zorder=5,
                )  # fmt: skip
        axes.set(title=title, xlabel="teacher's top-1, %", ylabel="student's top-1, %")
        axes.margins(x=0.2, y=0.16)
        axes.legend(fontsize=8.5, loc="best")
    return figure


def differences_figure(labels: Sequence[str], series: Sequence[tuple[str, Sequence[Sequence[float]]]]) -> Figure:
    """Differences in points, a row a label and a mark a series: every seed small, their mean large; zero is a line."""
    figure = Figure(figsize=(8, 1.2 + 0.78 * max(1, len(labels))), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0.0, color=MUTED, lw=1.2)
    for position, (name, rows) in enumerate(series, start=1):
        look = style(position)
        shift = 0.8 * ((position - 0.5) / len(series) - 0.5)
        for y, seeds in enumerate(rows):
            if seeds:
                marks(axes, seeds, y + shift + 0.16, look, ms=4, mfc="none", mew=1.0)
                marks(axes, [sum(seeds) / len(seeds)], y + shift, look, ms=8, mec=PAPER, mew=0.7)
        axes.plot([], [], look.marker, color=look.color, ms=8, mec=PAPER, mew=0.7, label=name)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("difference in top-1, percentage points")
    axes.margins(x=0.08)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(series), fontsize=9)
    for y in range(1, len(labels)):
        axes.axhline(y - 0.5, color=GRID, lw=0.7)
    return figure


def _with_errors(axes: Axes, name: str, points: Sequence[Point], look: Style, **more: Any) -> None:
    axes.errorbar(
        [p.x for p in points], [p.y for p in points], [p.sd or 0.0 for p in points], fmt=look.marker,
        color=look.color, ms=7, mec=PAPER, mew=0.6, capsize=2.5, elinewidth=1, label=name, **more,
    )  # fmt: skip


def _label_points(axes: Axes, points: Sequence[Point]) -> None:
    """Names to the left and right of the points in turn, from the top down, so that neighbours do not meet."""
    for place, point in enumerate(sorted(points, key=lambda p: -p.y)):
        left = place % 2
        axes.annotate(
            point.label, (point.x, point.y), (-7 if left else 7, -1), textcoords="offset points", fontsize=8,
            ha="right" if left else "left", va="center",
        )  # fmt: skip
