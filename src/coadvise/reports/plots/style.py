"""Figures of the report, as SVG for the page and PNG for Markdown.

Matplotlib's object-oriented interface only: no pyplot, no window, no state kept. Colours are Okabe and Ito's,
which colour-blind readers can tell apart; a marker and a line style say the same once more. In the SVG, ink,
grid and paper become CSS variables, so that a figure follows the page into dark mode.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .narrow import NARROW, narrow

INK, MUTED, GRID, PAPER = "#1b1e24", "#5d6570", "#d5d9df", "#fefefe"
BLUE = "#0072B2"
_NAMES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", BLUE: "blue"}
RIGHT, WRONG, REST = "#009E73", "#D55E00", "#9aa3ad"

_RC: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "font.size": 10,
    "text.parse_math": False,  # a class may be called "$5"
    "axes.titlesize": 10,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "svg.fonttype": "none",
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
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


def kind_styles(kinds: Iterable[str]) -> dict[str, Style]:
    """The style of each kind of teachers, such as `conv` or `conv + inv`: of both kinds as of a baseline, as where arms
    are drawn in their order, and the same in every figure of the same kinds."""
    found = set(kinds)
    both, alone = (sorted(one for one in found if ("+" in one) is several) for several in (True, False))
    return {kind: style(place) for place, kind in enumerate([*both[:1], *alone, *both[1:]], start=0 if both else 1)}


@dataclass(frozen=True)
class Drawing:
    """A figure ready for the page (`svg`, inline, where it helps once more for narrow screens) and for a file (`png`);
    `alt` says what it shows."""

    name: str
    alt: str
    svg: str
    png: bytes


def draw(name: str, alt: str, build: Callable[[], Figure]) -> Drawing:
    """Build a figure and render it. `name` must be a word: it prefixes the ids inside the SVG."""
    with matplotlib.rc_context(_RC | {"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser's own fonts have it
        warnings.filterwarnings("ignore", message="Creating legend .* can be slow")  # of a second, on a busy machine
        figure = build()
        png, svg, small = io.BytesIO(), io.StringIO(), io.StringIO()
        box: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.06}
        figure.savefig(png, format="png", dpi=150, **box)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(svg, format="svg", transparent=True, metadata=nothing, **box)
        if narrow(figure):
            figure.savefig(small, format="svg", transparent=True, metadata=nothing, **box)
    if not small.getvalue():
        look = "small" if figure.get_size_inches()[0] <= NARROW else "only"
        return Drawing(name, alt, _inline(svg.getvalue(), name, alt, look), png.getvalue())
    both = [_inline(svg.getvalue(), name, alt, "broad"), _inline(small.getvalue(), f"{name}-narrow", alt, "narrow")]
    return Drawing(name, alt, "\n".join(both), png.getvalue())


def _inline(svg: str, name: str, alt: str, look: str) -> str:
    """An SVG file as part of a page: no prolog, own ids, the page's colours and fonts, an accessible name."""
    svg = svg[svg.index("<svg") :].strip()
    # A hundredth of a point is less than any screen shows.
    svg = re.sub(r"<[^<>]+>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), svg)
    # Matplotlib makes these ids of coordinates, whose last bits differ from one layout to the next.
    for number, clip in enumerate(dict.fromkeys(re.findall(r'<clipPath id="([^"]+)"', svg))):
        svg = svg.replace(clip, f"clip{number}")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    for color, variable in _NAMES.items():
        svg = re.sub(color, f"var(--{variable})", svg, flags=re.IGNORECASE)
    svg = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 var(--font)", svg)
    width = round(1.25 * float(re.findall(r'viewBox="0 0 ([\d.]+)', svg)[0]))  # 8 inches are as wide as the page
    looks = f'class="plot {look}" style="max-width: {width}px" role="img" aria-label="{escape(alt, quote=True)}"'
    return svg.replace("<svg", f"<svg {looks}", 1)


def marks(axes: Axes, x: Sequence[float], y: float, look: Style, **more: Any) -> None:
    """Marks of one arm at the height `y`, whole even at the edge of the axes."""
    axes.plot(x, [y] * len(x), look.marker, color=look.color, clip_on=False, **more)


def curve_line(axes: Axes, curve: Sequence[tuple[float, float]], look: Style, marks: int, **more: Any) -> Line2D:
    """A curve in the style of its arm, with about so many marks."""
    x, y = [x for x, _ in curve], [y for _, y in curve]
    every = max(1, len(curve) // marks)
    return axes.plot(x, y, color=look.color, ls=look.line, marker=look.marker, mec=PAPER, markevery=every, **more)[0]


def _wrap(label: str, width: int = 22) -> str:
    return "\n".join(textwrap.wrap(label, width, break_on_hyphens=False)) or " "
