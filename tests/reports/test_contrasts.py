"""Contrasts over sets of teachers and seeds: their verdicts, by numbers whose answer is known."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from coadvise.names import AVERAGE
from coadvise.paper.ablations import LABELS_ONLY
from coadvise.paper.arms import Arm
from coadvise.paper.kinds import BOTH_KINDS, KINDS_EXPERIMENT, SEEDS, SETS, TWO_CONV, TWO_INV
from coadvise.reports.contrasts import Answered, answer, primary_sentence
from coadvise.reports.paper import write_paper_report
from coadvise.reports.results import About, Results
from coadvise.run.measurement import Measurement


def files(gains: dict[tuple[Arm, ...], float], seeds: int = SEEDS, spread: float = 0.002) -> dict[str, Measurement]:
    """Result files with a mean for each way of teaching, and noise of each run."""
    generator, found = np.random.default_rng(0), {}
    for arms, mean in gains.items():
        for one in arms:
            for seed in range(seeds):
                top1 = mean + spread * generator.normal()
                name = f"{one.id}.s{seed}"
                found[name] = Measurement.parse({
                    "format": 1, "arm": one.id, "scale": "cifar-long", "seed": seed, "id": f"{len(found):016x}",
                    "advisers": {}, "student": {"model": one.model, "parameters": 1000},
                    "data": {"source": "c", "train": 200, "val": 100, "classes": ["a", "b"]},
                    "epochs": 1, "steps": 4, "images_seen": 200, "seconds": 1.5, "detail": {}, "settings": {},
                    "measured": {"accuracy/class": top1, AVERAGE: top1, "loss/class": 1 - top1},
                    "provenance": {"command": "c", "commit": "0" * 40, "date": "2026-01-01T00:00:00+00:00"},
                }, Path(name))  # fmt: skip
    return found


def answered(gains: dict[tuple[Arm, ...], float], seeds: int = SEEDS, spread: float = 0.002) -> list[Answered]:
    return answer(KINDS_EXPERIMENT, Results(files(gains, seeds, spread)))


def test_each_run_of_a_teacher_is_used_equally_often() -> None:
    for arms, each in ((BOTH_KINDS, 1), (TWO_CONV, 2), (TWO_INV, 2)):
        used = [teacher for one in arms for teacher in one.teachers]
        assert {used.count(teacher) for teacher in used} == {each} and len(set(used)) == 2 * SETS // each
        assert all(len(set(one.teachers)) == 2 for one in arms)


def test_a_claim_holds_if_both_parts_do() -> None:
    answers = answered({BOTH_KINDS: 0.55, TWO_CONV: 0.53, TWO_INV: 0.54})
    primary = [one for one in answers if one.contrast.primary]
    assert [one.verdict for one in primary] == ["holds", "holds"]
    sentence = primary_sentence(answers)
    assert sentence is not None and sentence.startswith("A second kind pays here")
    (first, _) = primary
    assert first.test is not None and first.test.n == SETS * SEEDS and len(first.files) == 2 * SETS * SEEDS
    values = np.array(list(first.differences.values()))
    assert first.test.mean == pytest.approx(values.mean())
    assert stats.ttest_1samp(values, 0).pvalue < 0.05 and first.p is not None and first.p < 0.05


def test_one_part_alone_shows_nothing() -> None:
    answers = answered({BOTH_KINDS: 0.55, TWO_CONV: 0.53, TWO_INV: 0.55}, spread=0.001)
    primary = [one.verdict for one in answers if one.contrast.primary]
    assert primary[0] == "holds" and primary[1] == "no difference (within ±0.3)"
    sentence = primary_sentence(answers)
    assert sentence is not None and sentence.startswith("That a second kind pays is not shown here")


def test_nothing_is_decided_before_all_runs_are_there(tmp_path: Path) -> None:
    found = files({BOTH_KINDS: 0.6, TWO_CONV: 0.5}, seeds=SEEDS - 1)
    answers = answer(KINDS_EXPERIMENT, Results(found))
    verdicts = [one.verdict for one in answers if one.contrast.primary]
    assert verdicts == ["not yet: 15 of 18", "not yet: 0 of 18"]
    # Every difference that is there counts, also of a seed that other sets of teachers do not have yet.
    fewer = {name: run for name, run in found.items() if not (run.arm == BOTH_KINDS[1].id and run.seed == 0)}
    assert len(fewer) == len(found) - 1
    assert "not yet: 14 of 18" in [one.verdict for one in answer(KINDS_EXPERIMENT, Results(fewer))]
    write_paper_report(tmp_path, found, [KINDS_EXPERIMENT], About("cifar-long", "some images", seeds=SEEDS))
    text = (tmp_path / "report.md").read_text()
    assert "The primary question is not answered yet" in text.split("##")[0]
    assert f"the same command with --seeds {SEEDS} goes on" in text.split("##")[0]
    assert "95 % interval" not in text.split("##")[0] and "60.0" not in text.split("##")[0]
    assert "tested over runs of the teachers and seeds" in text and "with one seed nothing" not in text
    written = json.loads((tmp_path / "verdicts.json").read_text())
    assert [one["verdict"] for one in written if one["primary"]] == verdicts
    assert {(one["mean"], one["p"], one["p (within the margin)"]) for one in written} == {(None, None, None)}


def test_one_part_that_does_not_hold_is_an_answer_before_the_other_is_there() -> None:
    """Both are needed; where the one that is there holds, it is open."""
    part = lambda teachers, number: f"both kinds are better than two {teachers} teachers: {number}"
    sentence = primary_sentence(answered({BOTH_KINDS: 0.55, TWO_CONV: 0.55}))
    assert sentence is not None and sentence.startswith(
        f"That a second kind pays is not shown here, whatever the missing runs say: {part('convolution', '')}"
    )
    assert sentence.endswith(f"; {part('involution', '0 of 18')} differences are there.")
    sentence = primary_sentence(answered({BOTH_KINDS: 0.55, TWO_CONV: 0.53}))
    assert sentence is not None and sentence.startswith(
        f"The primary question is not answered yet ({part('convolution', '+1.9 points (+1.')}"
    )


@pytest.mark.parametrize(("conv", "answered"), [(0.55, True), (0.53, False)])
def test_the_top_of_the_page_has_the_answer_once_there_is_one(tmp_path: Path, conv: float, answered: bool) -> None:
    found = files({BOTH_KINDS: 0.55, TWO_CONV: conv})
    write_paper_report(tmp_path, found, [KINDS_EXPERIMENT], About("cifar-long", "some images", seeds=SEEDS))
    top = (tmp_path / "report.md").read_text().split("##")[0]
    assert ("**Against what**: That a second kind pays is not shown here, whatever the" in top) == answered
    assert ("**Against what**" in top) == answered and ("is not answered yet" in top) != answered
    assert f"The same command with --seeds {SEEDS} goes on." in top and "Top-1 of the student:" not in top


def test_what_comes_out_the_other_way_is_said_so_and_no_more() -> None:
    sentence = primary_sentence(answered({BOTH_KINDS: 0.54, TWO_CONV: 0.53, TWO_INV: 0.55}))
    assert sentence is not None and sentence.startswith("That a second kind pays is not shown here")
    assert sentence.endswith("a difference the other way.")


def test_the_top_of_the_page_compares_the_ways_and_not_the_best_of_them(tmp_path: Path) -> None:
    found = files({BOTH_KINDS: 0.55, TWO_CONV: 0.53, TWO_INV: 0.54, (LABELS_ONLY,): 0.5}, spread=0.0)
    write_paper_report(tmp_path, found, [KINDS_EXPERIMENT], About("cifar-long", "some images", seeds=SEEDS))
    top = (tmp_path / "report.md").read_text().split("##")[0]
    ways = (
        "55.0 % with both kinds (18 runs), 53.0 % with two convolution (18 runs), 54.0 % with two involution (18 runs)"
    )
    assert f"Top-1 of the student: {ways}." in top
    assert "both kinds are better than two convolution teachers: +2.0 points" in top and "chosen as the best" not in top


def test_both_tests_of_what_is_exploratory_are_corrected() -> None:
    answers = [one for one in answered({BOTH_KINDS: 0.55, TWO_CONV: 0.55, TWO_INV: 0.55}) if not one.contrast.primary]
    tested = [one for one in answers if one.test is not None]
    assert 0 < len(tested) < len(answers)
    for values, raw in (
        ([one.p for one in tested], [one.test.p for one in tested if one.test]),
        ([one.p_equal for one in tested], [one.test.p_within(one.contrast.margin) for one in tested if one.test]),
    ):
        least = min(one for one in raw if one is not None)
        assert min(one for one in values if one is not None) == pytest.approx(min(1.0, least * len(answers)))


def test_smaller_is_better_where_the_contrast_says_so() -> None:
    answers = answered({BOTH_KINDS: 0.55, TWO_CONV: 0.5, TWO_INV: 0.5})
    (nll,) = (one for one in answers if "NLL than two conv" in one.contrast.text)
    assert nll.test is not None and nll.test.mean == pytest.approx(0.05, abs=0.005) and nll.verdict == "holds"
    assert not nll.contrast.primary and nll.p is not None and nll.test.p is not None and nll.p > nll.test.p


def test_sets_correlate_where_runs_are_left_in_two_of_them() -> None:
    for contrast in KINDS_EXPERIMENT.contrasts:
        wanted = 0.5 if "labels alone" in contrast.text else 0.0
        assert contrast.correlation == pytest.approx(wanted), contrast.text


def test_gains_are_given_in_points_and_in_percent_of_the_errors(tmp_path: Path) -> None:
    found = files({BOTH_KINDS: 0.55, TWO_CONV: 0.53, TWO_INV: 0.54, (LABELS_ONLY,): 0.5}, spread=0.0)
    write_paper_report(tmp_path, found, [KINDS_EXPERIMENT], About("cifar-long", "some images", seeds=SEEDS))
    lines = [line for line in (tmp_path / "report.md").read_text().splitlines() if "| taught by " in line]
    cells = {tuple(cell.strip() for cell in line.split("|")[2:6]) for line in lines}
    assert len(lines) == 3 * SETS
    assert cells == {("50.0", "55.0", "+5.0", "10.0"), ("50.0", "53.0", "+3.0", "6.0"), ("50.0", "54.0", "+4.0", "8.0")}
