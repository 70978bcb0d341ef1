"""Results of each class, and what is kept of single images, against scikit-learn and SciPy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

from coadvise.errors import RunError
from coadvise.run.answers import Answers
from coadvise.run.per_class import ClassCounts, chance, class_counts, confusion, macro_f1

NAMES = ("cat", "dog", "emu", "fox")


def drawn(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.choice(4, n, p=(0.5, 0.3, 0.15, 0.05))
    return label, np.where(rng.random(n) < 0.7, label, rng.choice(3, n))


def test_counts_are_scikit_learns() -> None:
    label, answer = drawn()
    counts = class_counts(label, answer, NAMES)
    precision, recall, f1, support = precision_recall_fscore_support(label, answer, labels=range(4), zero_division=0)
    for i, name in enumerate(NAMES):
        one = counts[name]
        assert (one.recall, one.precision or 0.0, one.f1) == pytest.approx((recall[i], precision[i], f1[i]))
        assert one.support == support[i]
    assert macro_f1(counts) == pytest.approx(f1_score(label, answer, average="macro"))
    assert confusion(label, answer, 4).tolist() == confusion_matrix(label, answer, labels=range(4)).tolist()
    assert chance(counts) == np.bincount(label).max()


def test_a_class_without_images_or_answers_has_no_share() -> None:
    counts = class_counts(np.array([0, 0, 1]), np.array([0, 1, 1]), ("a", "b", "never"))
    assert counts["never"] == ClassCounts(0, 0, 0)
    assert counts["never"].recall is counts["never"].precision is counts["never"].f1 is None
    assert counts["never"].recall_interval == counts["never"].f1_interval == (0, 1)
    assert macro_f1(counts) == pytest.approx(2 / 3) and macro_f1({}) == 0


def test_intervals_are_scipys() -> None:
    label, answer = drawn()
    for one in class_counts(label, answer, NAMES).values():
        for found, right, of in (
            (one.recall_interval, one.right, one.support), (one.precision_interval, one.right, one.answered)
        ):  # fmt: skip
            if of:
                expected = stats.binomtest(right, of).proportion_ci(0.95, "wilson")
                assert found == pytest.approx((expected.low, expected.high))


def test_the_interval_of_f1_holds_its_value_as_often_as_it_says() -> None:
    """Over 500 drawn sets of 200 images, whose F1 in the long run is computed from 300,000."""
    truth = class_counts(*drawn(300_000, 1), NAMES)
    held = dict.fromkeys(NAMES[:3], 0)
    for seed in range(500):
        counts = class_counts(*drawn(200, 2 + seed), NAMES)
        for name in held:
            low, high = counts[name].f1_interval
            held[name] += low <= truth[name].f1 <= high
    assert all(0.92 < n / 500 < 0.99 for n in held.values()), held


def answers() -> Answers:
    label, answer = drawn(50)
    rng = np.random.default_rng(9)
    return Answers(
        "abc", ("cat", "dog", "emu", "fo\udce9x"), np.arange(50) * 2, label, {"class": answer, "conv": label},
        {"class": rng.random(50).astype(np.float32), "conv": np.ones(50, np.float32)}, {"conv": answer},
    )  # fmt: skip


def test_answers_come_back_from_their_file(tmp_path: Path) -> None:
    one = answers()
    one.write(tmp_path / "answers.safetensors")
    again = Answers.read(tmp_path / "answers.safetensors")
    assert (again.data, again.classes) == (one.data, one.classes)
    for name in ("index", "label"):
        assert getattr(again, name).tolist() == getattr(one, name).tolist()
    for part in ("outputs", "confidence", "teachers"):
        assert {k: v.tolist() for k, v in getattr(again, part).items()} == {
            k: v.tolist() for k, v in getattr(one, part).items()
        }
    assert again.right().tolist() == (one.outputs["class"] == one.label).tolist()


def test_damaged_answers_are_told_in_one_message(tmp_path: Path) -> None:
    path = tmp_path / "answers.safetensors"
    with pytest.raises(RunError, match="is missing; it is written at the end"):
        Answers.read(path)
    answers().write(path)
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    del header["__metadata__"]["facts"]
    text = json.dumps(header).encode().ljust(size)
    wrong = [whole[:100], whole[:8] + text + whole[8 + size :], b""]
    for content in wrong:
        path.write_bytes(content)
        with pytest.raises(RunError, match="cannot be read as answers"):
            Answers.read(path)
    one = answers()
    Answers(one.data, ("cat",), one.index, one.label, one.outputs, one.confidence).write(path)
    with pytest.raises(RunError, match="a class that is none of 1"):
        Answers.read(path)
