"""How candidates for teachers differ, in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .style import GRID, PAPER, WRONG, _wrap


class PairMap(NamedTuple):
    """A number for each pair of candidates: row and column in the same order, None where there is none.

    Attributes:
        digits: behind the point.
        better: whether the largest or the smallest number is the better one.
    """

    title: str
    values: Sequence[Sequence[float | None]]
    low: float
    high: float
    digits: int
    better: str


def pair_maps(names: Sequence[str], maps: Sequence[PairMap], chosen: Sequence[str]) -> Figure:
    """The lower triangles of some tables side by side; frames mark the pairs of the proposed set."""
    side = max(2.0, 0.62 * len(names))
    figure = Figure(figsize=(len(maps) * (side + 0.35) + 1.6, side + 1.5), layout="constrained")
    grid = figure.subplots(1, len(maps), squeeze=False, sharey=True)[0]
    for axes, one in zip(grid, maps, strict=True):
        _triangle(axes, names, one, chosen)
    grid[0].set_yticks(np.arange(len(names)) + 0.5, [_wrap(name, 26) for name in names])
    return figure


def _triangle(axes: Axes, names: Sequence[str], one: PairMap, chosen: Sequence[str]) -> None:
    table = np.array([[np.nan if v is None else v for v in row] for row in one.values], dtype=float)
    colors = matplotlib.colormaps["cividis" if one.better == "largest" else "cividis_r"]
    span = (one.high - one.low) or 1.0
    for (y, x), value in np.ndenumerate(table):
        if x > y:
            continue
        known = not np.isnan(value)
        face = colors((value - one.low) / span) if known else GRID
        axes.add_patch(Rectangle((x, y), 1, 1, fc=face, ec=PAPER, lw=2))
        if known:
            red, green, blue, _ = colors((value - one.low) / span)
            ink = "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "#ffffff"
            text = f"{value:.{one.digits}f}"
            axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=9, color=ink)
        if x != y and {names[x], names[y]} <= set(chosen):
            axes.add_patch(Rectangle((x + 0.05, y + 0.05), 0.9, 0.9, fill=False, ec=WRONG, lw=2.4))
    axes.set(xlim=(0, len(names)), ylim=(len(names), 0), aspect="equal")
    axes.set_xticks(np.arange(len(names)) + 0.5, [_wrap(name, 26) for name in names], rotation=40, ha="right")
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_title(_wrap(one.title, 30), loc="left")
