"""The report of the paper's experiments against numbers that are known."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from coadvise.paper.ablations import CROSS, LABELS_ONLY, ONE_CONV, SAME_TWICE, SINGLE, TOP1_COLUMN
from coadvise.paper.arms import Arm, arm
from coadvise.paper.beyond import CONTROLS, FRESH, HEADS, LONGER, MEAN_OF_BOTH, SWEEP, UNTRAINED
from coadvise.paper.declared import Claim, Column, Condition, Experiment, Help, Near, Row, Value
from coadvise.paper.imagenet import CIT_S, DEIT_S, DEIT_S_KD, EXPERIMENTS
from coadvise.reports.claims import NO_MEANING, NOT_MEASURED, judge
from coadvise.reports.experiment import experiment_table, help_table
from coadvise.reports.headline import headline
from coadvise.reports.paper import write_paper_report
from coadvise.reports.pictures import pictures_of
from coadvise.reports.results import About, Results
from coadvise.reports.summary import experiments_summary
from coadvise.reports.verdicts import claims_table
from coadvise.run.measurement import MEASURED_ON, Measurement

SCALE = About("digits", "some digits", seeds=5)
ALL = list(EXPERIMENTS.values())


def result(one: Arm, seed: int, **measured: float) -> dict[str, Any]:
    return {
        "format": 1, "arm": one.id, "scale": "digits", "seed": seed, "id": f"{seed:016x}", "advisers": {},
        "student": {"model": one.model, "parameters": 1000},
        "data": {"source": "digits", "train": 200, "val": 100, "classes": ["a", "b"]},
        "epochs": 1, "steps": 4, "images_seen": 200, "seconds": 1.5, "measured": measured, "detail": {}, "settings": {},
        "provenance": {"command": "coadvise reproduce all", "commit": "0" * 40, "date": "2026-01-01T00:00:00+00:00"},
    }  # fmt: skip


def files(values: dict[Arm, list[float]]) -> dict[str, dict[str, Any]]:
    return {
        f"{one.id}.s{seed}": result(one, seed, **{"accuracy/class": value})
        for one, row in values.items()
        for seed, value in enumerate(row)
    }


def typed(content: dict[str, dict[str, Any]]) -> dict[str, Measurement]:
    """As the files are read."""
    return {name: Measurement.parse(one, Path(name)) for name, one in content.items()}


def known(content: dict[str, dict[str, Any]]) -> Results:
    return Results(typed(content))


def experiment(*claims: Claim) -> Experiment:
    return Experiment("table6", "t", "d", ("Model",), (), [Row(("x",))], claims)


def claim(better: Arm, worse: Arm, **settings: Any) -> Claim:
    return Claim("better", "here", (Value(better),), (Value(worse),), **settings)


def test_a_sweep_is_no_claim_of_the_paper(tmp_path: Path) -> None:
    """It has its own section, its figure and its tests, but neither columns of the paper nor a say in the headline."""
    arms = {key: value.arm for key, value in SWEEP.rows[0].ours.items()}
    series = {"none": [0.4, 0.41], "one": [0.5, 0.52], "both": [0.55, 0.56], "single": [0.5, 0.53]}
    found = files({arms[key]: values for key, values in series.items()})
    write_paper_report(tmp_path, typed(found), [SWEEP], SCALE)
    text = (tmp_path / "report.md").read_text()
    assert "8 runs finished" in text and "paper:" not in text and "of the paper" not in text.split("##")[0]
    assert "## Sweep: " in text
    row = next(line for line in text.splitlines() if line.startswith("| nothing "))
    assert [cell.strip() for cell in row.split("|")[2:-1]] == [
        "40.5 ± 0.7", "51.0 ± 1.4", "55.5 ± 0.7", "51.5 ± 2.1", "2"
    ]  # fmt: skip
    alone = next(line for line in text.splitlines() if line.startswith("| λ × 3 "))
    assert alone.split("|")[-2].strip() == "2"
    assert (tmp_path / "figures" / "sweep.png").is_file()
    verdicts = json.loads((tmp_path / "verdicts.json").read_text())
    assert len(verdicts) == 2 * len(SWEEP.rows) - 2 + 1, "the row without a change is tested elsewhere"
    assert (tmp_path / "tables" / "sweep.tex").read_text().isascii()


@pytest.mark.parametrize(("one", "title"), [(LONGER, "twice the epochs"), (FRESH, "views that never recur")])
def test_the_seven_arms_under_a_change_have_a_figure(tmp_path: Path, one: Experiment, title: str) -> None:
    found = files({row.ours["top1"].arm: [0.5, 0.52] for row in one.rows})
    write_paper_report(tmp_path, typed(found), [one], SCALE)
    text = (tmp_path / "report.md").read_text()
    name = one.name
    assert f"## {name.capitalize()}: The seven arms with {title}" in text and f"figures/{name}.png" in text
    assert not (tmp_path / "figures" / f"{name}-arms.png").exists()


def test_controls_are_named_in_words(tmp_path: Path) -> None:
    """The head of the mean has a column."""
    content = files({CROSS: [0.9], MEAN_OF_BOTH: [0.8], UNTRAINED: [0.1]})
    for name, one in content.items():
        token = "mean" if name.startswith(f"{MEAN_OF_BOTH.id}.") else "resnet18"
        one["measured"] |= {"kappa/resnet18|class": 0.5, "cka/resnet18|class": 0.5, f"accuracy/{token}": 0.25}
    text = write_paper_report(tmp_path, typed(content), [CONTROLS], SCALE).with_suffix(".md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| the mean of both kinds, on one token "))
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["80.0", "25.0"]
    assert "| Transformer-Ti ← ResNet-18 + RedNet-26, mean of the advice " in text
    assert "ResNet-18 random weights" in text and (tmp_path / "figures/controls.png").is_file()
    heads = {name: one for name, one in content.items() if one["arm"] == CROSS.id}
    text = write_paper_report(tmp_path, typed(heads), [HEADS], SCALE).with_suffix(".md").read_text()
    assert "The arms that carry" in text and "random weights" not in text


def test_the_heads_are_drawn_as_they_answer_together(tmp_path: Path) -> None:
    found = files({row.ours["top1"].arm: [0.5, 0.52] for row in HEADS.rows})
    for content in found.values():
        if content["arm"] == CROSS.id:
            content["measured"] |= {"accuracy/resnet18": 0.4, "accuracy/rednet26": 0.3, "accuracy/average": 0.6}
    write_paper_report(tmp_path, typed(found), [HEADS], SCALE)
    text = (tmp_path / "report.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| both kinds, a token each "))
    assert [cell.strip().split(" ")[0] for cell in row.split("|")[2:6]] == ["51.0", "40.0", "30.0", "60.0"]
    assert "both kinds, a token each 60.0 ± 0.0 %" in text and "single token 51.0 ± 1.4 %" in text
    assert (tmp_path / "figures" / "heads.png").is_file()


def test_verdicts_against_scipy_and_holm_by_hand() -> None:
    a, b, c = [0.90, 0.92, 0.91, 0.93], [0.85, 0.88, 0.85, 0.89], [0.905, 0.915, 0.912, 0.928]
    results = known(files({CROSS: a, LABELS_ONLY: b, ONE_CONV: c}))
    first, second, third = judge(
        experiment(claim(CROSS, LABELS_ONLY), claim(CROSS, ONE_CONV), claim(LABELS_ONLY, CROSS)), results
    )
    p = [float(stats.ttest_rel(x, y).pvalue) for x, y in ((a, b), (a, c), (b, a))]
    assert first.p == pytest.approx(min(3 * p[0], 1)) and third.p == pytest.approx(max(3 * p[0], 2 * p[2]))
    assert second.p == pytest.approx(max(p[1], third.p))
    assert (first.verdict, third.verdict) == ("holds", "does not hold")
    assert second.verdict == "undecided at n = 4"
    assert first.differences == pytest.approx({0: 0.05, 1: 0.04, 2: 0.06, 3: 0.04})
    assert first.files == sorted(f"{one.id}.s{s}.json" for one in (CROSS, LABELS_ONLY) for s in range(4))


def test_what_a_claim_could_have_found_stands_beside_it() -> None:
    a, b, c = [0.90, 0.92, 0.91, 0.93], [0.85, 0.88, 0.85, 0.89], [0.905, 0.915, 0.912, 0.928]
    equal = replace(claim(CROSS, ONE_CONV), says=Near(0.015))
    asked = experiment(claim(CROSS, LABELS_ONLY), claim(CROSS, ONE_CONV), equal)
    found = judge(asked, known(files({CROSS: a, LABELS_ONLY: b, ONE_CONV: c})))
    se = [stats.sem(np.subtract(a, b)), stats.sem(np.subtract(a, c)), stats.sem(np.subtract(a, c))]
    for one, error, of in zip(found[:2], se[:2], (2, 2), strict=True):
        for shift, alpha in ((one.reach.alone, 0.05), (one.reach.corrected, 0.05 / of)):
            power = stats.nct.sf(stats.t.isf(alpha / 2, 3), 3, shift / error)
            assert power == pytest.approx(0.8, abs=1e-3)
    assert found[2].reach.alone == found[2].reach.corrected, "a family of its own"
    assert found[2].reach.alone > stats.t.isf(0.025, 3) * se[2], "no equality is shown within the interval's half"
    (row, _, last) = claims_table(found).rows
    alone, corrected = (f"{100 * value:.1f}" for value in (found[0].reach.alone, found[0].reach.corrected))
    assert row[8] == f"≥ {corrected} ({alone})" and str(last[8]).startswith("within ±")
    single = judge(asked, known(files({CROSS: [0.9], LABELS_ONLY: [0.8]})))
    assert single[0].reach is None and claims_table(single).rows[0][8] == "–"


def test_only_common_seeds_count_and_fixed_seeds_stand_for_all() -> None:
    content = files({CROSS: [0.9, 0.8, 0.7], LABELS_ONLY: [0.5, 0.6], arm("resnet18"): [0.95]})
    fixed = Claim("x", "y", (Value(arm("resnet18"), seed=0),), (Value(CROSS),))
    both, one = judge(experiment(claim(CROSS, LABELS_ONLY), fixed), known(content))
    assert both.differences == pytest.approx({0: 0.4, 1: 0.2})
    assert one.differences == pytest.approx({0: 0.05, 1: 0.15, 2: 0.25})


def test_differences_of_differences() -> None:
    content = files({CROSS: [0.9, 0.91], LABELS_ONLY: [0.8, 0.82], ONE_CONV: [0.7, 0.7], SAME_TWICE: [0.65, 0.6]})
    gain = Claim("x", "y", (Value(CROSS), Value(SAME_TWICE)), (Value(LABELS_ONLY), Value(ONE_CONV)))
    (found,) = judge(experiment(gain), known(content))
    assert found.differences == pytest.approx({0: 0.05, 1: -0.01})


def test_what_cannot_be_tested_says_why() -> None:
    content = files({CROSS: [0.9], LABELS_ONLY: [0.8]})
    shifted = Claim("x", "y", (Value(CROSS, "a/class"),), (Value(LABELS_ONLY, "a/class"),))
    absent, nowhere, single = judge(
        experiment(claim(CROSS, ONE_CONV), shifted, claim(CROSS, LABELS_ONLY)), known(content)
    )
    assert (absent.verdict, nowhere.verdict) == (NOT_MEASURED, NOT_MEASURED)
    assert "Transformer-Ti ← ResNet-18" in absent.reason and "--shifted a=FOLDER" in nowhere.reason
    assert single.verdict == "undecided (one seed)"
    broken = files({CROSS: [float("nan")], LABELS_ONLY: [0.8]})
    assert judge(experiment(claim(CROSS, LABELS_ONLY)), known(broken))[0].verdict == NOT_MEASURED


def test_exact_claims_need_no_test() -> None:
    content = {
        "a.s0": result(CROSS, 0, throughput=10.0),
        "b.s0": result(LABELS_ONLY, 0, throughput=7.0),
    }
    more = Claim("x", "y", (Value(CROSS, "throughput"),), (Value(LABELS_ONLY, "throughput"),), unit="images/s")
    less = Claim("x", "y", (Value(LABELS_ONLY, "throughput"),), (Value(CROSS, "throughput"),), unit="images/s")
    assert {one.verdict for one in judge(experiment(more, less), known(content))} == {NOT_MEASURED}
    own = {name: {**one, "scale": "imagenet"} for name, one in content.items()}
    assert [one.verdict for one in judge(experiment(more, less), known(own))] == ["holds", "does not hold"]


def test_of_speeds_the_best_run_counts(tmp_path: Path) -> None:
    """Other work on the machine makes a run slower, never faster."""
    times = {CROSS: [3.0, 9.0, 2.5], LABELS_ONLY: [4.0, 2.7, 8.0]}
    content = {
        f"{one.id}.s{seed}": {**result(one, seed, training_ms=ms, throughput=1000 / ms), "scale": "imagenet"}
        for one, row in times.items()
        for seed, ms in enumerate(row)
    }
    slower, faster = (
        Claim("x", "y", (Value(a, metric),), (Value(b, metric),), unit=unit)
        for a, b, metric, unit in (
            (LABELS_ONLY, CROSS, "training_ms", "ms"),
            (CROSS, LABELS_ONLY, "throughput", "images/s"),
        )
    )
    first, second = judge(experiment(slower, faster), known(content))
    assert first.differences == pytest.approx({0: 0.2}) and second.differences == pytest.approx({0: 400 - 1000 / 2.7})
    assert first.verdict == second.verdict == "holds" and len(first.files) == 6
    columns = (Column("ms", "Training (ms an image)", "ms"), Column("speed", "Images/s", "images/s"))
    row = Row(("m",), {}, {"ms": Value(CROSS, "training_ms"), "speed": Value(CROSS, "throughput")})
    table = experiment_table(Experiment("table2", "t", "d", ("Model",), columns, [row]), known(content))
    assert table.rows[0] == ["m", "–", "2.5", "–", "400", "3"]


def test_help_is_shown_in_points_and_as_a_part_of_the_errors() -> None:
    """From 40 to 46 % a tenth of the errors is gone, from 80 to 84 % a fifth; only seeds of both arms count."""
    content = files({LABELS_ONLY: [0.35, 0.45, 0.9], CROSS: [0.42, 0.50], ONE_CONV: [0.8], SINGLE: [0.84]})
    students = [
        Help("low", Value(LABELS_ONLY), Value(CROSS)),
        Help("high", Value(ONE_CONV), Value(SINGLE)),
        Help("not run", Value(ONE_CONV), Value(SAME_TWICE)),
    ]
    assert help_table(students, known(content)).rows == [
        ["low", "40.0", "46.0", "+6.0", "10.0", "2"],
        ["high", "80.0", "84.0", "+4.0", "20.0", "1"],
        ["not run", "–", "–", "–", "–", "0"],
    ]


def test_about_equal_is_tested_against_a_margin() -> None:
    a, b = [0.902, 0.899, 0.903, 0.9], [0.9, 0.9, 0.901, 0.9]
    near = Claim("x", "y", (Value(CROSS),), (Value(LABELS_ONLY),), says=Near(0.015))
    (found,) = judge(experiment(near), known(files({CROSS: a, LABELS_ONLY: b})))
    apart = np.subtract(a, b)
    one_sided = [
        stats.ttest_1samp(apart, -0.015, alternative="greater"),
        stats.ttest_1samp(apart, 0.015, alternative="less"),
    ]
    assert found.verdict == "holds" and found.p == pytest.approx(2 * max(float(one.pvalue) for one in one_sided))
    assert found.test is not None and found.test.mean == pytest.approx(apart.mean())
    assert "by less than 1.5 points" in found.reason
    low, high = found.test.low or 0.0, found.test.high or 0.0
    assert -0.015 < low < high < 0.015, "as a reader will check it"
    for far, word in (([0.85, 0.851, 0.849, 0.85], "does not hold"), ([0.8, 0.9, 0.95, 0.85], "undecided at n = 4")):
        for pair in ({CROSS: a, LABELS_ONLY: far}, {CROSS: far, LABELS_ONLY: a}):
            assert judge(experiment(near), known(files(pair)))[0].verdict == word


def test_claims_of_equality_do_not_make_the_others_less_certain() -> None:
    content = known(files({CROSS: [0.9, 0.8, 0.85], LABELS_ONLY: [0.5, 0.6, 0.45], ONE_CONV: [0.89, 0.8, 0.84]}))
    near = Claim("x", "y", (Value(CROSS),), (Value(ONE_CONV),), says=Near(0.015))
    (better,), (equal,) = judge(experiment(claim(CROSS, LABELS_ONLY)), content), judge(experiment(near), content)
    both = judge(experiment(near, claim(CROSS, LABELS_ONLY)), content)
    assert [one.p for one in both] == [equal.p, better.p]
    assert judge(experiment(near, near), content)[0].p == pytest.approx(2 * (equal.p or 0))


def test_students_of_better_teachers_say_nothing_where_teachers_do_not_help_or_get_no_better() -> None:
    claim = next(one for one in EXPERIMENTS["figure4"].claims if one.text.startswith("RegNetY-600MF"))
    weak, strong = arm("regnety_002"), arm("regnety_006")
    students = {arm("transformer_tiny", one.model): [0.9, 0.91 + i / 500] for i, one in enumerate((weak, strong))}
    cases = (
        (0.85, 0.95, 0.88, "holds", "one run of each teacher"),
        (0.85, 0.89, 0.88, NO_MEANING, "better by more than 1.5 points; here they have 89.0 and 88.0 %"),
        (0.89, 0.95, 0.88, NO_MEANING, "good enough to help; here they have 88.0 and 89.0 %"),
    )
    for labels, better, worse, word, reason in cases:
        teachers = {LABELS_ONLY: [labels], strong: [better], weak: [worse]}
        (found,) = judge(experiment(claim), known(files(teachers | students)))
        assert found.verdict == word and reason in found.reason
        assert {f"{weak.id}.s0.json", f"{strong.id}.s0.json", f"{LABELS_ONLY.id}.s0.json"} < set(found.files)
    (found,) = judge(experiment(claim), known(files({LABELS_ONLY: [0.8], strong: [0.95], **students})))
    assert found.verdict == NOT_MEASURED and "no finished run of RegNetY-200MF" in found.reason


def test_students_of_two_kinds_may_differ_either_way() -> None:
    claim = next(one for one in EXPERIMENTS["figure4"].claims if one.text.startswith("ResNet-50 and RedNet-50"))
    conv, inv = arm("transformer_tiny", "resnet50"), arm("transformer_tiny", "rednet50")
    high, low = [0.92, 0.925, 0.921], [0.9, 0.903, 0.9]
    for first, second in ((high, low), (low, high)):
        content = files({conv: first, inv: second, arm("resnet50"): [0.95], arm("rednet50"): [0.94]})
        assert judge(experiment(claim), known(content))[0].verdict == "holds"
    far = files({conv: high, inv: low, arm("resnet50"): [0.97], arm("rednet50"): [0.94]})
    assert judge(experiment(claim), known(far))[0].verdict == NO_MEANING


def test_almost_nothing_is_nothing_more_than_a_margin() -> None:
    """A teacher that harms adds nothing, too."""
    claim = next(one for one in EXPERIMENTS["table7"].claims if "convolution teacher alone adds" in one.text)
    single = arm("transformer_tiny", "resnet18", tokens="single")
    for taught, word in (([0.84, 0.86, 0.85], "holds"), ([0.93, 0.94, 0.932], "does not hold")):
        (found,) = judge(experiment(claim), known(files({single: taught, LABELS_ONLY: [0.9, 0.91, 0.905]})))
        assert found.verdict == word and found.reason == "by less than 1.5 points"


def test_students_are_compared_with_teachers_of_the_same_images() -> None:
    claim = next(one for one in EXPERIMENTS["table3"].claims if "its involution teacher" in one.text)
    content = files({CIT_S: [0.9, 0.91, 0.9], arm("rednet101"): [0.8, 0.82, 0.8]})
    assert judge(experiment(claim), known(content))[0].verdict == "holds"
    for one in content.values():
        one["settings"] = {"data.image_size": 8 if one["arm"] == CIT_S.id else 16}
    (found,) = judge(experiment(claim), known(content))
    assert found.verdict == NO_MEANING and "they see 8 and 16 pixels" in found.reason


def test_speeds_of_different_machines_are_not_compared() -> None:
    content = {
        f"{one.id}.s0": {**result(one, 0, training_ms=ms), "scale": "imagenet"}
        for one, ms in ((CROSS, 3.0), (LABELS_ONLY, 4.0))
    }
    faster = Claim("x", "y", (Value(LABELS_ONLY, "training_ms"),), (Value(CROSS, "training_ms"),), unit="ms")
    assert judge(experiment(faster), known(content))[0].verdict == "holds"
    content[f"{LABELS_ONLY.id}.s0"]["provenance"] = {"hardware": {"cpu": "another"}}
    assert judge(experiment(faster), known(content))[0].verdict == NOT_MEASURED
    quicker = Claim("x", "y", (Value(CROSS, "throughput"),), (Value(LABELS_ONLY, "throughput"),), unit="images/s")
    for one, speed in (content[f"{CROSS.id}.s0"], 4.0), (content[f"{LABELS_ONLY.id}.s0"], 3.0):
        one["measured"]["throughput"] = speed
        one["detail"] = {MEASURED_ON: {"cpu": "a third"}}  # wherever each of them was trained
    assert judge(experiment(quicker), known(content))[0].verdict == "holds"
    content[f"{CROSS.id}.s0"]["detail"] = {MEASURED_ON: {"cpu": "a fourth"}}
    assert judge(experiment(quicker), known(content))[0].verdict == NOT_MEASURED


def test_sizes_are_those_of_the_papers_networks_whatever_ran() -> None:
    table = EXPERIMENTS["table2"]
    judged = {one.claim.text: one for one in judge(table, known(files({CROSS: [0.5]})))}
    fifth = judged["CiT-Ti's two teachers have at most 20 % of the parameters of DeiT's one"]
    half = judged["CiT-S's two teachers have at most 50 % of the parameters of DeiT's one"]
    assert fifth.verdict == "holds" and fifth.reason.startswith("15.3 of 83.6 M, 18 %") and not fifth.files
    assert half.verdict == "does not hold" and half.reason.startswith("46.3 of 83.6 M, 55 %")
    speeds = [one for one in judged.values() if one.claim.unit == "ms"]
    assert len(speeds) == 2 and {one.verdict for one in speeds} == {NOT_MEASURED}
    assert all("not at this scale" in one.reason and not one.differences for one in speeds)


def test_a_ratio_is_compared_with_what_is_claimed() -> None:
    content = {
        f"{one.id}.s0": {**result(one, 0, throughput=fast), "scale": "imagenet"}
        for one, fast in ((CIT_S, 96.0), (DEIT_S, 100.0), (DEIT_S_KD, 102.0))
    }
    judged = {one.claim.text: one for one in judge(EXPERIMENTS["table3"], known(content))}
    assert judged["CiT-S answers as fast as DeiT-S, within 5 %"].differences == {0: pytest.approx(96 - 95)}
    assert judged["CiT-S answers as fast as DeiT-S, within 5 %"].verdict == "holds"
    assert judged["CiT-S answers as fast as DeiT-S-KD, within 5 %"].verdict == "does not hold"
    assert judged["CiT-S answers as fast as DeiT-S, within 5 %"].as_json()["times"] == 0.95


def test_a_report_says_what_its_scale_changes_and_what_does_not_belong_together(tmp_path: Path) -> None:
    content = files({CROSS: [0.9, 0.8], LABELS_ONLY: [0.7, 0.72]})
    for one in content.values():
        one["provenance"]["precision"] = "bf16"
        one["measured"]["corruptions/class"] = 0.3
        one["detail"] = {"corrupted images": 1200}
    particular = replace(SCALE, particulars=["λ is ten."])
    page = write_paper_report(tmp_path, typed(content), [EXPERIMENTS["table6"], EXPERIMENTS["table7"]], particular)
    text = page.with_suffix(".md").read_text()
    assert "## What this scale changes\n\nλ is ten.\n" in text and "different precision" not in text
    content[f"{LABELS_ONLY.id}.s1"]["provenance"]["precision"] = "no"
    shifted = Experiment(
        "table1", "t", "d", ("m",), (TOP1_COLUMN,), [Row(("m",), {}, {"top1": Value(LABELS_ONLY, "corruptions/class")})]
    )
    experiments = [experiment(claim(CROSS, LABELS_ONLY)), experiment(claim(CROSS, ONE_CONV)), shifted]
    text = write_paper_report(tmp_path, typed(content), experiments, SCALE).with_suffix(".md").read_text()
    assert "Claims for which runs of different precision are compared: better." in text
    assert "Of the validation images 1,200 were corrupted." in text and "What this scale" not in text
    del content[f"{LABELS_ONLY.id}.s1"]["provenance"]["precision"]
    content[f"{LABELS_ONLY.id}.s1"]["provenance"]["weights"] = "timm"  # it was not trained here
    text = write_paper_report(tmp_path, typed(content), experiments, SCALE).with_suffix(".md").read_text()
    assert "different precision" not in text


def test_exact_claims_do_not_make_the_others_less_certain() -> None:
    content = files({CROSS: [0.9, 0.8, 0.85], LABELS_ONLY: [0.5, 0.6, 0.45]})
    more = Claim("x", "y", (Value(CROSS, "parameters"),), (Value(LABELS_ONLY, "parameters"),), unit="M")
    (alone,) = judge(experiment(claim(CROSS, LABELS_ONLY)), known(content))
    beside = judge(experiment(more, claim(CROSS, LABELS_ONLY), more), known(content))[1]
    assert alone.p is not None and beside.p == alone.p


def test_equal_differences_stay_equal_when_rounded() -> None:
    """Of 600 images, 541 against 537 and 542 against 538, at six decimals."""
    content = files({CROSS: [0.901667, 0.903333], LABELS_ONLY: [0.895000, 0.896667]})
    (found,) = judge(experiment(claim(CROSS, LABELS_ONLY)), known(content))
    assert found.p is None and found.verdict == "undecided at n = 2 (all differences equal)"


def test_results_that_do_not_belong_together_are_named(tmp_path: Path) -> None:
    content = files({CROSS: [0.9, 0.8], ONE_CONV: [0.7, 0.7]})
    assert (
        "Not comparable" not in write_paper_report(tmp_path, typed(content), ALL, SCALE).with_suffix(".md").read_text()
    )
    for number, one in enumerate(content.values()):
        one["groups"] = ["corruptions", "run"]
        one["sources"] = {"corruptions": "/c"} if number else {}
        one["teacher_weights"] = {"resnet18": f"weights {number // 2}"}
    text = write_paper_report(tmp_path, typed(content), ALL, SCALE).with_suffix(".md").read_text()
    assert "Not comparable: corruptions was measured on different images (/c, made on the fly)" in text
    assert "taught by more than one training of resnet18" in text
    assert "learn from the same run of it, but for resnet18, see below, so" in text


def test_a_report_says_what_departs_from_its_scale(tmp_path: Path) -> None:
    scale = replace(SCALE, changed=["weight=3", "schedule.epochs=5"], given=["resnet18"])
    text = write_paper_report(tmp_path, typed(files({CROSS: [0.9]})), ALL, scale).with_suffix(".md").read_text()
    assert "In place of the scale's own settings: weight=3, schedule.epochs=5." in text
    assert "Weights were given, not trained, for resnet18: one run each." in text


def test_teachers_are_compared_with_each_other(tmp_path: Path) -> None:
    content = files({CROSS: [0.9, 0.8], SAME_TWICE: [0.7], ONE_CONV: [0.7]})
    for name, pair, kappa in ((f"{CROSS.id}.s0", "resnet18|rednet26", 0.5), (f"{SAME_TWICE.id}.s0", "a|b", 0.75)):
        content[name]["detail"] = {"teachers": {pair: {"kappa": kappa, "cka": 0.25}}}
        content[name]["measured"] |= {"ensemble/accuracy": 0.875, "ensemble/upper": 0.9375}
    text = write_paper_report(tmp_path, typed(content), ALL, SCALE).with_suffix(".md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if " – " in line]
    assert ["ResNet-18 – RedNet-26", "two kinds", "0.50", "0.25", "87.5", "93.8"] in rows
    assert ["a – b", "one kind", "0.75", "0.25", "87.5", "93.8"] in rows


def test_pictures_of_other_runs_are_not_shown(tmp_path: Path, everything: dict[str, dict[str, Any]]) -> None:
    image = {"png": "", "index": 0, "name": "x", "label": 0, "outputs": {}}
    for ids, shown in ((["gone"], None), ([next(iter(everything.values()))["id"]], tmp_path)):
        (tmp_path / "figure2.json").write_text(json.dumps({"runs": ids, "classes": ["a"], "images": [image]}))
        assert pictures_of(tmp_path, known(everything)) == shown


def test_claims_about_similar_networks_mean_nothing_where_they_differ() -> None:
    table = EXPERIMENTS["table1"]
    one = next(c for c in table.claims if "better on C" in c.text)
    conv, inv = arm("resnet50"), arm("rednet26")
    near = {
        f"{m.id}.s{s}": result(m, s, **{"accuracy/class": acc + s / 1000, "corruptions/class": err + s * s / 1000})
        for m, acc, err in ((conv, 0.80, 0.3), (inv, 0.79, 0.4))
        for s in range(3)
    }
    assert judge(experiment(one), known(near))[0].verdict.startswith(("holds", "undecided"))
    far = {name: {**r, "measured": {**r["measured"]}} for name, r in near.items()}
    for r in far.values():
        if r["arm"] == conv.id:
            r["measured"]["accuracy/class"] += 0.1
    judged = judge(experiment(one), known(far))[0]
    assert judged.verdict == NO_MEANING and "90" in judged.reason


@pytest.fixture(scope="module")
def everything() -> dict[str, dict[str, Any]]:
    """Five seeds of every arm, with every number that some table shows."""
    generator = np.random.default_rng(0)
    arms = {one for e in ALL for one in e.arms()} | {a.arm for e in ALL for one in e.arms() for a in one.teachers}
    content = {}
    for one in sorted(arms, key=lambda one: one.id):
        metrics = {v.metric for e in ALL for v in e.values() if v.arm == one}
        for seed in range(5):
            measured = {m: float(0.8 + 0.02 * generator.standard_normal()) for m in metrics | {"accuracy/class"}}
            measured["parameters"] = 1e5 * (1 + len(one.id) % 7)
            for teacher in one.teachers:
                measured[f"kappa/{teacher.name}|{teacher.name}"] = 0.5
            content[f"{one.id}.s{seed}"] = result(one, seed, **measured)
            if len(one.teachers) == 2:
                pair = "|".join(teacher.name for teacher in one.teachers)
                detail = {"token_cosine": {pair: [0.1, 0.5, 0.995]}}
                content[f"{one.id}.s{seed}"]["detail"] = detail
    return content


def test_a_whole_report_twice_the_same(tmp_path: Path, everything: dict[str, dict[str, Any]]) -> None:
    page = write_paper_report(tmp_path / "a", typed(everything), ALL, SCALE)
    again = write_paper_report(tmp_path / "b", typed(dict(reversed(everything.items()))), ALL, SCALE)
    paths = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert paths == sorted(p.relative_to(tmp_path / "b") for p in (tmp_path / "b").rglob("*") if p.is_file())
    for path in paths:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path
    html, text = page.read_text(), page.with_suffix(".md").read_text()
    assert {p.name for p in page.parent.glob("figures/*.png")} == {
        "figure1.png", "figure4.png", "table6-arms.png", "token-cosine.png",
    }  # fmt: skip
    assert again.read_text() == html
    for one in ALL:
        assert f"{one.name[:-1].capitalize()} {one.name[-1]}: {one.title}" in text
    mean = np.mean([everything[f"{CROSS.id}.s{s}"]["measured"]["accuracy/class"] for s in range(5)])
    assert f"{100 * mean:.1f} ±" in text
    assert "ended up the same" in text
    verdicts = json.loads((page.parent / "verdicts.json").read_text())
    assert len(verdicts) == sum(len(one.claims) for one in ALL)
    assert all(name.removesuffix(".json") in everything for one in verdicts for name in one["files"])
    resting = [one for one in verdicts if one["says"] != "compared"]
    assert all(one["files"] for one in resting), "every verdict that rests on runs names its files"


def test_tokens_of_every_seed_are_shown(tmp_path: Path) -> None:
    """How tokens end up differs from seed to seed; one run says little."""
    found = files({CROSS: [0.5, 0.52, 0.51], ONE_CONV: [0.4]})
    for seed, last in enumerate((0.25, 0.995, None)):
        detail = {} if last is None else {"token_cosine": {"class|resnet18": [0.9, last]}}
        next(c for c in found.values() if c["arm"] == CROSS.id and c["seed"] == seed)["detail"] = detail
    write_paper_report(tmp_path, typed(found), [EXPERIMENTS["table6"]], SCALE)
    text = (tmp_path / "report.md").read_text()
    both = "Transformer-Ti ← ResNet-18 + RedNet-26"
    row = next(line for line in text.splitlines() if "class – ResNet-18" in line)
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [both, "class – ResNet-18", "0.25, 0.99"]
    assert f"(cosine above 0.99 after the last block): {both} (class – ResNet-18 in 1 of 2 runs)." in text


def test_tokens_that_start_or_learn_otherwise_are_shown_beside_the_seven_arms(tmp_path: Path) -> None:
    changed = {replace(CROSS, **one): [0.5] for one in ({"token_std": 15.0}, {"token_lr": 10.0}, {"weight": 3.0})}
    found = files({CROSS: [0.5], **changed})
    for content in found.values():
        content["detail"] = {"token_cosine": {"class|resnet18": [0.9, 0.5]}}
    write_paper_report(tmp_path, typed(found), [SWEEP], SCALE)
    lines = (tmp_path / "report.md").read_text().splitlines()
    both = "Transformer-Ti ← ResNet-18 + RedNet-26"
    shown = [line.split("|")[1].strip() for line in lines if "class – ResNet-18" in line]
    assert shown == [
        both,
        f"{both}, learning rate of tokens × 10",
        f"{both}, spread of tokens × 15",
    ]


@pytest.mark.usefixtures("blank_figures")
def test_a_claim_stands_once_and_no_arm_by_its_id(tmp_path: Path, everything: dict[str, dict[str, Any]]) -> None:
    page = write_paper_report(tmp_path, typed(everything), ALL, SCALE).read_text()
    text = (tmp_path / "report.md").read_text().split("## Provenance")[0]
    for one in (claim for experiment in ALL for claim in experiment.claims):
        assert len(re.findall(rf"^\| {re.escape(one.text)} +\|", text, re.M)) == 1, one.text
    assert "transformer_tiny" not in text and "transformer_small" not in text
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| Table")
    ]
    counted = sum(int(cell) for row in rows if len(row) == 7 for cell in row[2:])
    of_tables = [one for one in ALL if one.name.startswith("table")]
    assert counted == sum(len(one.claims) for one in of_tables)
    assert '<a href="#table6">Table 6</a>' in page and len(page) < 2_000_000


@pytest.mark.usefixtures("blank_figures")
def test_a_page_begins_with_what_was_done_how_good_against_what_how_sure_and_what_next(tmp_path: Path) -> None:
    found = files({CROSS: [0.9, 0.92, 0.91], LABELS_ONLY: [0.85, 0.88, 0.85], ONE_CONV: [0.8, 0.8, 0.8]})
    write_paper_report(tmp_path, typed(found), [EXPERIMENTS["table6"]], replace(SCALE, seeds=3))
    text = (tmp_path / "report.md").read_text()
    lines = re.findall(r"^- \*\*(.+?)\*\*: (.*)$", text, re.M)
    assert [name for name, _ in lines] == ["What was done", "How good", "Against what", "How sure", "What next"]
    said = dict(lines)
    assert "86.0 ± 1.7 % top-1 with no teacher; best: 91.0 ± 1.0 % with both kinds, a token each." in said["How good"]
    low, high = stats.t.interval(0.95, 2, np.mean([0.05, 0.04, 0.06]), stats.sem([0.05, 0.04, 0.06]))
    assert f"the same 3 seeds: +5.0 points, 95 % interval +{100 * low:.1f} to +{100 * high:.1f}" in said["Against what"]
    assert said["What next"].startswith("Runs are missing")


def test_the_best_is_chosen_over_seeds_that_all_have() -> None:
    """And seeds that were asked for are not said to be done."""
    lead = [0.90, 0.80, 0.80]
    found = known(files({LABELS_ONLY: lead, ONE_CONV: [0.94], CROSS: [0.95, 0.86, 0.86]}))
    lines = dict(experiments_summary([EXPERIMENTS["table6"]], [], [], found, SCALE))
    assert "83.3 ± 5.8 % top-1" in lines["How good"] and "best: 89.0 ± 5.2 % with both kinds" in lines["How good"]
    assert "the same 3 seeds: +5.7 points" in lines["Against what"]
    assert "for 3 of 5 seeds" in lines["What was done"]
    assert "1 other way has fewer of these runs" in lines["How good"]


def test_an_arm_that_is_ahead_of_the_others_does_not_hide_them() -> None:
    """And the seeds of twins of teachers are no seeds of students."""
    content = files({LABELS_ONLY: [0.5] * 6, ONE_CONV: [0.51] * 6, CROSS: [0.55] * 5, SAME_TWICE: [0.54] * 5})
    lines = dict(experiments_summary([EXPERIMENTS["table6"]], [], [], known(content), SCALE))
    assert "best: 55.0 ± 0.0 % with both kinds" in lines["How good"] and "other way" not in lines["How good"]
    first = files({arm("resnet18"): [0.9, 0.9], CROSS: [0.8], LABELS_ONLY: [0.7]})
    first[f"{CROSS.id}.s0"]["advisers"] = {"resnet18": "0" * 16}
    lines = dict(experiments_summary([EXPERIMENTS["table6"]], [], [], known(first), SCALE))
    assert "for 1 of 5 seeds" in lines["What was done"]


def test_a_gain_over_fewer_seeds_says_so(tmp_path: Path) -> None:
    found = files({LABELS_ONLY: [0.90], CROSS: [0.95, 0.80, 0.80]})
    text = write_paper_report(tmp_path, typed(found), [EXPERIMENTS["table6"]], SCALE).with_suffix(".md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| both kinds, a token each "))
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[3] == "3" and cells[4:6] == ["+5.0 (n = 1)", "50.0 (n = 1)"]


def test_conditions_are_judged_over_the_seeds_of_the_claim() -> None:
    alike = Condition("similar", Value(ONE_CONV), Value(SAME_TWICE), "the networks are about equal")
    found = known(files({CROSS: [0.8], LABELS_ONLY: [0.7], ONE_CONV: [0.70, 0.90], SAME_TWICE: [0.70]}))
    (one,) = judge(experiment(claim(CROSS, LABELS_ONLY, conditions=(alike,))), found)
    assert one.verdict.startswith("undecided") and sorted(one.files) == sorted(
        f"{run.id}.s0.json" for run in (CROSS, LABELS_ONLY, ONE_CONV, SAME_TWICE)
    )
    apart = known(files({CROSS: [0.8], LABELS_ONLY: [0.7], ONE_CONV: [0.9, 0.5], SAME_TWICE: [0.7, 0.7]}))
    (one,) = judge(experiment(claim(CROSS, LABELS_ONLY, conditions=(alike,))), apart)
    assert one.verdict == NO_MEANING and "90.0 and 70.0" in one.reason


def test_a_margin_of_equality_is_no_difference_that_would_be_found() -> None:
    a, b = [0.90, 0.92, 0.91, 0.93], [0.85, 0.88, 0.85, 0.89]
    results = known(files({CROSS: a, LABELS_ONLY: b, ONE_CONV: [0.9, 0.6, 0.8, 0.7]}))
    above, near = claim(CROSS, LABELS_ONLY), claim(CROSS, ONE_CONV, says=Near(0.015))
    both = experiments_summary([experiment(above, near)], judge(experiment(above, near), results), [], results, SCALE)
    alone = experiments_summary([experiment(above)], judge(experiment(above), results), [], results, SCALE)
    assert dict(both)["How sure"] == dict(alone)["How sure"] and "80 % power" in dict(alone)["How sure"]


def test_where_labels_alone_are_best_nothing_else_is_called_the_best() -> None:
    found = known(files({LABELS_ONLY: [0.95, 0.97], CROSS: [0.9, 0.92], ONE_CONV: [0.8, 0.8]}))
    said = dict(experiments_summary([EXPERIMENTS["table6"]], [], [], found, replace(SCALE, seeds=2)))
    assert "96.0 ± 1.4 % top-1 with no teacher; the best of the others: 91.0 ± 1.4 % with both" in said["How good"]
    assert "-5.0 points" in said["Against what"].replace("−", "-")


@pytest.mark.usefixtures("blank_figures")
def test_latex_has_as_many_cells_in_every_row(tmp_path: Path, everything: dict[str, dict[str, Any]]) -> None:
    write_paper_report(tmp_path, typed(everything), ALL, SCALE)
    for one in ALL:
        text = (tmp_path / "tables" / f"{one.name}.tex").read_text()
        columns = len(re.search(r"\\begin\{tabular\}\{([lrc]+)\}", text)[1])
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len(rows) == 1 + len(one.rows)
        assert all(len(re.findall(r"(?<!\\)&", row)) == columns - 1 for row in rows)
        assert not re.search(r"(?<!\\)[%#_]", text)
        assert text.count("{") == text.count("}")


def test_nothing_finished_yet(tmp_path: Path) -> None:
    page = write_paper_report(tmp_path, {}, ALL, SCALE)
    assert "No finished run yet" in page.read_text()


def test_markup_in_names_is_inert(tmp_path: Path, everything: dict[str, dict[str, Any]]) -> None:
    evil = {name: {**r, "data": {**r["data"], "classes": ["<script>x</script>"]}} for name, r in everything.items()}
    page = write_paper_report(tmp_path, typed(evil), ALL, replace(SCALE, title="<script>alert(1)</script>"))
    assert "<script>alert" not in page.read_text()


def test_the_headline_of_a_stopped_call_is_what_is_there() -> None:
    """Not "0 hold, 0 do not": nothing was tested, or too little to decide."""
    wanted = [experiment(claim(CROSS, LABELS_ONLY), claim(ONE_CONV, LABELS_ONLY), claim(SINGLE, LABELS_ONLY))]

    def said(values: dict[Arm, list[float]]) -> str:
        results = known(files(values))
        return headline(wanted, judge(wanted[0], results), results)

    assert said({LABELS_ONLY: [0.5]}) == "1 run finished; of 3 claims of the paper none is decided yet"
    some = {LABELS_ONLY: [0.5], CROSS: [0.6]}
    assert said(some) == "2 runs finished; of 3 claims of the paper 1 is undecided and the others wait"
    sure = {LABELS_ONLY: [0.5, 0.51, 0.5, 0.49], CROSS: [0.6, 0.63, 0.61, 0.58]}
    holds = "Of 3 claims of the paper 1 holds here, 0 do not, 0 are undecided and 2 are not measured"
    assert said(sure) == holds
