"""Heat maps of the KL divergence between tokens and teachers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .style import PAPER, WRONG, _wrap


class KlMap(NamedTuple):
    """KL in nats, one row a token, one column a teacher; None where there is no value."""

    title: str
    tokens: Sequence[str]
    teachers: Sequence[str]
    values: Sequence[Sequence[float | None]]


def kl_maps(maps: Sequence[KlMap], columns: int = 2) -> Figure:
    """Heat maps in one hue on one scale, all cells of one size; a frame marks the token nearest to each teacher."""
    heights = [max(len(m.tokens) for m in maps[i : i + columns]) for i in range(0, len(maps), columns)]
    figure = Figure(figsize=(8, sum(0.85 + 0.3 * height for height in heights)), layout="constrained")
    figure.get_layout_engine().set(hspace=0.06, wspace=0.08)  # type: ignore[union-attr, call-arg]
    grid = figure.add_gridspec(len(heights), columns, height_ratios=[0.3 * height for height in heights])
    top = max((v for m in maps for row in m.values for v in row if v is not None), default=1.0) or 1.0
    widest = max(2, *(len(m.teachers) for m in maps))  # a single cell as wide as the panel looks like a bar
    for position, one in enumerate(maps):
        axes = figure.add_subplot(grid[divmod(position, columns)])
        _kl_map(axes, one, top)
        axes.set(xlim=(0, widest), ylim=(heights[position // columns], 0))
    return figure


def _kl_map(axes: Axes, one: KlMap, top: float) -> None:
    grid = np.array([[np.nan if v is None else v for v in row] for row in one.values], dtype=float)
    colors = matplotlib.colormaps["Blues"]
    axes.pcolormesh(grid, cmap=colors, vmin=0, vmax=top, edgecolors=PAPER, linewidth=2)
    for (y, x), value in np.ndenumerate(grid):
        if not np.isnan(value):
            red, green, blue, _ = colors(value / top)
            light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
            nearest = len(one.tokens) > 1 and value == grid[:, x].min()  # never where a value is missing
            ink, weight = "#000000" if light else "#ffffff", "bold" if nearest else "normal"
            at = (x + 0.5, y + 0.5)
            axes.text(*at, f"{value:.3f}", ha="center", va="center", fontsize=9, color=ink, weight=weight)
            if nearest:
                axes.add_patch(Rectangle((x + 0.03, y + 0.06), 0.94, 0.88, fill=False, ec=WRONG, lw=2.2))
    axes.set_yticks(np.arange(len(one.tokens)) + 0.5, [_wrap(name, 16) for name in one.tokens])
    axes.set_xticks(np.arange(len(one.teachers)) + 0.5, [_wrap(name, 20) for name in one.teachers])
    axes.set_ylabel("token")
    axes.set_xlabel("teacher", loc="left")  # of one teacher half of the panel is empty
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_title(_wrap(one.title, 44), loc="left")
