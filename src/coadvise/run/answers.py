"""What a student and its teachers answered on the validation images, image by image: `answers.safetensors`.

Everything that depends on single images is made of this file, without the images and without PyTorch: results of each
class, calibration, where the teachers know better, and the comparison of runs by a paired test.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import RunError
from ..names import CLASS
from ..shapes import Bool, Float, Int
from ..system.files import write_atomic
from .per_class import ClassCounts, class_counts, confusion

FORMAT = "coadvise-answers-1"


@dataclass(frozen=True)
class Stored:
    """What a file of answers holds: its tensors by name, and what is said of them."""

    tensors: Mapping[str, np.ndarray]
    data: str
    classes: tuple[str, ...]
    weights: str | None
    epoch: int | None
    answering: str

    def of(self, kind: str) -> dict[str, np.ndarray]:
        """The tensors `KIND.NAME`, by NAME."""
        return {name.partition(".")[2]: x for name, x in self.tensors.items() if name.startswith(f"{kind}.")}


def write_answers(
    path: Path,
    form: str,
    tensors: Mapping[str, np.ndarray],
    data: str,
    classes: Sequence[str],
    weights: str | None,
    epoch: int | None,
    answering: str,
) -> None:
    """Write a file of answers atomically.

    Args:
        form: the file's format, with its version.
        answering: the output that answers; not written where it is the class token, as in an earlier version.

    Raises:
        WriteError: the folder cannot be written to, or the disk is full.
    """
    of: dict[str, object] = {} if weights is None else {"weights": weights, "epoch": epoch}
    of |= {} if answering == CLASS else {"answering": answering}
    facts = json.dumps({"data": data, "classes": classes, **of}, ensure_ascii=True)
    plain = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
    write_atomic(path, save(plain, {"coadvise": json.dumps({"format": form}), "facts": facts}))


@contextmanager
def stored_answers(path: Path) -> Iterator[Stored]:
    """The content of a file of answers; what the block finds wrong with it (ValueError, KeyError) is said of the file.

    Raises:
        RunError: it is missing, damaged or of another form.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        weights, epoch = (None, None) if facts.get("weights") is None else (str(facts["weights"]), int(facts["epoch"]))
        classes, answering = tuple(str(name) for name in facts["classes"]), str(facts.get("answering", CLASS))
        yield Stored(tensors, str(facts["data"]), classes, weights, epoch, answering)
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing; it is written at the end of a run") from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} cannot be read as answers ({error}); it is written at the end of a run") from error


@dataclass(frozen=True)
class Answers:
    """Answers on n validation images.

    Attributes:
        data: digest of the validation images and their classes; answers on the same ones can be compared.
        classes: their names.
        index: place of each image in the validation set, ascending. Unreadable ones are missing.
        label: true class of each.
        outputs: output of the student (`class`, its advised tokens, `average`) → its likeliest class.
        confidence: the same outputs → probability of that class.
        teachers: name → the teacher's likeliest class.
        weights: whose answers they are: those of the weights that the run delivers, `student` or `ema`, after so many
            epochs; None in earlier versions, where they are those after the last epoch.
        answering: the output by which the student answers at inference; what is said of the student is said of it.
    """

    data: str
    classes: tuple[str, ...]
    index: Int[np.ndarray, " n"]
    label: Int[np.ndarray, " n"]
    outputs: Mapping[str, Int[np.ndarray, " n"]]
    confidence: Mapping[str, Float[np.ndarray, " n"]]
    teachers: Mapping[str, Int[np.ndarray, " n"]] = field(default_factory=dict)
    weights: str | None = None
    epoch: int | None = None
    answering: str = CLASS

    @property
    def answer(self) -> Int[np.ndarray, " n"]:
        """What the student answers."""
        return self.outputs[self.answering]

    @property
    def sure(self) -> Float[np.ndarray, " n"]:
        """How sure it is of that: the probability."""
        return self.confidence[self.answering]

    def right(self, output: str | None = None) -> Bool[np.ndarray, " n"]:
        """Whether the student, or one of its outputs, names each image rightly."""
        return self.outputs[self.answering if output is None else output] == self.label

    def counts(self) -> dict[str, ClassCounts]:
        """Counts of each class by what the student answers."""
        return class_counts(self.label, self.answer, self.classes)

    def confusion(self) -> Int[np.ndarray, "k k"]:
        """Number of images by true class (rows) and by what the student answers (columns)."""
        return confusion(self.label, self.answer, len(self.classes))

    def write(self, path: Path) -> None:
        """Write the file atomically.

        Raises:
            WriteError: the folder cannot be written to, or the disk is full.
        """
        tensors = {"index": self.index.astype(np.int32), "label": self.label.astype(np.int32)}
        for name, values in self.outputs.items():
            tensors[f"output.{name}"] = values.astype(np.int32)
            tensors[f"confidence.{name}"] = self.confidence[name].astype(np.float32)
        tensors |= {f"teacher.{name}": values.astype(np.int32) for name, values in self.teachers.items()}
        write_answers(path, FORMAT, tensors, self.data, self.classes, self.weights, self.epoch, self.answering)

    @classmethod
    def read(cls, path: Path) -> Answers:
        """Read a file that `write` wrote.

        Raises:
            RunError: it is missing, damaged or of another form.
        """
        with stored_answers(path) as one:
            found = cls(
                one.data, one.classes, one.tensors["index"].astype(np.int64), one.tensors["label"].astype(np.int64),
                {name: values.astype(np.int64) for name, values in one.of("output").items()}, one.of("confidence"),
                {name: values.astype(np.int64) for name, values in one.of("teacher").items()}, one.weights, one.epoch,
                one.answering,
            )  # fmt: skip
            found._require_sound()
        return found

    def _require_sound(self) -> None:
        """Raise ValueError for numbers that `write` cannot have written."""
        n, k = len(self.index), len(self.classes)
        named = [self.label, *self.outputs.values(), *self.teachers.values()]
        if any(x.shape != (n,) for x in (self.index, *named, *self.confidence.values())):
            raise ValueError("tensors of different lengths")
        if any(x.min(initial=0) < 0 or x.max(initial=0) >= k for x in named):
            raise ValueError(f"a class that is none of {k}")
        require_outputs(self.outputs, self.answering)
        if self.outputs.keys() != self.confidence.keys():
            raise ValueError("answers without their confidence")


def require_outputs(outputs: Mapping[str, object], answering: str) -> None:
    """Raise ValueError where the class token, or the output that answers, is missing."""
    if missing := [name for name in (CLASS, answering) if name not in outputs]:
        raise ValueError(f"no answers of '{missing[0]}'")


def both_right(one: Answers, other: Answers) -> tuple[Bool[np.ndarray, " m"], Bool[np.ndarray, " m"]]:
    """Whether each of two models is right, on the images that both could read."""
    _, first, second = np.intersect1d(one.index, other.index, assume_unique=True, return_indices=True)
    return one.right()[first], other.right()[second]
