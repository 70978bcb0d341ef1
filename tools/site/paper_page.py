"""The page of the paper's tables: its numbers beside ours, from the declared tables and the landed result files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coadvise.paper.declared import BEST, Claim, Column, Experiment, Near, Row, Value
from coadvise.paper.imagenet import EXPERIMENTS
from coadvise.reports.claims import NO_MEANING, NOT_MEASURED, Judged, judge
from coadvise.reports.results import Results
from coadvise.reports.tables import ABSENT, Table, markdown_table, number, shown, title_of
from coadvise.reproduce.scales import SCALES
from coadvise.run.measurement import Measurement
from coadvise.significance import DOES_NOT_HOLD, HOLDS

RESULTS = Path(__file__).resolve().parents[2] / "results"
_HEADING = "# The paper's experiments on "
_SOLID = "\ue000"
"""Stands for a space that does not break until the tables are made, which turn every kind of space into a plain one."""
_NAME = re.compile(r"(?<=\| )([A-Za-z]+-[\w/-]+)(?= +\|)")
"""A model's name, alone in its cell: it is not cut at its hyphen."""
_SHORT = {"digits": "digits", "cifar-cpu": "CIFAR-10", "pacs-renditions": "PACS"}

_HEAD = """\
---
description: Every table and figure of the paper, with its numbers and the measured ones of this package side by side.
---
# The paper, table by table

The numbers of *Co-advise: Cross Inductive Bias Distillation* (CVPR 2022), and beside them what this package measured.
The paper trained on ImageNet for 300 epochs. What was measured here is smaller by far, so **compare order and
differences, not heights**: which student leads, and by how much.

This page is made from the result files when it is built; nothing on it is typed. Ours are the mean over n runs and its
95 % interval (Student's t); of a single run the number alone. A dash is what was not measured. The seeds are the
students': all students of a teacher learn from the same run of it, so a verdict about kinds of teachers is about these
teachers. `coadvise reproduce table4 --scale imagenet --data FOLDER` runs a table as the paper did.

"""

_CLAIMS = """\
Each claim is tested over the seeds: a two-sided t-test of paired differences, corrected by Holm's method over the
claims of its table. The differences below are in the claim's own direction, so that what is above zero speaks for it,
in points of per cent unless a unit stands there; their intervals are uncorrected. That two models are about equal is
tested against a margin, which stands behind the difference. *Undecided* says that runs as few as these cannot tell;
the reports say what they could have found.
"""


@dataclass(frozen=True)
class Landed:
    """One scale with its results.

    Attributes:
        name: of the folder in `results`: that of the scale, or of other images at one.
        title: data and sizes in words.
        judged: claims of the experiments in its report; a part of an experiment's runs may have been made for another.
    """

    name: str
    title: str
    results: Results
    judged: Mapping[str, Sequence[Judged]]

    @property
    def short(self) -> str:
        """A word for heads of columns."""
        return _SHORT.get(self.name, self.name)


def text() -> str:
    """The page in Markdown."""
    landed = list(read(RESULTS))
    made = "\n".join([_HEAD + _overview(landed), *(_section(one, landed) for one in EXPERIMENTS.values())])
    return _NAME.sub(r'<span class="name">\1</span>', made.replace(_SOLID, "\N{NO-BREAK SPACE}"))


def read(folder: Path) -> Iterator[Landed]:
    """Every scale of which there is a whole report of the paper's experiments."""
    scales = list(SCALES)
    place = lambda name: (scales.index(name) if name in scales else len(scales), name)
    for path in sorted(folder.glob("*/verdicts.json"), key=lambda one: place(one.parent.name)):
        files = {file.stem: Measurement.read(file) for file in sorted((path.parent / "runs").glob("*.json"))}
        results, reported = Results(files), {one["experiment"] for one in json.loads(path.read_text(encoding="utf-8"))}
        judged = {name: judge(one, results) if name in reported else [] for name, one in EXPERIMENTS.items()}
        if not any(judged.values()):
            continue
        name = path.parent.name
        heading = (path.parent / "report.md").read_text(encoding="utf-8").partition("\n")[0]
        title = SCALES[name].title if name in SCALES else heading.removeprefix(_HEADING)
        yield Landed(name, title, results, judged)


def _overview(landed: Sequence[Landed]) -> str:
    """What was measured at which scale, and how many claims hold."""
    words = (HOLDS, DOES_NOT_HOLD, "undecided", NO_MEANING, NOT_MEASURED)
    rows = [["Runs", *(f"{len(one.results.files)}" for one in landed)]]
    claims = [
        [claim.verdict.partition(" at ")[0] for found in one.judged.values() for claim in found] for one in landed
    ]
    rows += [["Claims", *(f"{len(found)}" for found in claims)]]
    rows += [[f"… {word}", *(f"{found.count(word)}" for found in claims)] for word in words]
    table = markdown_table(Table("", ["", *(one.short for one in landed)], rows))
    links = [f"- **{one.short}**: {one.title} ([the whole report](../results/{one.name}/report.md))" for one in landed]
    return "\n".join(["## What was measured\n", *links, "", table, "", _CLAIMS])


def _section(one: Experiment, landed: Sequence[Landed]) -> str:
    """A table or figure of the paper: what was measured here as well, then what it prints alone, then its claims."""
    parts = [f"## {title_of(one.name)}: {one.title} {{ #{one.name} }}", f"Data of the paper: {one.data}."]
    here = {column.key: [scale for scale in landed if _has(one, column, scale)] for column in one.columns}
    parts += [_side_by_side(one, column, here[column.key]) for column in one.columns if here[column.key]]
    alone = [
        column for column in one.columns
        if not here[column.key] and any(column.key in row.paper for row in one.rows)
    ]  # fmt: skip
    if alone:
        parts.append(_printed_alone(one, alone))
    if any(_size(one, column) for column in one.columns):
        parts.append("Sizes and speeds of the models of a scale are chosen with it, and stand not beside the paper's.")
    if one.claims:
        parts.append(_claims(one, landed))
    return "\n\n".join([*parts, *one.notes]) + "\n"


def _values(one: Experiment, column: Column) -> list[Value]:
    return [row.ours[column.key] for row in one.rows if column.key in row.ours]


def _size(one: Experiment, column: Column) -> bool:
    """Whether a column is about sizes or speeds."""
    return any(value.metric == "parameters" or value.metric in BEST for value in _values(one, column))


def _has(one: Experiment, column: Column, scale: Landed) -> bool:
    """Whether a scale has a number that can stand beside the paper's."""
    return not _size(one, column) and any(scale.results.series(value) for value in _values(one, column))


def _side_by_side(one: Experiment, column: Column, here: Sequence[Landed]) -> str:
    """One column of the paper's table, beside ours at every scale that has it."""
    common = [_common(one, column, scale) for scale in here]
    rows = [
        [
            *row.labels,
            _printed(one, row, column),
            *(_ours(row, column, scale, n) for scale, n in zip(here, common, strict=True)),
        ]
        for row in one.rows
    ]
    heads = [
        scale.short if n is None else f"{scale.short}, n = {n}" for scale, n in zip(here, common, strict=True)
    ]  # fmt: skip
    align = "l" * len(one.heads) + "r" * (1 + len(heads))
    return markdown_table(Table(column.title, [*one.heads, "paper", *heads], rows, align))


def _printed_alone(one: Experiment, columns: Sequence[Column]) -> str:
    """Columns of the paper's table of which nothing is measured here."""
    rows = [[*row.labels, *(_printed(one, row, column) for column in columns)] for row in one.rows]
    align = "l" * len(one.heads) + "r" * len(columns)
    title = "In the paper alone"
    return markdown_table(Table(title, [*one.heads, *(column.title for column in columns)], rows, align))


def _common(one: Experiment, column: Column, scale: Landed) -> int | None:
    """The number of runs behind every number of a column; None where they differ."""
    counts = {len(scale.results.series(value)) for value in _values(one, column)} - {0}
    return counts.pop() if len(counts) == 1 else None


def _printed(one: Experiment, row: Row, column: Column) -> str:
    """The paper's number, with as many decimals as its column has."""
    texts = [f"{other.paper[column.key]:g}" for other in one.rows if column.key in other.paper]
    decimals = max((len(text.partition(".")[2]) for text in texts), default=0)
    return number(row.paper.get(column.key), decimals)


def _ours(row: Row, column: Column, scale: Landed, common: int | None) -> str:
    """Mean and interval, and n where it is not that of the whole column."""
    value = row.ours.get(column.key)
    summary = None if value is None else scale.results.summary(value)
    if summary is None:
        return ABSENT
    said = shown(summary.mean, column.unit)
    if summary.low is not None and summary.high is not None:
        said += f" [{shown(summary.low, column.unit)}, {shown(summary.high, column.unit)}]"
    said = said.replace(" ", _SOLID)
    return said if common is not None else f"{said}, n{_SOLID}={_SOLID}{summary.n}"


def _claims(one: Experiment, landed: Sequence[Landed]) -> str:
    """The claims of a table, at every scale that has a run of it."""
    with_it = [scale for scale in landed if any(found.verdict != NOT_MEASURED for found in scale.judged[one.name])]
    rows = [[claim.text, *(said(scale.judged[one.name][i]) for scale in with_it)] for i, claim in enumerate(one.claims)]
    heads = ["Claim", *(scale.short for scale in with_it)]
    if not with_it:
        return "Claims, none of which is measured here:\n\n" + "\n".join(f"- {claim.text}" for claim in one.claims)
    return markdown_table(Table("Claims", heads, rows, "l" * len(heads)))


def said(one: Judged) -> str:
    """A verdict with the difference behind it, its interval and n."""
    if one.verdict == NOT_MEASURED:
        return ABSENT
    if one.verdict == NO_MEANING:
        return f"{one.verdict}: {one.reason}"
    word = one.verdict.partition(" at ")[0]
    unit = one.claim.unit
    if one.test is None:  # compared, not tested
        return f"{word}: {shown(next(iter(one.differences.values())), unit, True)}"
    ends = [shown(end, unit, True).removesuffix(f" {unit}") for end in (one.test.low, one.test.high) if end is not None]
    interval = f" [{f',{_SOLID}'.join(ends)}]" if ends else ""
    return f"{word}: {shown(one.test.mean, unit, True)}{_margin(one.claim)}{interval}, n{_SOLID}={_SOLID}{one.test.n}"


def _margin(claim: Claim) -> str:
    if claim.margin is None:
        return ""
    return f" ({'±' if isinstance(claim.says, Near) else '< '}{shown(claim.margin, claim.unit)})"
