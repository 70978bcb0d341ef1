"""Figures of single tokens: how alike they are over depth, and where they look."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ...shapes import Float
from .style import style


def token_cosine_figure(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Mean cosine between two tokens after each block; above 0.99 they are as good as one."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for position, (name, values) in enumerate(curves.items(), start=1):
        look = style(position)
        depth = range(1, len(values) + 1)
        (line,) = axes.plot(depth, values, marker=look.marker, ls=look.line, color=look.color, ms=5, lw=1.4, label=name)
        line.set_clip_on(False)  # markers at 1 stay whole
    axes.axhline(0.99, color="0.5", lw=0.9, ls=(0, (4, 3)))
    axes.set(xlabel="block", ylabel="cosine between tokens")
    lowest = min((value for values in curves.values() for value in values), default=0.0)
    axes.set_ylim(min(lowest - 0.1 * (1 - lowest), 0.95), 1.0)
    axes.set_xticks(range(1, 1 + max((len(values) for values in curves.values()), default=1)))
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return figure


def attention_figure(images: Sequence[tuple[bytes, str, Mapping[str, Float[np.ndarray, "gh gw"]]]]) -> Figure:
    """A row an image: the image, then where each token looks (bright), scaled to that map's own range.

    Args:
        images: (PNG, class name, token → attention to the patches).
    """
    tokens = list(images[0][2])
    figure = Figure(figsize=(1.55 * (1 + len(tokens)), 1.6 * len(images) + 0.25), layout="constrained")
    grid = figure.subplots(len(images), 1 + len(tokens), squeeze=False)
    for row, (png, name, maps) in zip(grid, images, strict=True):
        with Image.open(io.BytesIO(png)) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        row[0].imshow(pixels, interpolation="nearest")
        row[0].set_ylabel(name, fontsize=9)
        for axes, token in zip(row[1:], tokens, strict=True):
            height, width = pixels.shape[:2]
            axes.imshow(pixels, interpolation="nearest")
            axes.imshow(maps[token], cmap="magma", alpha=0.72, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    for axes, title in zip(grid[0], ("image", *tokens), strict=True):
        axes.set_title(title, fontsize=9)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
    return figure


def looks_figure(images: Sequence[tuple[bytes, str, Mapping[str, Float[np.ndarray, "gh gw"]]]]) -> Figure:
    """The same with a label above each image, narrow enough for a telephone where there are up to four tokens.

    Args:
        images: (JPEG, label, token → attention to the patches), the same tokens for all.
    """
    tokens = list(images[0][2])
    columns = max(1 + len(tokens), 3)
    width = 4.7 if columns <= 5 else 8.0
    figure = Figure(figsize=(width, len(images) * (width / columns + 0.42)), layout="constrained")
    grid = figure.subplots(len(images), columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[:].set_visible(False)
    for cells, (jpeg, label, maps) in zip(grid, images, strict=True):
        with Image.open(io.BytesIO(jpeg)) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        cells[0].imshow(pixels)
        cells[0].set_title(label, fontsize=8, loc="left")
        height, width = pixels.shape[:2]
        for axes, token in zip(cells[1:], tokens, strict=False):
            axes.imshow(pixels)
            axes.imshow(maps[token], cmap="magma", alpha=0.6, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
            axes.set_title(token, fontsize=8, loc="left")
    return figure
