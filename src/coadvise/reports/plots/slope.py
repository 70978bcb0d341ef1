"""What students gain from a pair of teachers, over what the pair knows together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from .style import MUTED, PAPER, _wrap, kind_styles


class Dot(NamedTuple):
    """A pair of teachers, in per cent and points; `kinds` decides how it looks."""

    label: str
    kinds: str
    x: float
    y: float


def slope_figure(dots: Sequence[Dot], line: tuple[float, float]) -> Figure:
    """Pairs and the line through them: its slope, and its value at 0 %."""
    figure = Figure(figsize=(6.6, 4.4), layout="constrained")
    axes = figure.subplots()
    for kinds, look in kind_styles(one.kinds for one in dots).items():
        own = [one for one in dots if one.kinds == kinds]
        axes.plot([one.x for one in own], [one.y for one in own], look.marker, color=look.color, ms=8, mec=PAPER,
                  label=kinds)  # fmt: skip
    ends = [min(one.x for one in dots), max(one.x for one in dots)]
    axes.plot(ends, [line[0] * x + line[1] for x in ends], color=MUTED, lw=1, zorder=0)
    for place, one in enumerate(sorted(dots, key=lambda dot: dot.x)):
        axes.annotate(_wrap(one.label, 26), (one.x, one.y), (0, 7 if place % 2 else -14), textcoords="offset points",
                      ha="center", fontsize=7, color=MUTED)  # fmt: skip
    axes.margins(x=0.15, y=0.2)
    axes.set(xlabel="accuracy of the mean of both teachers, %", ylabel="gain over labels alone, points")
    axes.legend(fontsize=9)
    return figure
