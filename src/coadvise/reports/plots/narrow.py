"""A figure once more for a narrow screen: panels below each other, as wide as the screen, so that it can be read."""

from __future__ import annotations

from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

WIDTH = 4.3
"""Inches of a figure on a telephone; its 10 points are then 11 to 12 of the screen's."""
NARROW = 4.75
"""Inches up to which a figure is narrow as it is."""
_ABREAST = 3  # panels; more are pictures in a row, which belong together


def narrow(figure: Figure) -> bool:
    """Change a figure that has been drawn; False, and nothing changed, where it would not be read better."""
    width, height = figure.get_size_inches()
    places = [axes.get_subplotspec() for axes in figure.axes]
    grids = {id(place.get_gridspec()): place.get_gridspec() for place in places if place is not None}
    if width <= NARROW or None in places or len(grids) != 1:
        return False
    (grid,) = grids.values()
    if grid.ncols > _ABREAST:
        return False
    if grid.ncols > 1:
        height = _stack(figure)
        if (engine := figure.get_layout_engine()) is not None:
            engine.set(h_pad=0.1)  # type: ignore[call-arg]
    for legend in list(figure.legends):
        lines = [line for line in legend.legend_handles if line is not None]
        labels = [text.get_text() for text in legend.get_texts()]
        legend.remove()
        figure.legend(lines, labels, loc="outside lower center", ncols=1, handlelength=3.4)
        height += 0.24 * len(labels)
    figure.set_size_inches(WIDTH, height)
    return True


def _stack(figure: Figure) -> float:
    """Put the panels below each other in the order in which they were made, as high as they were.

    Returns:
        The height of the figure, in inches.
    """
    heights = [axes.bbox.height / figure.dpi for axes in figure.axes]
    around = [_around(axes) for axes in figure.axes]
    grid = GridSpec(len(heights), 1, figure=figure, height_ratios=heights)
    for place, axes in enumerate(figure.axes):
        axes.set_subplotspec(grid[place])
        axes.tick_params(axis="y", labelleft=True)  # a neighbour had them for both
    for one, other in pairwise(figure.axes):
        if one.get_shared_x_axes().joined(one, other):
            one.tick_params(axis="x", labelbottom=False)
    return sum(heights) + sum(around) + 0.25 * len(heights)


def _around(axes: Axes) -> float:
    """Inches above and below a panel that its title and its labels take."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    box = axes.get_tightbbox()
    return 0.0 if box is None else max(0.0, (box.height - axes.bbox.height) / figure.dpi)
