"""Answers on images of any number of classes; oracles are scikit-learn and a loop that follows the definition."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from coadvise.errors import RunError
from coadvise.reports.several import several_section
from coadvise.run import several
from coadvise.run.answers import Answers
from coadvise.run.result import Best, DataFacts, RunResult, SeveralFacts, StudentFacts
from coadvise.run.several import SeveralAnswers, average_precisions
from coadvise.run.standing import verdict_of


def answers(n: int = 40, k: int = 6) -> SeveralAnswers:
    rng = np.random.default_rng(0)
    truth = rng.random((n, k)) < [0.5, 0.2, 0.05, 0.9, 0.3, 0.0]
    truth[:, 5] = False
    logits = {name: (rng.normal(size=(n, k)).round(1) + truth).astype(np.float32) for name in ("class", "conv")}
    teacher = (rng.normal(size=(n, k)) + 2 * truth).astype(np.float32)
    teacher[:, 1] = -np.inf
    names = tuple(f"c{i}" for i in range(k))
    return SeveralAnswers("d", names, np.arange(n), truth, logits, {"t": teacher})


def by_definition(truth: np.ndarray, score: np.ndarray) -> float:
    """Σ (Rₙ − Rₙ₋₁) Pₙ over the thresholds that the scores make."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(score.tolist()), reverse=True):
        yes = score >= threshold
        recall, precision = (yes & truth).sum() / truth.sum(), (yes & truth).sum() / yes.sum()
        total, before = total + (recall - before) * precision, recall
    return total


def test_average_precision_with_equal_scores() -> None:
    one = answers()
    found = average_precisions(one.truth, one.outputs["class"])
    assert np.isnan(found[5])
    for i in range(5):
        truth, score = one.truth[:, i], one.outputs["class"][:, i]
        assert found[i] == pytest.approx(average_precision_score(truth, score), abs=1e-12)
        assert found[i] == pytest.approx(by_definition(truth, score), abs=1e-12)
    assert average_precisions(np.zeros((0, 2), dtype=bool), np.zeros((0, 2))).shape == (2,)


def test_a_student_that_answers_with_all_heads_is_judged_by_them(tmp_path: Path) -> None:
    one, file = answers(), tmp_path / "answers.safetensors"
    z = np.mean([one.outputs["class"], one.outputs["conv"]], axis=0)
    replace(one, outputs={**one.outputs, "average": z}, answering="average").write(file)
    again = SeveralAnswers.read(file)
    expected = {f"c{i}": average_precision_score(one.truth[:, i], z[:, i]) for i in range(5)}
    assert again.answering == "average" and again.average_precision() == pytest.approx(expected)
    assert [c.right for c in again.counts().values()] == (one.truth & (z > 0)).sum(axis=0).tolist()
    measured = again.metrics()
    assert measured["map/class"] != pytest.approx(measured["map/average"], abs=1e-3)
    result = RunResult(
        "r", "f", 0, StudentFacts("cit_tiny", 1), {}, DataFacts("d", 9, 40, one.classes), 1, 1, 9, 1.0, measured, None,
        Best(measured["map/average"], 1, "student"), several=SeveralFacts(again.average_precision(), again.chance),
        delivered=measured, answering="average",
    )  # fmt: skip
    said = verdict_of(result, tmp_path)
    share = (again.outputs["average"] > 0) == one.truth
    assert said is not None and said.headline.startswith(
        f"The student's mAP is {100 * np.mean([*expected.values()]):.1f} %"
    )
    assert f"({100 * share.all(axis=1).mean():.1f} %)" in said.others[-1]
    replace(one, answering="average").write(file)
    with pytest.raises(RunError, match="no answers of 'average'"):
        SeveralAnswers.read(file)


def test_many_classes_are_ranked_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    one = answers()
    whole = average_precisions(one.truth, one.outputs["class"])
    seen = []
    part = several._average_precisions
    monkeypatch.setattr(several, "AT_ONCE", 2 * 40 + 1)
    monkeypatch.setattr(several, "_average_precisions", lambda *given: seen.append(given[0].shape) or part(*given))
    np.testing.assert_array_equal(average_precisions(one.truth, one.outputs["class"]), whole)
    assert seen == [(40, 2)] * 3


def test_metrics_are_scikit_learns() -> None:
    one = answers()
    found, yes = one.metrics(), one.outputs["class"] > 0
    seen = one.truth.any(axis=0) | yes.any(axis=0)
    there = one.truth.any(axis=0)
    expected = average_precision_score(one.truth[:, there], one.outputs["class"][:, there], average="macro")
    assert found["map/class"] == pytest.approx(expected)
    assert found["f1_micro/class"] == pytest.approx(f1_score(one.truth, yes, average="micro"))
    assert found["f1_macro/class"] == pytest.approx(f1_score(one.truth[:, seen], yes[:, seen], average="macro"))
    assert found["exact/class"] == pytest.approx((yes == one.truth).all(axis=1).mean())
    known = [0, 2, 3, 4]  # the teacher masks class 1, and no image has class 5
    expected = np.mean([average_precision_score(one.truth[:, i], one.teachers["t"][:, i]) for i in known])
    assert found["teacher_map/t"] == pytest.approx(expected)
    assert one.chance == pytest.approx(one.truth[:, there].mean())
    assert set(one.average_precision()) == {f"c{i}" for i in range(5)}


def test_the_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    one, file = answers(), tmp_path / "answers.safetensors"
    one.write(file)
    again = SeveralAnswers.read(file)
    assert again.metrics() == pytest.approx(one.metrics(), abs=1e-6)
    np.testing.assert_array_equal(again.truth, one.truth)
    with pytest.raises(RunError, match="cannot be read as answers"):
        Answers.read(file)
    with pytest.raises(RunError, match=r"answers.safetensors is missing"):
        SeveralAnswers.read(tmp_path / "other" / "answers.safetensors")


def test_the_report_says_which_classes_its_figure_leaves_out() -> None:
    """Not that it shows thirty of six, where one has no image."""
    words = "The figure shows the 30 classes with the lowest average precision."
    assert words not in str(several_section(answers()).parts)
    assert words in str(several_section(many_classes()).parts)


def many_classes() -> SeveralAnswers:
    one = answers()
    names = tuple(f"c{i}" for i in range(48))
    outputs = {"class": np.tile(one.outputs["class"], 8)}
    return SeveralAnswers("d", names, one.index, np.tile(one.truth, 8), outputs, {})
