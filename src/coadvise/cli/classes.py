"""Results of each class on a terminal and as JSON."""

from __future__ import annotations

from typing import Any

from ..run.answers import Answers
from ..run.per_class import ClassCounts, Interval, macro_f1
from ..run.several import SeveralAnswers
from ..system.screen import Table
from .arguments import out

WIDEST = 12
"""Classes of which the whole confusion matrix fits on a terminal."""


def _seen(answers: Answers | SeveralAnswers) -> dict[str, ClassCounts]:
    return {name: one for name, one in answers.counts().items() if one.support or one.answered}


def print_classes(answers: Answers | SeveralAnswers) -> None:
    """Recall, precision and F1 of each class with 95 % intervals, the worst first, and what is taken for what; its
    average precision where images have any number of classes."""
    counts, several = _seen(answers), isinstance(answers, SeveralAnswers)
    precisions = answers.average_precision() if isinstance(answers, SeveralAnswers) else {}
    columns = ("class", "images", "recall", "precision", "F1", *(["AP"] if several else []))
    table = Table(*columns, title="each class with 95 % intervals, the lowest recall first", title_justify="left")
    for name, one in sorted(counts.items(), key=lambda item: -1 if item[1].recall is None else item[1].recall):
        table.add_row(
            name, f"{one.support:,}", _share(one.recall, one.recall_interval),
            _share(one.precision, one.precision_interval), _share(one.f1, one.f1_interval),
            *([f"{precisions[name]:.1%}" if name in precisions else "–"] if several else []),
        )  # fmt: skip
    out.print(table)
    if precisions:
        out.print(f"mAP, the mean of the average precisions (AP), {sum(precisions.values()) / len(precisions):.1%}")
    out.print(f"mean F1 of the classes {macro_f1(counts):.1%}")
    if isinstance(answers, Answers):
        _print_confusion(answers, list(counts))


def _share(value: float | None, interval: Interval) -> str:
    return "–" if value is None else f"{value:6.1%} ({100 * interval[0]:.0f}–{100 * interval[1]:.0f})"


def _print_confusion(answers: Answers, names: list[str]) -> None:
    matrix = answers.confusion()
    place = {name: i for i, name in enumerate(answers.classes)}
    if len(names) <= WIDEST:
        table = Table("class", *names, title="images of each class (rows) by answer (columns)", title_justify="left")
        for name in names:
            table.add_row(name, *(str(matrix[place[name], place[other]] or "·") for other in names))
        out.print(table)
        return
    wrong = [(int(matrix[place[a], place[b]]), a, b) for a in names for b in names if a != b]
    worst = [(n, a, b) for n, a, b in sorted(wrong, key=lambda one: -one[0])[:10] if n]
    for n, a, b in worst:
        out.print(f"{n:,} of {int(matrix[place[a]].sum()):,} images of {a} are taken for {b}")


def classes_as_json(answers: Answers | SeveralAnswers) -> dict[str, Any]:
    """The same numbers by class, and the whole confusion matrix (rows: true class), or each average precision."""
    if isinstance(answers, SeveralAnswers):
        last: dict[str, Any] = {"average_precision": answers.average_precision()}
    else:
        last = {"confusion": answers.confusion().tolist()}
    return {
        "per_class": {
            name: {
                "support": one.support, "answered": one.answered, "right": one.right,
                "recall": one.recall, "recall_interval": one.recall_interval,
                "precision": one.precision, "precision_interval": one.precision_interval,
                "f1": one.f1, "f1_interval": one.f1_interval,
            }
            for name, one in _seen(answers).items()
        },
        "names": list(answers.classes),
        **last,
    }  # fmt: skip
