"""Figure of single classes, where an image has any number of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from .style import BLUE, INK, _wrap


class PrecisionBar(NamedTuple):
    """Average precision of a class as a share, and how many of so many `images` have the class."""

    label: str
    precision: float
    support: int
    images: int


def precision_bars(bars: Sequence[PrecisionBar]) -> Figure:
    """One bar a class, in the order given; a stroke marks what answers by chance would reach."""
    figure = Figure(figsize=(8, 1.1 + 0.34 * max(1, len(bars))), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(bars))
    axes.barh(places, [100 * bar.precision for bar in bars], height=0.62, color=BLUE, alpha=0.85)
    for y, bar in zip(places, bars, strict=True):
        axes.plot([100 * bar.support / bar.images] * 2, [y - 0.36, y + 0.36], color=INK, lw=1.6)
        said = f"{100 * bar.precision:.1f} % ({bar.support:,} images)"
        axes.annotate(said, (102, y), va="center", fontsize=8.5, annotation_clip=False)
    axes.set_yticks(places, [_wrap(bar.label, 24) for bar in bars])
    axes.set(xlim=(0, 100), ylim=(len(bars) - 0.4, -0.7), xlabel="average precision, %; the stroke marks chance")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    return figure
