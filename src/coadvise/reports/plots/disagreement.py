"""The figure of single images on which models disagree."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from .style import GRID, REST, RIGHT, WRONG, _wrap


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


@dataclass(frozen=True)
class Disagreement:
    """An image on which teachers disagree: PNG bytes, label and class probabilities by model."""

    png: bytes
    index: int
    label: int
    outputs: Mapping[str, Sequence[float]]
