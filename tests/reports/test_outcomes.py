"""Outcomes beside top-1: a table of the arms that carry the claim, by numbers that are known."""

from __future__ import annotations

import statistics
from pathlib import Path

from coadvise.paper.ablations import CROSS, LABELS_ONLY, ONE_CONV
from coadvise.paper.arms import Arm, arm
from coadvise.reports.outcomes import outcomes_parts
from coadvise.reports.page import Text
from coadvise.reports.results import Results
from coadvise.reports.tables import Table
from coadvise.run.measurement import Measurement


def measured(one: Arm, seed: int, detail: dict[str, int], **numbers: float) -> Measurement:
    content = {
        "format": 1, "arm": one.id, "scale": "digits", "seed": seed, "id": f"{seed:016x}", "advisers": {},
        "student": {"model": one.model, "parameters": 1000},
        "data": {"source": "digits", "train": 200, "val": 100, "classes": ["a", "b"]},
        "epochs": 1, "steps": 4, "images_seen": 200, "seconds": 1.5, "settings": {}, "provenance": {},
        "measured": {name.replace("_", "/"): value for name, value in numbers.items()}, "detail": detail,
    }  # fmt: skip
    return Measurement.parse(content, Path("x"))


def results(*runs: Measurement) -> Results:
    return Results({f"{run.arm}.s{run.seed}": run for run in runs})


def test_every_outcome_that_was_measured_stands_beside_top_1() -> None:
    losses, errors = [0.5, 0.7, 0.6], [0.04, 0.05]
    of_both = [
        measured(
            CROSS, seed, {"likeness images": 80}, accuracy_class=0.8, accuracy_average=0.82, loss_class=loss,
            **({"ece_class": errors[seed]} if seed < 2 else {}),
        )
        for seed, loss in enumerate(losses)
    ]  # fmt: skip
    plain = measured(LABELS_ONLY, 0, {}, accuracy_class=0.7, loss_class=0.9)
    table, *notes = outcomes_parts([CROSS, LABELS_ONLY], results(*of_both, plain))
    assert isinstance(table, Table)
    assert table.columns == ["Arm", "Top-1 (%)", "All heads (%)", "NLL (nat)", "ECE (%)", "n"]
    sd = [statistics.stdev(values) for values in (losses, errors)]
    assert table.rows == [
        ["Transformer-Ti", "70.0", "–", "0.900", "–", "1"],
        [
            "Transformer-Ti ← ResNet-18 + RedNet-26",
            "80.0 ± 0.0",
            "82.0 ± 0.0",
            f"0.600 ± {sd[0]:.3f}",
            f"4.5 ± {100 * sd[1]:.1f}",
            "2, 3",
        ],
    ]
    text = " ".join(note.text for note in notes if isinstance(note, Text))
    assert "on 80 of the validation images" in text and "Not measured of these arms: Mean corruption error." in text


def test_other_students_are_shown_where_corruptions_were_measured_and_teachers_never() -> None:
    student, network = arm("transformer_small", "resnet50", "rednet26"), arm("resnet50")
    numbers = {"accuracy_class": 0.8, "loss_class": 0.6, "corruptions_class": 0.4}
    found = results(
        measured(student, 0, {"corrupted images": 50}, accuracy_average=0.8, **numbers),
        measured(network, 0, {"corrupted images": 50}, **numbers),
        measured(ONE_CONV, 0, {}, accuracy_class=0.5),
    )
    table, note, *_ = outcomes_parts([student, network, ONE_CONV], found)
    assert isinstance(table, Table) and isinstance(note, Text)
    assert [row[0] for row in table.rows] == ["Transformer-Ti ← ResNet-18", "Transformer-S ← ResNet-50 + RedNet-26"]
    assert table.rows[1][-2] == "40.0" and "on 50 images" in note.text


def test_calibration_is_explained_where_the_files_do_not_say_on_how_many_images() -> None:
    _, note = outcomes_parts([CROSS], results(measured(CROSS, 0, {}, accuracy_class=0.8, ece_class=0.1)))[:2]
    assert isinstance(note, Text) and "bins of confidence, of students" in note.text


def test_older_files_with_top_1_alone_make_no_table() -> None:
    assert not outcomes_parts([CROSS], results(measured(CROSS, 0, {}, accuracy_class=0.8)))
    assert not outcomes_parts([], results())
