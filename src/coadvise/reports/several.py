"""Sections of a run on images that have any number of classes: its mAP, and each class by itself."""

from __future__ import annotations

from ..run.result import RunResult
from ..run.several import SeveralAnswers
from ..run.standing import in_balance, which_part
from .page import Folded, Part, Section, Text
from .plots.several import PrecisionBar, precision_bars
from .plots.style import draw
from .tables import ABSENT, Table, count, duration, number, parameters, percent, with_interval
from .words import output_title

MOST = 30
"""Classes that the figure shows; of more than these, those with the lowest average precision."""
EACH = Text(
    "An image has any number of classes here, so that each class is a yes or no of its own: divergences and cross "
    "entropies are means over the classes.",
    "note",
)


def map_section(result: RunResult) -> Section:
    """mAP and what follows of each output, and of the teachers."""
    columns = ["Output", "mAP, %", "F1 of all answers, %", "Mean F1 of classes, %", "Every class right, %",
               "Cross entropy, nats", "mAP after the last epoch, %"]  # fmt: skip
    columns += ["Averaged weights then, %"] if result.ema else []
    rows = []
    for name in result.tokens:
        shares = [percent(result.metrics.get(f"{what}/{name}")) for what in ("map", "f1_micro", "f1_macro", "exact")]
        rows.append(
            [
                output_title(name),
                *shares,
                number(result.metrics.get(f"loss/{name}")),
                percent(result.final[f"map/{name}"]),
            ]
        )
        rows[-1] += [percent(result.ema.get(f"map/{name}"))] if result.ema else []
    parts: list[Part] = [
        Text(
            "mAP is the mean of the classes' average precisions, which ask whether the images of a class are put "
            "before all others. F1 and the share of images of which every class is right follow where a class is "
            "answered with yes if the model is more than half sure.",
            "note",
        ),
        Table("The weights that this run delivers", columns, rows),
    ]
    if result.teachers:
        rows = [
            [name, one.model, one.bias or ABSENT, percent(result.final.get(f"teacher_map/{name}")),
             parameters(one.parameters)]
            for name, one in result.teachers.items()
        ]  # fmt: skip
        columns = ["Teacher", "Model", "Bias", "mAP at the end, %", "Parameters"]
        parts.append(Table("Teachers, on the validation set", columns, rows, "lllrr"))
    speeds = {} if result.baselines is None else result.baselines.images_per_s
    rows = [
        [f"{one.model} ({one.of})", percent(one.mean_average_precision),
         f"{count(one.samples)}{which_part(one.samples, result, in_balance(one, result))}", count(one.train),
         f"{one.image_size} px", parameters(one.parameters), count(speeds.get(f"probe {one.of}")),
         duration(one.seconds)]
        for one in (() if result.baselines is None else result.baselines.several)
    ]  # fmt: skip
    if rows:
        columns = ["Linear probe on", "mAP, %", "Of images", "Fitted to", "Sees", "Parameters", "Images/s", "Took"]
        parts.append(Table("What one would do instead: logistic regressions on the features", columns, rows))
    return Section("map", "Mean average precision", parts)


def several_section(answers: SeveralAnswers) -> Section:
    """Average precision, recall, precision and F1 of every class."""
    counts, precisions = answers.counts(), answers.average_precision()
    images = len(answers.index)
    bars = [PrecisionBar(name, value, counts[name].support, images) for name, value in precisions.items()]
    bars = sorted(bars, key=lambda bar: bar.precision)[:MOST]
    said = ", ".join(f"{bar.label} {percent(bar.precision)} %" for bar in bars)
    parts: list[Part] = [draw("classes", f"Average precision of each class: {said}.", lambda: precision_bars(bars))]
    missed = [name for name, one in counts.items() if one.support and not one.right]
    if missed:
        parts.append(Text(f"Not one image is named rightly of: {', '.join(missed)}.", "warning"))
    cut = (
        f" The figure shows the {MOST} classes with the lowest average precision."
        if len(bars) < len(precisions)
        else ""
    )
    parts.append(Text(f"Brackets are 95 % intervals, Wilson's for recall and precision.{cut}", "note"))
    rows = [
        [
            name, count(one.support), percent(precisions.get(name)), with_interval(one.recall, one.recall_interval),
            with_interval(one.precision, one.precision_interval), with_interval(one.f1, one.f1_interval),
            count(one.answered),
        ]
        for name, one in counts.items()
    ]  # fmt: skip
    columns = ["Class", "Images", "Average precision, %", "Recall, %", "Precision, %", "F1, %", "Answered"]
    table = Table(
        f"Each class, as the {output_title(answers.answering)} answers after epoch {answers.epoch}", columns, rows
    )
    parts.append(table if len(rows) <= MOST else Folded(f"All {count(len(rows))} classes as a table", [table]))
    return Section("classes", "Classes", parts)
