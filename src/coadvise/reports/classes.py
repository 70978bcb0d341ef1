"""Sections on single classes and images: what a student mistakes for what, how sure it is, who knows better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import few
from ..run.answers import Answers
from ..run.calibration import BINS, calibration
from ..run.per_class import ClassCounts, chance, macro_f1
from ..run.pictures import Picture
from ..shapes import Int
from ..significance import mcnemar
from .page import Folded, Gallery, Part, Photograph, Section, Text
from .plots.classes import ClassBar, class_bars, confusion_figure, overview_figure, reliability_figure
from .plots.style import draw
from .tables import Table, count, p_value, percent, with_interval
from .words import output_title

MOST = 20
"""Classes that a figure shows; of more than these, those with the most mistakes."""
MOST_OVERVIEW = 200
"""Classes of which a picture of all is drawn: of more, a class is less than two pixels."""
MOST_PAIRS = 15


def classes_section(answers: Answers) -> Section | None:
    """Recall, precision and F1 of every class, and which classes are taken for which."""
    if not len(answers.label):
        return None
    names = answers.classes
    of = "after the last epoch" if answers.epoch is None else f"with the weights of epoch {answers.epoch}"
    counts, table = answers.counts(), answers.confusion()
    shown = _shown(table)
    whole, guessed = float(np.trace(table) / table.sum()), chance(counts) / int(table.sum())
    bars = [
        ClassBar(names[i], one.recall, *one.recall_interval, one.support)
        for i in shown
        if (one := counts[names[i]]).recall is not None
    ]
    bars.sort(key=lambda bar: bar.recall)
    said = ", ".join(f"{bar.label} {percent(bar.recall)} %" for bar in bars)
    parts: list[Part] = [draw("classes", f"Recall of each class: {said}.", lambda: class_bars(bars, whole, guessed))]
    never = [name for name, one in counts.items() if one.support and not one.right]
    if never:
        parts.append(Text(f"Not one image is named rightly of: {few(never)}.", "warning"))
    cut, each = len(shown) < len(names), _table(counts, f"{output_title(answers.answering)} answers {of}")
    parts += [Text(_note(cut), "note"), Folded(f"All {count(len(names))} classes as a table", [each]) if cut else each]
    parts += _confusions(table, names, shown)
    return Section("classes", "Classes", parts)


def _confusions(table: Int[np.ndarray, "k k"], names: Sequence[str], shown: Sequence[int]) -> list[Part]:
    """The confusion matrix, of many classes that of those `shown`, with the commonest mistakes and a view of all."""
    said = _commonest(table, names)
    part, others = cut(table, shown)
    drawing = draw(
        "confusion", f"Confusion matrix. The commonest mistakes: {said}.",
        lambda: confusion_figure(part, [names[i] for i in shown], others),
    )  # fmt: skip
    how = "Rows are true classes, columns what was answered: blue is right, orange a mistake, darker is more often."
    if others is None:
        return [drawing, Text(f"{how} The commonest mistakes: {said}.", "note")]
    parts: list[Part] = [drawing, Text(how, "note"), _mistakes(table, names)]
    if len(names) <= MOST_OVERVIEW:
        alt = f"Confusion matrix of all {len(names)} classes, without names."
        parts += [draw("overview", alt, lambda: overview_figure(table)), Text(_OVERVIEW, "note")]
    return parts


_OVERVIEW = (
    "The same for all classes, numbered in the order of the table: a dark spot off the diagonal is a pair of classes "
    "that are taken for each other, a column a class that is answered too often."
)


def _shown(table: Int[np.ndarray, "k k"]) -> list[int]:
    """Places of the classes that figures show, in their order."""
    if len(table) <= MOST:
        return list(range(len(table)))
    wrong = table.sum(axis=0) + table.sum(axis=1) - 2 * np.diag(table)
    return sorted(np.argsort(-wrong, kind="stable")[:MOST].tolist())


def _note(cut: bool) -> str:
    shown = f" The bars and the first matrix show the {MOST} classes with the most mistakes." if cut else ""
    return (
        "Lines and brackets are 95 % intervals: Wilson's for recall and precision; that of F1 follows from Wilson's "
        f"for the share of images that are both of the class and answered as it.{shown}"
    )


def cut(
    table: Int[np.ndarray, "k k"], shown: Sequence[int]
) -> tuple[Int[np.ndarray, "m m"], Int[np.ndarray, " m"] | None]:
    """Some classes of a confusion matrix, and how many images of each were given another answer; None of all."""
    part = table[np.ix_(shown, shown)]
    return part, None if len(shown) == len(table) else table[shown].sum(axis=1) - part.sum(axis=1)


def _pairs(table: Int[np.ndarray, "k k"], most: int) -> list[tuple[int, int, int]]:
    """(images, true class, answer) of the commonest mistakes, the commonest first."""
    wrong = table - np.diag(np.diag(table))
    places = np.argsort(-wrong, axis=None, kind="stable")[:most]
    return [(n, *divmod(int(i), len(table))) for i in places if (n := int(wrong.flat[i]))]


def _commonest(table: Int[np.ndarray, "k k"], names: Sequence[str]) -> str:
    pairs = _pairs(table, 3)
    return ", ".join(f"{names[a]} taken for {names[b]} ({count(n)})" for n, a, b in pairs) or "none"


def _mistakes(table: Int[np.ndarray, "k k"], names: Sequence[str]) -> Table:
    totals = table.sum(axis=1)
    rows = [[names[a], names[b], count(n), percent(n / totals[a])] for n, a, b in _pairs(table, MOST_PAIRS)]
    columns = ["True class", "Answer", "Images", "Of the class, %"]
    return Table("The commonest mistakes", columns, rows, "llrr")


def _table(counts: Mapping[str, ClassCounts], how: str) -> Table:
    rows = [
        [
            name, count(one.support), with_interval(one.recall, one.recall_interval),
            with_interval(one.precision, one.precision_interval), with_interval(one.f1, one.f1_interval),
            count(one.answered),
        ]
        for name, one in counts.items()
    ]  # fmt: skip
    columns = ["Class", "Images", "Recall, %", "Precision, %", "F1, %", "Answered"]
    caption = f"Each class, as the {how}; mean F1 {percent(macro_f1(counts))} %"
    return Table(caption, columns, rows)


def calibration_section(answers: Answers) -> Section | None:
    """How far the student's confidence can be believed."""
    if not len(answers.label):
        return None
    error, bins = calibration(answers.sure, answers.right())
    who = output_title(answers.answering)
    mean, share = float(answers.sure.mean()), float(answers.right().mean())
    how = "too sure of itself" if mean > share else "less sure than it could be"
    said = (
        f"The expected calibration error is {percent(error)} points: on average the {who} is {percent(mean)} % "
        f"sure and {percent(share)} % right" + (f", so it is {how}." if error > 0.02 else ".")
    )
    drawing = draw("calibration", f"Right answers by confidence. {said}", lambda: reliability_figure(bins, 1 / BINS))
    note = "On the dashed line confidence and accuracy are equal; larger points stand for more images."
    return Section("calibration", "Calibration", [Text(said), drawing, Text(note, "note")])


def pictures_section(pictures: Mapping[str, Sequence[Picture]] | None) -> Section:
    """Photographs of the surest hits and mistakes, the least sure hits, what a teacher knew better, and disagreements.

    Args:
        pictures: by kind; None where the run kept none.
    """
    title = "Single images"
    if pictures is None:
        missing = "Not shown: the file pictures.json, which the end of a run writes, is missing from its folder."
        return Section("pictures", title, [Text(missing, "note")])
    galleries = [
        Gallery(f"{kind[0].upper()}{kind[1:]}", [_photograph(one) for one in found])
        for kind, found in pictures.items()
        if found
    ]
    if not galleries:
        gone = "Not shown: none of the chosen images could be read any more when the run ended."
        return Section("pictures", title, [Text(gone, "note")])
    note = (
        "Chosen for what they show, so they say nothing about how often: validation images, with the true class first, "
        "then what the student answered and how sure it was, and, where one of them errs or they disagree, what "
        "the teachers answered."
    )
    return Section("pictures", title, [Text(note, "note"), *galleries])


def _photograph(one: Picture) -> Photograph:
    mark = lambda answer: f"{'✓' if answer == one.label else '✗'}\N{NO-BREAK SPACE}{answer}"
    lines = [f"{mark(one.answer)} ({100 * one.confidence:.0f}\N{NO-BREAK SPACE}%)"]
    theirs = dict.fromkeys(one.teachers.values())
    if len(theirs) > 1:
        lines += [f"{name}: {mark(answer)}" for name, answer in one.teachers.items()]
    elif theirs and one.answer != one.label:
        lines.append(f"{'teachers' if len(one.teachers) > 1 else 'teacher'}: {mark(next(iter(theirs)))}")
    return Photograph(one.jpeg, one.label, lines, one.name)


def better_known(answers: Answers) -> Table | None:
    """What each teacher got right where the student did not, and the other way round."""
    if not answers.teachers or not len(answers.label):
        return None
    right, rows = answers.right(), []
    for name, values in answers.teachers.items():
        theirs = values == answers.label
        pairs = [(right & theirs), (theirs & ~right), (right & ~theirs), ~(right | theirs)]
        rows.append([name, *(count(int(pair.sum())) for pair in pairs), p_value(mcnemar(right, theirs).p)])
    columns = ["Teacher", "Both right", "Teacher alone", "Student alone", "Neither", "p (McNemar)"]
    return Table("Images that the student and each teacher name rightly", columns, rows)
