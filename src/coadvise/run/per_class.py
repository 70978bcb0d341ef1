"""Results of each class: recall, precision and F1 with their intervals, and which classes are taken for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..shapes import Int
from ..significance import wilson

Interval = tuple[float, float]


@dataclass(frozen=True)
class ClassCounts:
    """How often a class was there, and how often it was answered.

    Attributes:
        support: images of the class.
        answered: images for which the model answered with the class.
        right: images of the class for which it did.
    """

    support: int
    answered: int
    right: int

    @property
    def recall(self) -> float | None:
        """Share of the class's images that are named rightly: its accuracy. None where there is no image of it."""
        return self.right / self.support if self.support else None

    @property
    def precision(self) -> float | None:
        """Share of right ones among the answers with this class. None where it is never answered."""
        return self.right / self.answered if self.answered else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall. None where the class neither is there nor is answered."""
        return 2 * self.right / (self.support + self.answered) if self.support + self.answered else None

    @property
    def recall_interval(self) -> Interval:
        """Wilson's 95 % interval."""
        return wilson(self.right, self.support)

    @property
    def precision_interval(self) -> Interval:
        """Wilson's 95 % interval, given how often the class was answered."""
        return wilson(self.right, self.answered)

    @property
    def f1_interval(self) -> Interval:
        """95 % interval of F1 from that of a proportion.

        Of the images that are of the class or answered as it, the share J that is both decides F1 = 2J / (1 + J), which
        grows with J: so the ends of Wilson's interval of J give those of F1.
        """
        low, high = wilson(self.right, self.support + self.answered - self.right)
        return 2 * low / (1 + low), 2 * high / (1 + high)


def confusion(label: Int[np.ndarray, " n"], answer: Int[np.ndarray, " n"], classes: int) -> Int[np.ndarray, "k k"]:
    """How many images of each class (row) were given each answer (column)."""
    table = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(table, (label, answer), 1)
    return table


def class_counts(
    label: Int[np.ndarray, " n"], answer: Int[np.ndarray, " n"], names: Sequence[str]
) -> dict[str, ClassCounts]:
    """Counts of each class by its name, in the order of the classes."""
    k = len(names)
    of = [np.bincount(x, minlength=k).tolist() for x in (label, answer, label[label == answer])]
    return {name: ClassCounts(*counts) for name, *counts in zip(names, *of, strict=True)}


def chance(counts: Mapping[str, ClassCounts]) -> int:
    """Images that would be right if the commonest class were answered always."""
    return max((one.support for one in counts.values()), default=0)


def macro_f1(counts: Mapping[str, ClassCounts]) -> float:
    """Mean F1 over the classes that are there or answered, each class with the same weight."""
    values = [one.f1 for one in counts.values() if one.f1 is not None]
    return sum(values) / len(values) if values else 0.0
