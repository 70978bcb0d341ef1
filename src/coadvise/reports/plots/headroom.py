"""What pairs of teachers know together, over how alike their errors are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import MUTED, PAPER, Style, _wrap, kind_styles

NAMED = 6
"""Pairs whose names there is room for; a table has all of them."""


class Point(NamedTuple):
    """A pair: κ of its errors, and a number with the ends of its interval; `kinds` decides how it looks."""

    label: str
    kinds: str
    kappa: float
    value: float
    low: float
    high: float


class Panel(NamedTuple):
    """Pairs on one pair of axes; `single` are pairs of single seeds, drawn small behind the others."""

    title: str
    axis: str
    points: Sequence[Point]
    single: Sequence[Point] = ()


def pairs_figure(panels: Sequence[Panel]) -> Figure:
    """Panels side by side; each kind of pair has a colour and a marker in all of them."""
    figure = Figure(figsize=(5.2 * len(panels), 4.4), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    looks = kind_styles(one.kinds for panel in panels for one in panel.points)
    for axes, panel in zip(grid, panels, strict=True):
        _panel(axes, panel, looks)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), fontsize=9)
    return figure


def _panel(axes: Axes, panel: Panel, looks: dict[str, Style]) -> None:
    for one in panel.single:
        look = looks[one.kinds]
        axes.plot(one.kappa, one.value, look.marker, color=look.color, ms=3, alpha=0.35, mec="none")
    seen: set[str] = set()
    for one in panel.points:
        look = looks[one.kinds]
        axes.errorbar(
            one.kappa, one.value, yerr=[[max(one.value - one.low, 0)], [max(one.high - one.value, 0)]],
            fmt=look.marker, color=look.color, ms=8, mec=PAPER, elinewidth=1, alpha=0.95,
            label=None if one.kinds in seen else one.kinds,
        )  # fmt: skip
        seen.add(one.kinds)
    if len(panel.points) <= NAMED:
        middle = (min(one.kappa for one in panel.points) + max(one.kappa for one in panel.points)) / 2
        for place, one in enumerate(sorted(panel.points, key=lambda point: point.kappa)):
            side = -1 if one.kappa > middle else 1  # names stay inside
            axes.annotate(
                _wrap(one.label, 26), (one.kappa, one.value), (7 * side, 6 if place % 2 else -12),
                textcoords="offset points", ha="left" if side > 0 else "right", fontsize=7, color=MUTED,
            )  # fmt: skip
    axes.margins(x=0.18, y=0.1)
    axes.set(xlabel="κ of errors: 1 the same images, 0 as by chance", ylabel=panel.axis)
    axes.set_title(_wrap(panel.title, 48), loc="left")
