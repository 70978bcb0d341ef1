"""Figures of single classes: recall with its interval, which class is taken for which, and calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ...run.calibration import Bin
from ...shapes import Float, Int
from .style import BLUE, GRID, INK, MUTED, PAPER, WRONG, _wrap


class ClassBar(NamedTuple):
    """Recall of a class as a share, its 95 % interval, and how many images it has."""

    label: str
    recall: float
    low: float
    high: float
    support: int


def class_bars(bars: Sequence[ClassBar], whole: float, guessed: float) -> Figure:
    """One bar a class, in the order given; lines mark the recall of all images and that of the commonest class."""
    figure = Figure(figsize=(8, 1.1 + 0.34 * max(1, len(bars))), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(bars))
    axes.barh(places, [100 * bar.recall for bar in bars], height=0.62, color=BLUE, alpha=0.85)
    for y, bar in zip(places, bars, strict=True):
        axes.plot([100 * bar.low, 100 * bar.high], [y, y], color=INK, lw=1.3, solid_capstyle="butt")
        axes.annotate(
            f"{100 * bar.recall:.1f} % of {bar.support:,}", (102, y), va="center", fontsize=8.5, annotation_clip=False
        )
    axes.set_yticks(places, [_wrap(bar.label, 24) for bar in bars])
    lines: list[tuple[float, str, Any]] = [(whole, "all images", "-"), (guessed, "guessing", (0, (2, 2)))]
    if f"{100 * whole:.1f}" == f"{100 * guessed:.1f}":  # two names would lie on each other
        lines = [(whole, "all images and guessing", "-")]
    near = abs(whole - guessed) < 0.35  # then their names would lie on each other where the figure is narrow
    for above, (at, name, line) in enumerate(lines):
        axes.axvline(100 * at, color=MUTED, lw=1.2, ls=line)
        side = "left" if at < 0.1 else "right" if at > 0.9 else "center"
        place: Any = {"xy": (100 * at, 1), "xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        rise = 13 if near and above else 2
        axes.annotate(
            f"{name} {100 * at:.1f}", xytext=(0, rise), ha=side, va="bottom", fontsize=8.5, color=MUTED, **place
        )
    axes.set(xlim=(0, 100), ylim=(len(bars) - 0.4, -0.7), xlabel="recall: share of the class's images named rightly, %")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    return figure


def confusion_figure(
    table: Int[np.ndarray, "k k"], names: Sequence[str], others: Int[np.ndarray, " k"] | None = None
) -> Figure:
    """Images of each class (row) by answer (column): blue where it is right, orange where not, darker for more of the
    class's images.

    Args:
        others: images of each class that were given an answer which has no column.
    """
    k, columns = len(names), [*names]
    if others is not None:
        table, columns = np.column_stack([table, others]), [*columns, "other classes"]
    figure = Figure(figsize=(8, 1.2 + (0.44 if k <= 12 else 0.3) * k), layout="constrained")
    axes = figure.add_subplot()
    axes.vlines(range(len(columns) + 1), 0, k, color=GRID, lw=0.7)
    axes.hlines(range(k + 1), 0, len(columns), color=GRID, lw=0.7)
    colors = _colors(table)
    for (y, x), value in np.ndenumerate(table):
        if value:
            red, green, blue, _ = color = colors[y, x]
            axes.add_patch(Rectangle((x, y), 1, 1, facecolor=color, edgecolor=PAPER, lw=1))
            ink = "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "#ffffff"
            size, weight = 9 if k <= 12 else 7, "bold" if x == y else "normal"
            axes.text(x + 0.5, y + 0.5, f"{value}", ha="center", va="center", fontsize=size, color=ink, weight=weight)
    crowded = len(columns) * max(map(len, columns), default=0) > 36  # on a telephone, too
    turned: Any = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axes.set_xticks(np.arange(len(columns)) + 0.5, [_wrap(name, 18) for name in columns], **turned)
    axes.set_yticks(np.arange(k) + 0.5, [_wrap(name, 18) for name in names])
    axes.set(xlim=(0, len(columns)), ylim=(k, 0), xlabel="answer", ylabel="true class")
    _bare(axes)
    return figure


def overview_figure(table: Int[np.ndarray, "k k"]) -> Figure:
    """The same of many classes, without names and numbers: where mistakes cluster."""
    k = len(table)
    figure = Figure(figsize=(8, 5.2), layout="constrained")
    axes = figure.add_subplot()
    colors = _colors(table)
    colors[table == 0] = 0  # the page shows through
    axes.imshow(colors, interpolation="nearest", extent=(0.5, k + 0.5, k + 0.5, 0.5))
    axes.set(xlabel="answer: number of the class", ylabel="true class: its number")
    axes.grid(False)
    axes.spines[:].set(visible=True, color=GRID)
    return figure


def _colors(table: Int[np.ndarray, "k m"]) -> Float[np.ndarray, "k m 4"]:
    """Of each cell by its share of its row; one image of many is still seen."""
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    depth = np.where(table > 0, 0.12 + 0.88 * shares, 0)
    colors = np.asarray(matplotlib.colormaps["Oranges"](depth), float)
    right = np.eye(*table.shape, dtype=np.bool_)
    colors[right] = matplotlib.colormaps["Blues"](depth[right])
    return colors


def _bare(axes: Axes) -> None:
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def reliability_figure(bins: Sequence[Bin], width: float) -> Figure:
    """Left: share of right answers by confidence; on the line both are equal. Right: how many answers there are.

    Args:
        width: of a bin of confidence, as a share.
    """
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1])
    left.plot([0, 100], [0, 100], color=MUTED, lw=1.2, ls=(0, (2, 2)))
    for one in bins:
        x, y = 100 * one.confidence, 100 * one.accuracy
        left.plot([x, x], [x, y], color=WRONG, lw=1.6, alpha=0.7)
    most = max((one.images for one in bins), default=1)
    sizes = [20 + 90 * one.images / most for one in bins]
    points = [(100 * one.confidence, 100 * one.accuracy) for one in bins]
    left.scatter(*zip(*points, strict=True), s=sizes, color=BLUE, zorder=3, clip_on=False)
    left.set(xlim=(0, 100), ylim=(0, 100), xlabel="confidence, %", ylabel="right answers, %")
    middles = [100 * width * (math.ceil(round(one.confidence / width, 9)) - 0.5) for one in bins]
    right.bar(middles, [one.images for one in bins], width=92 * width, color=BLUE, alpha=0.85)
    right.set(xlim=(0, 100), xlabel="confidence, %", ylabel="images")
    return figure
