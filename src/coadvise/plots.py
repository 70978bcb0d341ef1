"""Figures of the report, as SVG for the page and PNG for Markdown.

Matplotlib's object-oriented interface only: no pyplot, no window, no state kept. Colours are Okabe and Ito's,
which colour-blind readers can tell apart; a marker and a line style say the same once more. In the SVG, ink,
grid and paper become CSS variables, so that a figure follows the page into dark mode.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from .report_inputs import Disagreement
from .statistics import Summary

INK, MUTED, GRID, PAPER = "#1b1e24", "#5d6570", "#d5d9df", "#fefefe"
BLUE = "#0072B2"
_NAMES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", BLUE: "blue"}
RIGHT, WRONG, REST = "#009E73", "#D55E00", "#9aa3ad"

_RC: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called "$5"
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "svg.fonttype": "none",
}


class Style(NamedTuple):
    """How one arm or token looks in every figure."""

    color: str
    marker: str
    line: str | tuple[int, tuple[int, ...]]


_COLORS = (BLUE, "#E69F00", "#CC79A7", "#D55E00", "#56B4E9", "#009E73")
_MARKERS = ("s", "^", "D", "v", "P", "h")
_LINES = ((0, (5, 2)), (0, (1, 1)), (0, (5, 1, 1, 1)), "-", (0, (8, 3)))


def style(position: int) -> Style:
    """The style of the arm at `position`; 0 is the baseline, in ink. Any number of arms gets one."""
    if position == 0:
        return Style(MUTED, "o", (0, (2, 2)))
    i = position - 1
    return Style(_COLORS[i % len(_COLORS)], _MARKERS[i % len(_MARKERS)], _LINES[i % len(_LINES)])


@dataclass(frozen=True)
class Drawing:
    """A figure ready for the page (`svg`, inline) and for a file (`png`); `alt` says what it shows."""

    name: str
    alt: str
    svg: str
    png: bytes


def draw(name: str, alt: str, build: Callable[[], Figure]) -> Drawing:
    """Build a figure and render it twice. `name` must be a word: it prefixes the ids inside the SVG."""
    with matplotlib.rc_context(_RC | {"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser's own fonts have it
        figure = build()
        png, svg = io.BytesIO(), io.StringIO()
        box: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.06}
        figure.savefig(png, format="png", dpi=150, **box)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(svg, format="svg", transparent=True, metadata=nothing, **box)
    return Drawing(name, alt, _inline(svg.getvalue(), name, alt), png.getvalue())


def _inline(svg: str, name: str, alt: str) -> str:
    """An SVG file as part of a page: no prolog, own ids, the page's colours and fonts, an accessible name."""
    svg = svg[svg.index("<svg") :].strip()
    # Matplotlib makes these ids of coordinates, whose last bits differ from one layout to the next.
    for number, clip in enumerate(dict.fromkeys(re.findall(r'<clipPath id="([^"]+)"', svg))):
        svg = svg.replace(clip, f"clip{number}")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    for color, variable in _NAMES.items():
        svg = re.sub(color, f"var(--{variable})", svg, flags=re.IGNORECASE)
    svg = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 var(--font)", svg)
    return svg.replace("<svg", f'<svg class="plot" role="img" aria-label="{escape(alt, quote=True)}"', 1)


def _wrap(label: str, width: int = 22) -> str:
    return "\n".join(textwrap.wrap(label, width, break_on_hyphens=False)) or " "


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
        color = row.style.color
        if row.summary is not None and row.summary.low is not None and row.summary.high is not None:
            # An accuracy above 100 % does not exist, even where the t-interval reaches there.
            low, high = max(0.0, row.summary.low), min(1.0, row.summary.high)
            axes.plot([100 * low, 100 * high], [y, y], color=color, lw=2.2, alpha=0.55, solid_capstyle="round")
        # Runs lie on a line of their own just under the mean, where its marker does not hide them.
        axes.plot(
            [100 * v for v in row.values],
            [y + 0.27] * len(row.values),
            row.style.marker,
            color=color,
            ms=4.5,
            mfc="none",
            mew=1.1,
            clip_on=False,
        )
        if row.summary is not None:
            mean = 100 * row.summary.mean
            axes.plot([mean], [y], row.style.marker, color=color, ms=9, mec=PAPER, mew=0.8, clip_on=False)
            axes.annotate(f"{mean:.1f}", (mean, y), (0, 7), textcoords="offset points", ha="center", fontsize=9)
    for y, (_, value) in enumerate(teachers, start=len(rows)):
        axes.plot([100 * value], [y], "*", color=MUTED, ms=9, clip_on=False)
        axes.annotate(
            f"{100 * value:.1f}", (100 * value, y), (0, 7), textcoords="offset points", ha="center", fontsize=9
        )
    axes.set_yticks(range(total), [_wrap(row.label) for row in rows] + [_wrap(label) for label, _ in teachers])
    axes.set_ylim(total - 0.45, -0.6)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("top-1 accuracy, %")
    axes.locator_params(axis="x", nbins=9, steps=[1, 2, 5, 10])
    if teachers and rows:
        axes.axhline(len(rows) - 0.42, color=GRID, lw=1)
    return figure


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
            parts = [[(epoch, v) for epoch, v in curve if epoch >= start] for curve in curves]
            handle = _mean_and_seeds(axes, parts, look)
        handles.append((handle, _wrap(label, 34)))
    whole.set_ylabel("top-1 of the class token, %")
    whole.set_xlim(left=0)
    whole.set_title("all epochs", loc="left", fontsize=9)
    late.set_title("second half, enlarged", loc="left", fontsize=9)
    for axes in (whole, late):
        axes.set_xlabel("epochs completed")
    if handles:
        lines, labels = zip(*handles, strict=True)
        figure.legend(lines, labels, loc="outside lower center", ncols=3, handlelength=3.4)
    return figure


def _mean_and_seeds(axes: Axes, curves: Sequence[Curve], look: Style) -> Line2D:
    for curve in curves:
        axes.plot([e for e, _ in curve], [100 * v for _, v in curve], color=look.color, lw=0.7, alpha=0.45)
    mean = _mean_curve(curves)
    (line,) = axes.plot(
        [e for e, _ in mean],
        [100 * v for _, v in mean],
        color=look.color,
        ls=look.line,
        lw=1.9,
        marker=look.marker,
        ms=5,
        mec=PAPER,
        mew=0.6,
        markevery=max(1, len(mean) // 6),
    )
    return line


def _mean_curve(curves: Sequence[Curve]) -> list[tuple[float, float]]:
    tables = [dict(curve) for curve in curves if curve]
    shared = sorted(set.intersection(*(set(table) for table in tables))) if tables else []
    return [(epoch, sum(table[epoch] for table in tables) / len(tables)) for epoch in shared]


class KlMap(NamedTuple):
    """KL in nats, one row a token, one column a teacher; None where there is no value."""

    title: str
    tokens: Sequence[str]
    teachers: Sequence[str]
    values: Sequence[Sequence[float | None]]


def kl_maps(maps: Sequence[KlMap], columns: int = 2) -> Figure:
    """Heat maps on one colour scale, all cells of one size; a frame marks the token nearest to each teacher."""
    heights = [max(len(m.tokens) for m in maps[i : i + columns]) for i in range(0, len(maps), columns)]
    figure = Figure(figsize=(8, sum(0.85 + 0.3 * height for height in heights)), layout="constrained")
    figure.get_layout_engine().set(hspace=0.06, wspace=0.08)  # type: ignore[union-attr, call-arg]
    grid = figure.add_gridspec(len(heights), columns, height_ratios=[0.3 * height for height in heights])
    top = max((v for m in maps for row in m.values for v in row if v is not None), default=1.0) or 1.0
    widest = max((len(m.teachers) for m in maps), default=1)
    for position, one in enumerate(maps):
        axes = figure.add_subplot(grid[divmod(position, columns)])
        _kl_map(axes, one, top)
        axes.set_xlim(0, widest)
    return figure


def _kl_map(axes: Axes, one: KlMap, top: float) -> None:
    grid = np.array([[np.nan if v is None else v for v in row] for row in one.values], dtype=float)
    colors = matplotlib.colormaps["cividis_r"]
    axes.pcolormesh(grid, cmap=colors, vmin=0, vmax=top, edgecolors=PAPER, linewidth=2)
    for (y, x), value in np.ndenumerate(grid):
        if not np.isnan(value):
            red, green, blue, _ = colors(value / top)
            light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
            nearest = len(one.tokens) > 1 and value == grid[:, x].min()  # never where a value is missing
            axes.text(
                x + 0.5,
                y + 0.5,
                f"{value:.3f}",
                ha="center",
                va="center",
                fontsize=9,
                color="#000000" if light else "#ffffff",
                weight="bold" if nearest else "normal",
            )
            if nearest:
                axes.add_patch(Rectangle((x + 0.03, y + 0.06), 0.94, 0.88, fill=False, ec=WRONG, lw=2.2))
    axes.set_yticks(np.arange(len(one.tokens)) + 0.5, [_wrap(name, 16) for name in one.tokens])
    axes.set_xticks(np.arange(len(one.teachers)) + 0.5, [_wrap(name, 20) for name in one.teachers])
    axes.set_ylim(len(one.tokens), 0)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_title(_wrap(one.title, 44), loc="left")


def shown_classes(image: Disagreement, limit: int = 10, fewest: int = 5) -> list[int]:
    """Classes to show: all up to `limit`; else the true one, every model's choice, and the likeliest others."""
    table = np.array(list(image.outputs.values()))
    if table.shape[1] <= limit:
        return list(range(table.shape[1]))
    needed = dict.fromkeys([image.label, *table.argmax(axis=1).tolist()])
    likely = np.argsort(-table.max(axis=0), kind="stable").tolist()
    return sorted([*needed, *(c for c in likely if c not in needed)][: max(fewest, len(needed))])


def disagreement_figure(images: Sequence[Disagreement], classes: Sequence[str]) -> Figure:
    """Figure 2 of the paper: one row an image, beside it the class probabilities of each model as bars."""
    models = list(dict.fromkeys(name for image in images for name in image.outputs))
    shown = [shown_classes(image) for image in images]
    heights = [0.55 + 0.155 * len(c) for c in shown]
    figure = Figure(figsize=(1.6 + 1.75 * len(models), sum(heights) + 0.5), layout="constrained")
    figure.get_layout_engine().set(hspace=0.05, wspace=0.04)  # type: ignore[union-attr, call-arg]
    grid = figure.add_gridspec(
        len(images), len(models) + 1, height_ratios=heights, width_ratios=[0.85, *[1] * len(models)]
    )
    for row, (image, chosen) in enumerate(zip(images, shown, strict=True)):
        picture = figure.add_subplot(grid[row, 0])
        pixels = imread(io.BytesIO(image.png))
        picture.imshow(pixels, cmap="gray", interpolation="nearest" if max(pixels.shape[:2]) < 100 else None)
        picture.set_title(_wrap(f"true: {classes[image.label]}", 16), fontsize=9)
        picture.axis("off")
        for column, name in enumerate(models):
            axes = figure.add_subplot(grid[row, column + 1])
            if name in image.outputs:
                _bars(axes, image.outputs[name], image.label, chosen, classes if column == 0 else None)
            else:
                axes.axis("off")
            if row == 0:
                axes.set_title(_wrap(name, 18), fontsize=9.5)
    return figure


def _bars(axes: Axes, shares: Sequence[float], label: int, chosen: Sequence[int], names: Sequence[str] | None) -> None:
    predicted = int(np.argmax(shares))
    good = predicted == label
    for y, c in enumerate(chosen):
        color = (RIGHT if good else WRONG) if c == predicted else REST
        axes.barh(y, shares[c], height=0.72, color=color)
        if c == predicted:
            text = f"{'✓' if good else '✗'} {shares[c]:.2f}"
            axes.text(shares[c] + 0.04, y, text, va="center", fontsize=7.5, weight="bold")
    axes.axhspan(chosen.index(label) - 0.5, chosen.index(label) + 0.5, color=GRID, alpha=0.6, lw=0, zorder=0)
    labels = [textwrap.shorten(names[c], 18, placeholder="…") or " " for c in chosen] if names else []
    axes.set_yticks(range(len(chosen)), labels or [""] * len(chosen), fontsize=8)
    if labels:
        axes.get_yticklabels()[chosen.index(label)].set_fontweight("bold")
    axes.set_xlim(0, 1.36)  # room for the number beside a full bar
    axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"], fontsize=7.5)
    axes.set_ylim(len(chosen) - 0.4, -0.6)
    axes.tick_params(length=0)
    axes.grid(False, axis="y")
    axes.spines["bottom"].set_visible(False)


def run_curves(terms: Mapping[str, Curve], rate: Curve, accuracy: Mapping[str, Curve]) -> Figure:
    """One run: loss terms and learning rate against steps, accuracy of every output against epochs."""
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[2.2, 1])
    loss, speed = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
    speed.sharex(loss)
    loss.tick_params(labelbottom=False)
    _lines(loss, terms)
    loss.set_ylabel("loss terms, nats")
    speed.plot([x for x, _ in rate], [y for _, y in rate], color=INK, lw=1.4)
    speed.set_ylabel("learning rate")
    speed.set_xlabel("step")
    speed.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=False)
    right = figure.add_subplot(grid[:, 1])
    _lines(right, {name: [(x, 100 * y) for x, y in curve] for name, curve in accuracy.items()})
    right.set_ylabel("top-1 on the validation set, %")
    right.set_xlabel("epochs completed")
    return figure


def _lines(axes: Axes, curves: Mapping[str, Curve]) -> None:
    handles: list[Line2D] = []
    for position, curve in enumerate(curves.values()):
        look = style(position)
        (line,) = axes.plot(
            [x for x, _ in curve],
            [y for _, y in curve],
            color=look.color,
            ls=look.line,
            lw=1.5,
            marker=look.marker,
            ms=4.5,
            markevery=max(1, len(curve) // 8),
            mec=PAPER,
            mew=0.5,
        )
        handles.append(line)
    if handles:
        axes.legend(handles, [_wrap(name) for name in curves], fontsize=9, handlelength=3)
