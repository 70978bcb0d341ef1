"""Figure of a learning-rate range test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from .style import BLUE, MUTED, REST, WRONG


def range_test_figure(
    rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], marked: Mapping[str, float], axis: str
) -> Figure:
    """Loss of each step and its smoothed curve over the learning rate, with vertical lines at rates by their names.

    Args:
        marked: name → rate; the first is the suggested one.
        axis: what the rates are.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(rates, losses, ".", color=REST, ms=4, label="loss of a batch")
    axes.plot(rates, smoothed, color=BLUE, lw=2, label="smoothed")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:g}")  # matplotlib's own are formulas
    low, high = min(smoothed), float(np.quantile(losses, 0.9))
    room = 0.08 * (max(high, max(smoothed[: max(len(smoothed) // 2, 1)])) - low)
    # What explodes at the end would press all else flat.
    axes.set_ylim(min(low, float(np.quantile(losses, 0.02))) - room, max(high, smoothed[0]) + 2 * room)
    looks = ((WRONG, "-"), (BLUE, (0, (1, 1))), (MUTED, (0, (5, 2))), (MUTED, (0, (2, 2))))
    for (name, rate), (color, line) in zip(marked.items(), looks, strict=False):
        axes.axvline(rate, color=color, ls=line, lw=1.5, label=f"{name}: {rate:.2g}")
    axes.set(xlabel=axis, ylabel="loss")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return figure
