"""What is measured, by how many classes an image has: the one place where that is decided."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from ..data.views.finish import Batch
from ..run.answers import Answers
from ..run.several import SeveralAnswers
from .answers import Collected, Gather
from .metrics import batch_metrics, metric_names
from .several import SeveralCollected, several_metrics, several_names


class Collects(Protocol):
    """Keeps what is answered for single images."""

    def add(self, batch: Batch, tokens: Mapping[str, Tensor], advice: Mapping[str, Tensor]) -> None: ...

    def answers(self, data: str, classes: Sequence[str], gather: Gather = ...) -> Answers | SeveralAnswers: ...

    def metrics(self, classes: Sequence[str], gather: Gather = ...) -> dict[str, float]: ...


@dataclass(frozen=True)
class Task:
    """How answers are measured.

    Attributes:
        decides: what the metric is called by which weights are better than others, before its `/OUTPUT`.
        title: of that metric, for people.
        names: of what `measure` gives, by tokens and teachers.
        measure: logits by token, by teacher, and a batch → values of each image by name.
        collect: makes what keeps answers image by image, and measures what single images do not tell.
        read: reads such answers from their file.
    """

    decides: str
    title: str
    names: Callable[[Iterable[str], Iterable[str]], list[str]]
    measure: Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Batch], dict[str, Tensor]]
    collect: Callable[[], Collects]
    read: Callable[[Path], Answers | SeveralAnswers]


TASKS = {
    "one": Task(
        "accuracy", "", metric_names, lambda t, a, batch: batch_metrics(t, a, batch.label), Collected, Answers.read
    ),
    "several": Task("map", "mAP of ", several_names, several_metrics, SeveralCollected, SeveralAnswers.read),
}
"""By `data.labels`."""
