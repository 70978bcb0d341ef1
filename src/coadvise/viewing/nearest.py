"""The validation images of a run that the models disagree on, and which of them are nearest to an image."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..data.sources.base import ImageSource, sets_of, strata
from ..data.sources.subsets import balanced_subset
from ..errors import CoadviseError, one_line
from ..names import CLASS
from ..shapes import Bool, Float, Int
from .asking import TEACHER, Asked, ask, seen_by
from .opened import OpenedRun

By = Literal["features", "answers"]
Which = Literal["all", "apart"]
"""All validation images, or those on which the models disagree."""
BATCH = 8
"""Validation images that are asked at once: an image of the user's waits for no more."""


@dataclass(frozen=True)
class Near:
    """A validation image on which the models disagree.

    Attributes:
        index: its place in the validation set.
        label: its classes.
        likeness: 1 for the same, by what it was chosen by.
        answers: output → classes that it names.
    """

    index: int
    label: tuple[str, ...]
    likeness: float
    answers: Mapping[str, tuple[str, ...]]


def who_disagrees(run: OpenedRun) -> tuple[str, ...]:
    """The outputs between which a disagreement counts: the teachers where there are two, or else what there is."""
    teachers = tuple(f"{TEACHER}{name}" for name in run.teachers.names)
    if len(teachers) > 1:
        return teachers
    if teachers:
        return (CLASS, *teachers)
    return run.tokens


def disagreement_in_words(run: OpenedRun) -> str:
    """What counts as a disagreement in a run, as a heading ends."""
    who = who_disagrees(run)
    if who == (CLASS,):
        return "the model is mistaken"
    if CLASS not in who:
        return "the teachers disagree"
    own = "the average of all heads" if run.averages else "the class token"
    return f"its teacher and {own} disagree" if len(run.teachers) else "its tokens disagree"


class Validation:
    """The answers for a run's validation images, asked bit by bit while other questions go before.

    Args:
        most: so many of the images, classes in balance.
        busy: held while the models compute.
    """

    def __init__(self, run: OpenedRun, most: int, busy: AbstractContextManager[object]) -> None:
        self._run, self._busy = run, busy
        self._parts: list[tuple[Int[np.ndarray, " b"], Asked]] = []
        self._lock = threading.Lock()
        self.stopped = threading.Event()
        self.why = run.why
        source = run.images
        self._source = source
        # In a mixed order: the first answers are about images of all classes.
        chosen = np.zeros(0, np.int64) if source is None else balanced_subset(strata(source), most)
        self._chosen = np.random.default_rng(0).permutation(chosen)
        self.done = 0

    @property
    def total(self) -> int:
        """Images that are asked about in all."""
        return len(self._chosen)

    def fill(self) -> None:
        """Ask about all images; ends early once `stopped` is set. Unreadable images are left out."""
        for start in range(0, self.total, BATCH):
            rows = self._chosen[start : start + BATCH]
            try:
                read = list(self._pixels(rows))
                if self.stopped.is_set():
                    return
                with self._busy:
                    asked = ask(self._run, np.stack([one for _, one in read])) if read else None
            except Exception as error:  # of models and files of others: the page goes on, and says why
                self.why = one_line(error)
                return
            with self._lock:
                if asked is not None:
                    self._parts.append((np.array([row for row, _ in read]), asked))
                self.done += len(rows)

    def _pixels(self, rows: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        source = self._source
        assert source is not None
        for row in rows:
            try:
                yield int(row), seen_by(self._run, source.read(int(row)), source.describe(int(row)))
            except (CoadviseError, OSError):
                continue

    def nearest(self, asked: Asked, by: By, count: int, but: int | None = None) -> list[Near]:
        """The nearest disagreements among the images asked so far.

        Args:
            asked: what is answered for one image.
            by: the cosine of the class token's features, or `answers_alike` of all outputs.
            but: an image that is left out.
        """
        parts = self._answers()
        if not parts:
            return []
        index, odds = _joined(parts)
        apart = self._apart(index, odds) & (index != (-1 if but is None else but))
        if by == "features" and asked.features is not None:
            own = np.concatenate([one.features for _, one in parts if one.features is not None])
            likeness = cosine(own, asked.features[0])
        else:
            likeness = answers_alike(odds, asked.odds, self._run.several)
        order = np.argsort(-likeness, kind="stable")
        chosen = [row for row in order.tolist() if apart[row]][:count]
        return [
            Near(
                int(index[row]), self.label(int(index[row])), float(likeness[row]),
                {name: named(rows[row], self._run) for name, rows in odds.items()},
            )
            for row in chosen
        ]  # fmt: skip

    def listed(self, which: Which) -> list[int]:
        """Places of the images that are asked about, in a mixed order; of those asked so far, where they disagree."""
        if which == "all":
            return [int(index) for index in self._chosen]
        parts = self._answers()
        if not parts:
            return []
        index, odds = _joined(parts)
        return [int(one) for one in index[self._apart(index, odds)]]

    def _answers(self) -> list[tuple[Int[np.ndarray, " b"], Asked]]:
        with self._lock:
            return list(self._parts)

    def label(self, index: int) -> tuple[str, ...]:
        """Classes of a validation image."""
        return label_of(self._source, index)

    def _apart(self, index: np.ndarray, odds: Mapping[str, np.ndarray]) -> Bool[np.ndarray, " n"]:
        """On which images the models disagree."""
        who = who_disagrees(self._run)
        said = [answered(odds[name], self._run.several) for name in who]
        if len(said) == 1:
            source = self._source
            assert source is not None
            sets = sets_of(source)
            right = np.eye(len(source.class_names), dtype=bool)[source.labels] if sets is None else sets[source.labels]
            return np.any(said[0] != right[index], axis=1)  # type: ignore[no-any-return]
        return np.any([np.any(one != said[0], axis=1) for one in said[1:]], axis=0)  # type: ignore[no-any-return]


def _joined(
    parts: list[tuple[Int[np.ndarray, " b"], Asked]],
) -> tuple[Int[np.ndarray, " n"], dict[str, Float[np.ndarray, "n k"]]]:
    index = np.concatenate([rows for rows, _ in parts])
    return index, {name: np.concatenate([one.odds[name] for _, one in parts]) for name in parts[0][1].odds}


def label_of(source: ImageSource | None, index: int) -> tuple[str, ...]:
    """Classes of an image of a source."""
    assert source is not None
    label, sets = int(source.labels[index]), sets_of(source)
    if sets is None:
        return () if label < 0 else (source.class_names[label],)
    return tuple(name for name, there in zip(source.class_names, sets[label], strict=True) if there)


def answered(odds: Float[np.ndarray, "n k"], several: bool) -> Bool[np.ndarray, "n k"]:
    """Which classes are named: the likeliest, or of several all that are likelier than not."""
    if several:
        return odds > 0.5
    return np.eye(odds.shape[1], dtype=bool)[odds.argmax(axis=1)]


def named(odds: Float[np.ndarray, " k"], run: OpenedRun) -> tuple[str, ...]:
    """The same as names, for one image."""
    there = answered(odds[None], run.several)[0]
    return tuple(name for name, yes in zip(run.trained.classes, there, strict=True) if yes)


def cosine(rows: Float[np.ndarray, "n d"], one: Float[np.ndarray, " d"]) -> Float[np.ndarray, " n"]:
    """Cosine of each row with one vector, in float64."""
    rows, one = rows.astype(np.float64), one.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(one)
    return rows @ one / np.maximum(lengths, 1e-12)  # type: ignore[no-any-return]


def answers_alike(
    rows: Mapping[str, Float[np.ndarray, "n k"]], one: Mapping[str, Float[np.ndarray, "1 k"]], several: bool
) -> Float[np.ndarray, " n"]:
    """One minus the mean distance of the outputs' probabilities, in [0, 1].

    The distance is the total variation; where an image has any number of classes, the largest difference of a class.
    """
    differences = [np.abs(rows[name] - one[name]) for name in rows]
    gaps = [gap.max(axis=1) if several else 0.5 * gap.sum(axis=1) for gap in differences]
    return 1 - np.minimum(np.mean(gaps, axis=0), 1.0)  # type: ignore[no-any-return]
