"""The five lines of a run: their numbers against SciPy and scikit-learn."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from coadvise.names import CLASS
from coadvise.reports.run_summary import run_summary
from coadvise.reports.summary import AGAINST, DONE, GOOD, NEXT, SURE
from coadvise.run.answers import Answers
from coadvise.run.per_class import ClassCounts
from coadvise.run.result import (
    Baselines,
    Best,
    DataFacts,
    LabelsAlone,
    Probe,
    RunResult,
    SeveralFacts,
    Skipped,
    StudentFacts,
    TeacherFacts,
)
from coadvise.run.standing import verdict_of

FOLDER = Path("runs/pets")


def finished() -> tuple[RunResult, Answers]:
    """A run on 400 images of three classes, of which the last is never named rightly."""
    rng = np.random.default_rng(5)
    label = rng.integers(0, 3, 400)
    answer = np.where(label == 2, 0, np.where(rng.random(400) < 0.8, label, 1 - label))
    teacher = np.where(rng.random(400) < 0.9, label, 0)
    answers = Answers(
        "d", ("cat", "dog", "emu"), np.arange(400), label, {CLASS: answer}, {CLASS: np.full(400, 0.9, np.float32)},
        {"conv": teacher},
    )  # fmt: skip
    share, theirs = float((answer == label).mean()), float((teacher == label).mean())
    result = RunResult(
        "pets", "f", 0, StudentFacts("cit_tiny", 6_000_000, {"conv": "conv"}),
        {"conv": TeacherFacts("resnet18", "conv", 11_000_000, theirs, 400)},
        DataFacts("pets", 900, 400, answers.classes),
        30, 900, 27_000, 125.0, {"accuracy/class": share, "accuracy/conv": 0.5, "teacher/conv": theirs}, None,
        Best(share, 28, "student"), per_class=answers.counts(),
        delivered={"accuracy/class": share, "accuracy/conv": 0.5, "ece/class": 0.1234},
    )  # fmt: skip
    return result, answers


def lines_of(result: RunResult, answers: Answers | None) -> dict[str, str]:
    said = verdict_of(result, FOLDER)
    assert said is not None
    return dict(run_summary(result, said, answers, FOLDER))


def test_five_lines_have_the_numbers_of_scipy_and_scikit_learn() -> None:
    result, answers = finished()
    right, theirs = answers.right(), answers.teachers["conv"] == answers.label
    found = lines_of(result, answers)
    assert list(found) == [DONE, GOOD, AGAINST, SURE, NEXT]
    assert found[DONE] == (
        "cit_tiny (6 M parameters) for 30 epochs on 900 images of pets with 3 classes, in 2 min 05 s, taught by conv "
        "(resnet18)."
    )
    f1 = 100 * f1_score(answers.label, answers.outputs[CLASS], average="macro")
    assert f"{right.sum()} of 400 validation images; mean F1 of the classes {f1:.1f} %" in found[GOOD]
    assert "never right: 1 of 3 classes ('emu'); confidence is 12.3 points off." in found[GOOD]
    most = 100 * np.bincount(answers.label).max() / 400
    assert found[AGAINST] == f"Teacher conv {100 * theirs.mean():.1f} %, commonest class always {most:.1f} %."
    interval = stats.binomtest(int(right.sum()), 400).proportion_ci(method="wilson")
    assert f"95 % interval {100 * interval.low:.1f} to {100 * interval.high:.1f} % (" in found[SURE]
    better, worse = int((theirs & ~right).sum()), int((right & ~theirs).sum())
    p = stats.binomtest(worse, better + worse).pvalue
    said = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    gap = f"{100 * (right.mean() - theirs.mean()):.1f}".replace("-", "−")
    assert f"to teacher conv, {gap} points, is more than chance ({said}, McNemar)" in found[SURE]
    assert found[NEXT].startswith("Below a teacher: train longer (`coadvise train runs/pets/recipe.yaml ")


def test_classes_without_images_and_images_that_cannot_be_read_do_not_count() -> None:
    result, answers = finished()
    more = {**result.per_class, "fox": ClassCounts(0, 0, 0)}
    assert "never right: 1 of 3 classes ('emu')" in lines_of(dataclasses.replace(result, per_class=more), answers)[GOOD]
    several = dataclasses.replace(
        result, several=SeveralFacts({"cat": 0.5}, 0.2), delivered={"map/class": 0.6}, skipped=Skipped(val=3)
    )
    assert lines_of(several, None)[GOOD] == "mAP 60.0 % on 397 validation images."


def test_baselines_are_named_and_what_is_not_known_is_left_out() -> None:
    result, _ = finished()
    probe = Probe("conv", "resnet18", 300, 400, 900, 224, 512, 1.0, 0.7, 11_000_000, 3.0)
    plain = LabelsAlone(200, 400, 10, 20, 0.1, 30, 100.0, "deit_tiny", 6_000_000)
    found = lines_of(dataclasses.replace(result, baselines=Baselines((probe,), labels=plain)), None)
    assert "the same student on labels alone 50.0 %, a linear probe on resnet18 (conv) 75.0 %." in found[AGAINST]
    assert "McNemar" not in found[SURE] and found[SURE].startswith("95 % interval")
    early = lines_of(dataclasses.replace(result, per_class={}, delivered={}, teachers={}), None)
    assert AGAINST not in early and "by its labels alone" in early[DONE] and "flatters" not in early[SURE]


@pytest.mark.parametrize("teachers", [{}, {"conv": TeacherFacts("resnet18", "conv", 1)}])
def test_of_several_classes_an_image_the_map_is_said(teachers: dict[str, TeacherFacts]) -> None:
    result, _ = finished()
    several = SeveralFacts({"cat": 0.5, "dog": 0.7, "emu": 0.6}, 0.2)
    measured = {"map/class": 0.6, "exact/class": 0.31, "f1_macro/class": 0.4}
    found = lines_of(
        dataclasses.replace(result, several=several, per_class={}, delivered=measured, teachers=teachers,
                            final={"map/class": 0.58, "teacher_map/conv": 0.8}), None)  # fmt: skip
    assert found[GOOD] == (
        "mAP 60.0 % on 400 validation images; mean F1 of the classes 40.0 %; every class of an image right 31.0 %."
    )
    assert found[AGAINST] == ("Teacher conv 80.0 %, chance 20.0 % (mAP)." if teachers else "Chance 20.0 % (mAP).")
    assert found[SURE].startswith("No interval is known of a mAP. One run")
