"""What a look at a data set found, image by image, as lines of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..shapes import Int64
from .survey import HUGE, TINY, Duplicates, Place, Survey


class Finding(NamedTuple):
    """A line: what is notable about an image."""

    finding: str
    split: str
    image: str
    detail: str

    @property
    def said(self) -> str:
        """The image and what is notable, for people; a message of an unreadable image names it already."""
        if self.finding == "unreadable":
            return f"{self.detail} ({self.split})"
        return f"{self.image} ({self.split})" + (f" {self.detail}" if self.detail else "")


def findings(surveys: Sequence[Survey], duplicates: Duplicates) -> Iterator[Finding]:
    """Every image that is worth a look: unreadable ones first, then those that are there twice."""
    for one in surveys:
        for index, message in one.unreadable.items():
            yield Finding("unreadable", one.word, one.source.describe(index), message)
    for kind, groups in (("same file", duplicates.exact), ("nearly the same", _told_once(duplicates))):
        for group in groups:
            first = group[0]
            for place in group[1:]:
                yield Finding(kind, surveys[place.split].word, _name(surveys, place), _as(surveys, first, place))
    for one in surveys:
        sizes = dict(zip(one.looked.tolist(), one.sizes.tolist(), strict=True))
        for kind, indices in (("tiny", one.tiny()), ("huge", one.huge())):
            for index in indices.tolist():
                width, height = sizes[index]
                yield Finding(kind, one.word, one.source.describe(index), f"{width}×{height} px")
        for index in one.blank.tolist():
            yield Finding("of one shade", one.word, one.source.describe(index), "")


def _name(surveys: Sequence[Survey], place: Place) -> str:
    return surveys[place.split].source.describe(place.at)


def _as(surveys: Sequence[Survey], first: Place, other: Place) -> str:
    """`as FILE, in training, of another class (cat, dog)`."""
    said = f"as {_name(surveys, first)}"
    if first.split != other.split:
        said += f", in {surveys[first.split].word}"
    labels = [class_of(surveys, place) for place in (first, other)]
    return said + (f", of another class ({labels[0]}, {labels[1]})" if labels[0] != labels[1] else "")


def class_of(surveys: Sequence[Survey], place: Place) -> str:
    """Name of an image's class."""
    source = surveys[place.split].source
    return source.class_names[int(source.labels[place.at])]


def counted(surveys: Sequence[Survey], duplicates: Duplicates) -> Iterator[tuple[str, ...]]:
    """Rows of a table with a column for each split: how many images, of which kinds and sizes, and what is notable."""

    def row(name: str, values: Sequence[object]) -> tuple[str, ...]:
        return (name, *(f"{value:,}" if isinstance(value, int) else str(value) for value in values))

    yield row("in all", [len(one.source) for one in surveys])
    if not all(one.whole for one in surveys):
        yield row("looked at", [len(one.looked) + len(one.unreadable) for one in surveys])
    yield row("of each class", [_range(one.counts) for one in surveys])
    for name, side in (("shorter side, px", np.min), ("longer side, px", np.max)):
        yield row(name, [_quantiles(side(one.sizes, axis=1)) for one in surveys])
    yield row("formats", [", ".join(f"{kind}: {count:,}" for kind, count in _first(one.kinds)) for one in surveys])
    notable: dict[str, Callable[[Survey], int]] = {
        "unreadable": lambda one: len(one.unreadable),
        f"tiny (under {TINY} px)": lambda one: len(one.tiny()),
        f"huge (over {HUGE:,} px)": lambda one: len(one.huge()),
        "turned by a flag (shown upright)": lambda one: len(one.turned),
        "of one shade": lambda one: len(one.blank),
    }
    for name, count in notable.items():
        values = [count(one) for one in surveys]
        if any(values) or name == "unreadable":
            yield row(name, values)
    inside = [_more(duplicates.exact, number) for number in range(len(surveys))]
    yield row("same file twice", inside)
    # Groups of images that look alike hold exact copies, too, which have been counted.
    alike = [_more(duplicates.near, number) for number in range(len(surveys))]
    near = {place: number for number, group in enumerate(duplicates.near) for place in group}
    within, apart = list[Sequence[Place]](), list[Sequence[Place]]()
    for group in duplicates.exact:
        numbers = {near.get(place) for place in group}
        (within if len(numbers) == 1 and None not in numbers else apart).append(group)
    yield row("nearly the same", [one - _more(within, number) for number, one in enumerate(alike)])
    both = sum(1 for group in (*apart, *duplicates.near) if len({place.split for place in group}) > 1)
    yield row("in both splits", [both, both])


def _told_once(duplicates: Duplicates) -> Iterator[Sequence[Place]]:
    """Groups of images that look alike, of exact copies only the first: the others are told as such."""
    copies = {place for group in duplicates.exact for place in group[1:]}
    for group in duplicates.near:
        yield [place for place in group if place not in copies]


def _first(kinds: Mapping[str, int]) -> list[tuple[str, int]]:
    return list(kinds.items())[:4]


def _range(counts: Int64[np.ndarray, " k"]) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _quantiles(sides: Int64[np.ndarray, " n"]) -> str:
    low, middle, high = (round(float(q)) for q in np.quantile(sides, (0.05, 0.5, 0.95)))
    return f"{middle:,}" if low == high else f"{middle:,} (90 % from {low:,} to {high:,})"


def _more(groups: Sequence[Sequence[Place]], split: int) -> int:
    """Images of a split that could be left out, since another of the same split is like them."""
    return sum(max(0, sum(place.split == split for place in group) - 1) for group in groups)
