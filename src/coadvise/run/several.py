"""What a student and its teachers answered on validation images that have any number of classes.

It stands in the place of `run.answers` for images of one class each, in `answers.safetensors`, and says of each image
how each class was answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..names import CLASS
from ..shapes import Bool, Float, Float64, Int
from .answers import require_outputs, stored_answers, write_answers
from .per_class import ClassCounts, macro_f1

FORMAT = "coadvise-answers-several-1"
AT_ONCE = 1 << 22
"""Answers that are ranked at once, in some 50 bytes each: many classes of many images would not fit into memory."""


def average_precisions(truth: Bool[np.ndarray, "n k"], score: Float[np.ndarray, "n k"]) -> Float64[np.ndarray, " k"]:
    """Average precision of each class: the precision at each of its images, mean over these. NaN for one without any.

    Images of the same score come at once, as in scikit-learn's `average_precision_score`.
    """
    n, k = truth.shape
    few = max(AT_ONCE // max(n, 1), 1)
    parts = [_average_precisions(truth[:, at : at + few], score[:, at : at + few]) for at in range(0, k, few)]
    return np.concatenate([np.zeros(0), *parts])


def _average_precisions(truth: Bool[np.ndarray, "n k"], score: Float[np.ndarray, "n k"]) -> Float64[np.ndarray, " k"]:
    order = np.argsort(-score, axis=0, kind="stable")
    score, hit = np.take_along_axis(score, order, axis=0), np.take_along_axis(truth, order, axis=0)
    n, k = truth.shape
    place = np.arange(n)[:, None]
    last = np.concatenate([score[1:] != score[:-1], np.ones((min(n, 1), k), dtype=bool)])
    end = np.minimum.accumulate(np.where(last, place, n)[::-1], axis=0)[::-1]  # of those with the same score
    precision = np.take_along_axis(hit.cumsum(axis=0) / (place + 1), end, axis=0)
    with np.errstate(invalid="ignore"):
        return np.asarray((precision * hit).sum(axis=0) / hit.sum(axis=0))


@dataclass(frozen=True)
class SeveralAnswers:
    """Answers on n validation images.

    Attributes:
        data: digest of the validation images and their classes.
        classes: their names.
        index: place of each image in the validation set, ascending. Unreadable ones are missing.
        truth: which classes each image has.
        outputs: output of the student (`class`, its advised tokens, `average`) → its logits: above 0, a class is
            answered with yes.
        teachers: name → the teacher's logits; −inf for classes that it does not know.
        weights, epoch, answering: whose answers they are, as in `run.answers.Answers`.
    """

    data: str
    classes: tuple[str, ...]
    index: Int[np.ndarray, " n"]
    truth: Bool[np.ndarray, "n k"]
    outputs: Mapping[str, Float[np.ndarray, "n k"]]
    teachers: Mapping[str, Float[np.ndarray, "n k"]] = field(default_factory=dict)
    weights: str | None = None
    epoch: int | None = None
    answering: str = CLASS

    def average_precision(self) -> dict[str, float]:
        """Of each class that has images, by its name, as the student answers."""
        values = average_precisions(self.truth, self.outputs[self.answering]).tolist()
        return {name: value for name, value in zip(self.classes, values, strict=True) if value == value}

    @property
    def chance(self) -> float:
        """mAP of answers by chance: the mean share of images that have a class, of those that some have."""
        shares = self.truth.mean(axis=0)
        return float(shares[shares > 0].mean()) if shares.any() else 0.0

    def counts(self, output: str | None = None) -> dict[str, ClassCounts]:
        """How often each class is there, is answered with more than half by the student or one output, and both."""
        yes = self.outputs[self.answering if output is None else output] > 0
        of = [table.sum(axis=0).tolist() for table in (self.truth, yes, self.truth & yes)]
        return {name: ClassCounts(*numbers) for name, *numbers in zip(self.classes, *of, strict=True)}

    def exact(self, output: str) -> float:
        """Share of images of which every class is answered rightly."""
        return float(((self.outputs[output] > 0) == self.truth).all(axis=1).mean())

    def metrics(self) -> dict[str, float]:
        """`map/OUTPUT`, `f1_macro/OUTPUT`, `f1_micro/OUTPUT`, `exact/OUTPUT` and `teacher_map/NAME`, as shares.

        `map` is the mean of the average precisions of the classes that have images, of a teacher of those that it
        knows. It is missing where there are none.
        """
        found: dict[str, float] = {}
        for name in self.outputs:
            counts = self.counts(name)
            both = [sum(getattr(one, what) for one in counts.values()) for what in ("support", "answered", "right")]
            found[f"map/{name}"] = _mean(average_precisions(self.truth, self.outputs[name]))
            found[f"f1_macro/{name}"] = macro_f1(counts)
            found[f"f1_micro/{name}"] = 2 * both[2] / max(both[0] + both[1], 1)
            found[f"exact/{name}"] = self.exact(name)
        for name, logits in self.teachers.items():
            known = (logits > -np.inf).any(axis=0)
            found[f"teacher_map/{name}"] = _mean(average_precisions(self.truth[:, known], logits[:, known]))
        return {name: value for name, value in found.items() if value == value}

    def write(self, path: Path) -> None:
        """Write the file atomically.

        Raises:
            WriteError: the folder cannot be written to, or the disk is full.
        """
        tensors: dict[str, np.ndarray] = {"index": self.index.astype(np.int32), "truth": self.truth.astype(np.uint8)}
        tensors |= {f"output.{name}": values.astype(np.float32) for name, values in self.outputs.items()}
        tensors |= {f"teacher.{name}": values.astype(np.float32) for name, values in self.teachers.items()}
        write_answers(path, FORMAT, tensors, self.data, self.classes, self.weights, self.epoch, self.answering)

    @classmethod
    def read(cls, path: Path) -> SeveralAnswers:
        """Read a file that `write` wrote.

        Raises:
            RunError: it is missing, damaged or of another form.
        """
        with stored_answers(path) as one:
            found = cls(
                one.data, one.classes, one.tensors["index"].astype(np.int64), one.tensors["truth"].astype(bool),
                one.of("output"), one.of("teacher"), one.weights, one.epoch, one.answering,
            )  # fmt: skip
            shape = (len(found.index), len(found.classes))
            if any(x.shape != shape for x in (found.truth, *found.outputs.values(), *found.teachers.values())):
                raise ValueError("tensors of different shapes")
            require_outputs(found.outputs, found.answering)
        return found


def _mean(values: Float64[np.ndarray, " k"]) -> float:
    """Mean of those that are numbers, NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
