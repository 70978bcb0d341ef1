"""What is said of a run: against chance, teachers and probes, and what to do next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from coadvise.reports.run import _teachers_table
from coadvise.run.per_class import ClassCounts
from coadvise.run.result import (
    Baselines,
    Best,
    DataFacts,
    EarlyStop,
    Probe,
    RunResult,
    SeveralFacts,
    SeveralProbe,
    StudentFacts,
    TeacherFacts,
)  # fmt: skip
from coadvise.run.standing import standings, verdict_of


def result(
    student: float, teachers: dict[str, float] | None = None, probe: int | None = None, val: int = 175
) -> RunResult:
    teachers = teachers or {}
    probes = () if probe is None else (Probe("conv", "lite0", probe, val, 350, 224, 1280, 0.01, 0.98, 3_400_000, 40.0),)
    speeds = {"student": 120.0, "probe conv": 45.0}
    commonest = ClassCounts(35, 40, 20)
    return RunResult(
        name="pets", fingerprint="x", seed=0, student=StudentFacts("cit_tiny", 5_900_000),
        teachers={name: TeacherFacts(name, "conv", 1000) for name in teachers},
        data=DataFacts("photos", 350, val, ("cat", "dog")), epochs=100, steps=1000, images_seen=1, seconds=1,
        final={"accuracy/class": student, **{f"teacher/{name}": share for name, share in teachers.items()}}, ema=None,
        best=Best(student, 1, "student"), baselines=None if probe is None else Baselines(probes, speeds),
        per_class={"cat": commonest, "dog": ClassCounts(val - 35, val - 40, 0)} if val - 35 < 35 else
                  {"cat": commonest, **{f"c{i}": ClassCounts((val - 35) // 5, 0, 0) for i in range(5)}},
    )  # fmt: skip


def test_a_teacher_of_some_classes_is_not_right_on_the_others() -> None:
    """It is 95 % right on the 100 images that it was asked about; nobody would be right on 95 % of all with it."""
    found = result(0.8, {"conv": 0.95})
    some = replace(found, teachers={"conv": TeacherFacts("conv", "conv", 1000, 0.95, 100, asked=100)})
    student, teacher = standings(some)
    assert (teacher.right, teacher.samples) == (95, 175) and student.above(teacher)
    assert standings(found)[1].right == round(0.95 * 175)
    assert [row[4] for row in _teachers_table(some).rows] == ["95.0 of the 100 whose class it knows"]
    assert [row[4] for row in _teachers_table(found).rows] == ["95.0"]


def with_right(found: RunResult, classes: int) -> RunResult:
    """The same where one image of each of the first classes is named rightly."""
    known = {
        name: replace(one, right=int(index < classes)) for index, (name, one) in enumerate(found.per_class.items())
    }
    return replace(found, per_class=known)


def test_a_single_class_that_is_never_named() -> None:
    found = result(0.8)
    some = {name: replace(one, right=index) for index, (name, one) in enumerate(found.per_class.items())}
    said = verdict_of(replace(found, per_class=some), Path("run"))
    assert said is not None and "1 of 6 classes is never named rightly: 'cat'." in said.others


def test_a_student_behind_probe_and_teachers(tmp_path: Path) -> None:
    for place in ("baselines/conv", "teachers/conv"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "best.safetensors").touch()
    said = verdict_of(result(52 / 175, {"conv": 156 / 175, "inv": 70 / 175}, probe=172), tmp_path)
    assert said is not None
    assert said.headline == (
        "The student is right on 52 of 175 validation images (29.7 %) after 100 epochs: behind the linear probe on "
        "lite0 (conv) (98.3 %) and teacher conv (89.1 %)"
    )
    assert said.others == (
        "5 of 6 classes are never named rightly: 'c0', 'c1', 'c2', 'c3', 'c4'.",
        "Naming the commonest class always would be right on 35 (20.0 %).",
        "Teacher conv: 156 of 175 (89.1 %).",
        "Teacher inv: 70 of 175 (40.0 %).",
        "The linear probe on lite0 (conv): 172 of 175 (98.3 %).",
    )
    assert said.cost == (
        "Best is the linear probe on lite0 (conv): 45 images/s with 3.4 M parameters; the student: 120 images/s with "
        "5.9 M parameters."
    )
    probe, teacher = said.advice
    assert probe.startswith("behind a linear probe: use it (`coadvise predict IMAGE --model ")
    assert "baselines/conv" in probe and "student.pretrained=true" in probe
    assert "schedule.epochs=200" in teacher and "teachers/conv" in teacher


def test_a_probe_of_an_earlier_version_is_held_against_the_student_where_its_images_are_alike(tmp_path: Path) -> None:
    """It was asked about 5,000 images with their classes in balance: the same answers are another share of these."""
    found = with_right(result(0.951, probe=4615, val=20_000), 6)
    assert found.baselines is not None
    (probe,) = found.baselines.probes
    earlier = replace(found, baselines=replace(found.baselines, probes=(replace(probe, right=4985, samples=5000),)))
    said = verdict_of(earlier, tmp_path)
    assert said is not None and "behind" not in said.headline and said.advice[0].startswith("use it")
    assert said.cost is not None and said.cost.startswith("Best is the student")
    part = "4,985 of 5,000 (99.7 %), a part with its classes in balance, so not to be compared."
    assert f"The linear probe on lite0 (conv): {part}" in said.others
    even = {name: ClassCounts(4000, 4000, 3800) for name in "abcde"}
    said = verdict_of(replace(earlier, per_class=even), tmp_path)
    assert said is not None and "behind the linear probe" in said.headline and "not to be" not in " ".join(said.others)
    drawn = replace(result(0.951, probe=49_850, val=200_000), per_class=found.per_class)
    assert drawn.baselines is not None
    fewer = replace(drawn.baselines, probes=(replace(probe, right=49_850, samples=50_000),))
    said = verdict_of(replace(drawn, baselines=fewer), tmp_path)
    assert said is not None and "behind the linear probe" in said.headline
    assert "The linear probe on lite0 (conv): 49,850 of 50,000 (99.7 %), drawn at random." in said.others


def test_an_earlier_probe_of_several_classes_an_image_is_not_compared(tmp_path: Path) -> None:
    found, of = result(0.9, val=20_000), SeveralFacts({"cat": 0.7, "dog": 0.5}, 0.2)
    probe = SeveralProbe("conv", "lite0", 0.8, 5000, 350, 224, 1280, 0.01, 0.8, 3_400_000, 40.0)
    for samples, begin, end in (
        (5000, "use it", "mAP 80.0 % on 5,000 images, a part with its classes in balance, so not to be compared."),
        (20_000, "the mAP of the linear probe on lite0 (conv) is higher", "mAP 80.0 %."),
    ):
        baselines = Baselines(several=(replace(probe, samples=samples),))
        said = verdict_of(replace(found, several=of, delivered={"map/class": 0.6}, baselines=baselines), tmp_path)
        assert said is not None and said.advice[0].startswith(begin)
        assert said.others[-1] == f"The linear probe on lite0 (conv): {end}"


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"source": "run:old runs/a", "opens": "old runs/a"}, "use it (`coadvise predict IMAGE --model 'old runs/a'`)"),
        ({"source": "transformers:some/vit"}, "use it as it is (transformers:some/vit)"),
        ({}, "train longer"),
    ],
)
def test_a_better_teacher_that_was_given_is_named(tmp_path: Path, where: dict[str, str], said: str) -> None:
    found = result(90 / 175, {"conv": 156 / 175})
    teacher = replace(found.teachers["conv"], **where)
    verdict = verdict_of(replace(found, teachers={"conv": teacher}), tmp_path)
    assert verdict is not None
    (advice,) = verdict.advice
    assert advice.startswith(f"below a teacher: {said}")


def test_a_student_at_chance_is_told_so(tmp_path: Path) -> None:
    said = verdict_of(result(36 / 175), tmp_path)
    assert said is not None and "not clearly better than guessing" in said.headline
    assert said.advice[0].startswith("near guessing: train longer")
    worse = verdict_of(result(35 / 175), tmp_path)
    assert worse is not None and "no better than guessing" in worse.headline


def test_a_student_that_knows_few_classes_is_not_told_to_be_used(tmp_path: Path) -> None:
    """Better than guessing, and better than its teachers: still it has never named most of the classes."""
    found = result(0.4, {"conv": 0.3})
    for classes, begin in ((2, "most classes are never named rightly: train longer"), (3, "use it")):
        said = verdict_of(with_right(found, classes), tmp_path)
        assert said is not None and len(said.advice) == 1 and said.advice[0].startswith(begin)


def test_a_run_that_stopped_early_is_told_to_be_patient() -> None:
    """It would stop there again, with however many epochs."""
    chance = replace(result(0.1), epochs=2, stopped_early=EarlyStop(4, 1))
    found = verdict_of(chance, Path("run"))
    assert found is not None
    (said, *_) = found.advice
    assert "schedule.patience=2" in said and "schedule.epochs" not in said
    assert EarlyStop(4, 1).in_vain == "1 evaluation was" and EarlyStop(4, 3).in_vain == "3 evaluations in a row were"


def test_a_teacher_that_this_run_did_not_train_has_no_folder_to_use(tmp_path: Path) -> None:
    said = verdict_of(result(0.5, {"conv": 0.9}), tmp_path)
    assert said is not None and len(said.advice) == 1 and "--model" not in said.advice[0]


def test_commands_can_be_copied_whatever_the_folder_is_called() -> None:
    for share in (0.1, 0.9):
        said = verdict_of(with_right(result(share), 6), Path("my runs/pets"))
        assert said is not None and "coadvise report 'my runs/pets'`" in said.advice[0]
    assert said is not None and "--model 'my runs/pets'`" in said.advice[0]


@pytest.mark.parametrize(("student", "teacher"), [(0.90, 0.91), (0.95, 0.9)])
def test_a_difference_that_may_be_chance_is_no_defeat(tmp_path: Path, student: float, teacher: float) -> None:
    said = verdict_of(with_right(result(student, {"conv": teacher}), 6), tmp_path)
    assert said is not None and "behind" not in said.headline and said.advice[0].startswith("use it")


def test_results_without_accuracy_say_nothing(tmp_path: Path) -> None:
    assert verdict_of(result(float("nan")), tmp_path) is None and standings(result(float("nan"))) == []
