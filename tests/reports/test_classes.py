"""Sections on classes and images: their numbers against scikit-learn and a loop, and what reaches the page."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from collections import Counter
from html import unescape

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import recall_score

from coadvise.names import CLASS
from coadvise.reports.classes import (
    MOST,
    _shown,
    better_known,
    calibration_section,
    classes_section,
    cut,
    pictures_section,
)  # fmt: skip
from coadvise.reports.page import Page, Section, html, markdown
from coadvise.reports.plots.classes import ClassBar, class_bars, confusion_figure
from coadvise.reports.plots.narrow import narrow
from coadvise.reports.plots.style import Drawing
from coadvise.reports.tables import Table
from coadvise.run.answers import Answers
from coadvise.run.calibration import BINS, calibration
from coadvise.run.per_class import confusion
from coadvise.run.pictures import APART, HITS, SURE, TAUGHT, UNSURE, Picture, chosen


def drawn(classes: int = 4, n: int = 300) -> Answers:
    rng = np.random.default_rng(3)
    label = rng.integers(0, classes, n)
    answer = np.where(rng.random(n) < 0.7, label, rng.integers(0, classes, n))
    answer[label == classes - 1] = 0  # one class is never named rightly
    teacher = np.where(rng.random(n) < 0.9, label, 0)
    confidence = rng.uniform(0.3, 1, n).astype(np.float32)
    names = tuple(f"class <{i}>" for i in range(classes))
    return Answers("d", names, np.arange(n), label, {CLASS: answer}, {CLASS: confidence}, {"conv": teacher})


def page_of(*sections: Section | None) -> tuple[str, str]:
    page = Page("run", "headline", [], [one for one in sections if one is not None])
    return html(page), markdown(page)


def test_classes_are_shown_with_scikit_learns_numbers() -> None:
    one = drawn()
    text, plain = page_of(classes_section(one))
    for name, recall in zip(one.classes, recall_score(one.label, one.outputs[CLASS], average=None), strict=True):
        assert f"{name.replace('<', '&lt;')} | " in plain or f"{name}" in unescape(text)
        assert f"{100 * recall:.1f} [" in re.sub("<[^>]+>", "", text)
    assert "Not one image is named rightly of: 'class <3>'." in unescape(text)
    assert "class <3> taken for class <0>" in unescape(text)
    assert "<3>" not in text


def test_of_many_classes_those_with_the_most_mistakes_are_drawn() -> None:
    one = drawn(60, 2000)
    table = confusion(one.label, one.outputs[CLASS], 60)
    shown = _shown(table)
    mistakes = {i: int(table[i].sum() + table[:, i].sum() - 2 * table[i, i]) for i in range(60)}
    assert len(shown) == MOST and shown == sorted(shown)
    assert min(mistakes[i] for i in shown) >= max(n for i, n in mistakes.items() if i not in shown)
    assert {0, 59} <= set(shown), "the class that is never named rightly, and what it is taken for"


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize(("classes", "figures"), [(2, 2), (37, 3), (250, 2)])
def test_matrices_of_few_and_of_many_classes(classes: int, figures: int) -> None:
    """Rows of a matrix that is cut keep all images of their class; pairs of mistakes are those of a loop."""
    one = drawn(classes, 3000)
    section = classes_section(one)
    assert section is not None and sum(isinstance(part, Drawing) for part in section.parts) == figures
    counted = Counter(zip(one.label.tolist(), one.outputs[CLASS].tolist(), strict=True))
    shown = _shown(confusion(one.label, one.outputs[CLASS], classes))
    if classes > MOST:
        (pairs,) = [part for part in section.parts if isinstance(part, Table) and part.columns[1] == "Answer"]
        wrong = sorted((n for (a, b), n in counted.items() if a != b), reverse=True)
        assert [row[2] for row in pairs.rows] == [str(n) for n in wrong[: len(pairs.rows)]]
        name = {text: i for i, text in enumerate(one.classes)}
        for a, b, n, share in pairs.rows:
            n_class = (one.label == name[str(a)]).sum()
            assert counted[name[str(a)], name[str(b)]] == int(str(n)) and share == f"{100 * int(str(n)) / n_class:.1f}"
    part, others = cut(confusion(one.label, one.outputs[CLASS], classes), shown)
    axes = confusion_figure(part, [one.classes[i] for i in shown], others).axes[0]
    assert sum(int(text.get_text()) for text in axes.texts) == sum(n for (a, _), n in counted.items() if a in shown)
    right = [text.get_text() for text in axes.texts if text.get_weight() == "bold"]
    assert right == [str(counted[i, i]) for i in shown if counted[i, i]]


def test_names_of_two_lines_at_one_place_do_not_lie_on_each_other() -> None:
    said = lambda *shares: [
        one.get_text() for one in class_bars([ClassBar("a", 0.1, 0, 0.2, 9)], *shares).axes[0].texts
    ]
    assert said(0.103, 0.103) == ["10.0 % of 9", "all images and guessing 10.3"]
    assert said(0.105, 0.103) == ["10.0 % of 9", "all images 10.5", "guessing 10.3"]


@pytest.mark.parametrize("shares", [(0.32, 0.103), (0.105, 0.103), (0.46, 0.103), (0.97, 0.9), (0.02, 0.1)])
def test_names_of_lines_can_be_read_on_a_telephone(shares: tuple[float, float]) -> None:
    figure = class_bars([ClassBar("a", 0.1, 0, 0.2, 9)], *shares)
    figure.draw_without_rendering()
    assert narrow(figure)
    figure.draw_without_rendering()
    *_, first, second = (text.get_window_extent() for text in figure.axes[0].texts)
    assert not first.overlaps(second)
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in (first, second))


def test_calibration_is_that_of_a_loop() -> None:
    one = drawn()
    error, bins = calibration(one.confidence[CLASS], one.right())
    expected, count = 0.0, 0
    for i in range(BINS):
        inside = [j for j, c in enumerate(one.confidence[CLASS].tolist()) if i / BINS < c <= (i + 1) / BINS]
        if inside:
            gap = one.right()[inside].mean() - one.confidence[CLASS][inside].mean()
            expected, count = expected + abs(gap) * len(inside) / len(one.label), count + 1
    assert error == pytest.approx(expected, abs=1e-6) and len(bins) == count
    assert "expected calibration error is" in page_of(calibration_section(one))[0]


def test_what_teachers_know_better_is_counted() -> None:
    one = drawn()
    table = better_known(one)
    assert table is not None
    theirs, right = one.teachers["conv"] == one.label, one.right()
    expected = [(right & theirs).sum(), (theirs & ~right).sum(), (right & ~theirs).sum(), (~right & ~theirs).sum()]
    assert table.rows[0][1:5] == [str(n) for n in expected]


def test_chosen_images_are_the_surest_mistakes_and_the_least_sure_hits() -> None:
    one = drawn()
    rows, sure, right = chosen(one, 5), one.confidence[CLASS], one.right()
    assert sorted(sure[~right])[-5:] == sorted(sure[rows[SURE]]) and not right[rows[SURE]].any()
    assert sorted(sure[right])[:5] == sorted(sure[rows[UNSURE]]) and right[rows[UNSURE]].all()
    assert (one.teachers["conv"] == one.label)[rows[TAUGHT]].all() and not right[rows[TAUGHT]].any()
    assert not set(rows[TAUGHT].tolist()) & set(rows[SURE].tolist())


def test_photographs_are_on_the_page_with_what_was_said_of_them() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), (200, 10, 10)).save(buffer, "JPEG")
    jpeg = base64.b64encode(buffer.getvalue()).decode()
    one = Picture(jpeg, 'a"b.jpg', 3, "cat", "<dog>", 0.93, {"conv": "cat", "inv": "<dog>"})
    text, plain = page_of(pictures_section({SURE: [one], UNSURE: []}))
    shown = unescape(text).replace("\N{NO-BREAK SPACE}", " ")
    assert f"data:image/jpeg;base64,{jpeg}" in text and "✗ <dog> (93 %)" in shown
    assert "conv: ✓ cat" in shown and "<dog>" not in text and 'a"b' not in text
    assert "cat; ✗ &lt;dog> (93 %); conv: ✓ cat; inv: ✗ &lt;dog>" in plain
    both = dataclasses.replace(one, teachers={"conv": "cat", "inv": "cat"})
    assert "<span>teachers: ✓\N{NO-BREAK SPACE}cat</span>" in page_of(pictures_section({SURE: [both]}))[0]


def test_images_that_are_not_there_are_missed_in_words() -> None:
    assert "could be read any more when the run ended" in page_of(pictures_section({SURE: [], HITS: []}))[0]
    assert "pictures.json, which the end of a run writes, is missing" in page_of(pictures_section(None))[0]


def test_images_on_which_teachers_disagree_and_the_surest_hits() -> None:
    one = drawn()
    inv = np.where(np.arange(300) % 3 == 0, 1, one.teachers["conv"])
    one = dataclasses.replace(one, teachers={**one.teachers, "inv": inv})
    rows, right = chosen(one, 5), one.right()
    every = np.concatenate(list(rows.values()))
    assert len(every) == len(set(every.tolist())) == 25
    assert (one.teachers["conv"] != inv)[rows[APART]].all()
    assert right[rows[HITS]].all() and set(one.label[rows[HITS]][:3]) == {0, 1, 2}, "each class that has hits"
    sure = one.confidence[CLASS]
    assert sure[rows[HITS][0]] == max(sure[right])
