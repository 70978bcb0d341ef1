"""The section of one experiment: its figure, its table beside the paper's numbers, its claims, its notes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from ..paper.declared import BEST, Column, Experiment, Help, Row
from .claims import Judged, why_absent
from .contrasts import Answered, contrasts_parts
from .figures import figure_parts
from .page import Part, Section, Text
from .results import Results
from .tables import ABSENT, Cell, Table, mean_sd, number, percent, points, shown, title_of
from .verdicts import claims_table, kinds_sentences


def experiment_section(
    one: Experiment,
    results: Results,
    judged: Sequence[Judged],
    pictures: Path | None,
    answers: Sequence[Answered] = (),
) -> Section:
    """A table or figure of the paper, or an experiment beyond it.

    Args:
        judged, answers: the claims and contrasts of this experiment.
        pictures: folder of what was made of single images, if there is one.
    """
    parts: list[Part] = [*contrasts_parts(answers), *figure_parts(one, results, pictures)]
    parts.append(experiment_table(one, results))
    parts += [Text(text, "note") for text in _absent(one, results)]
    if one.help:
        parts += [help_table(one.help, results), Text(HELP_NOTE, "note")]
    if judged:
        parts += [Text(sentence) for sentence in kinds_sentences(judged)]
        parts.append(claims_table(judged))
    parts += [Text(note, "note") for note in one.notes]
    return Section(one.name, f"{title_of(one.name)}: {one.title}", parts)


def _absent(one: Experiment, results: Results) -> list[str]:
    """Why whole columns are empty (one without any finished run needs no word), and on how many images others rest."""
    found = []
    for column in one.columns:
        values = [row.ours[column.key] for row in one.rows if column.key in row.ours]
        run = [value for value in values if results.seeds(value.arm)]
        if run and not any(results.series(value) for value in run):
            found.append(f"{column.title} is not measured: {why_absent(run[0].metric)}.")
    corrupted = {
        value.arm for row in one.rows for value in row.ours.values() if value.metric.startswith("corruptions/")
    }
    counts = {n for arm in corrupted for run in results.runs(arm) if (n := run.corrupted_images) is not None}
    if counts:
        found.append(f"Of the validation images {' or '.join(f'{n:,}' for n in sorted(counts))} were corrupted.")
    return found


def experiment_table(one: Experiment, results: Results) -> Table:
    """The rows as declared: the paper's number and ours side by side."""
    columns, align = list(one.heads), "l" * len(one.heads)
    for column in one.columns:
        columns += [f"{column.title}: paper", "ours"] if one.of_paper else [column.title]
        align += "rr" if one.of_paper else "r"
    rows = []
    for row in one.rows:
        cells: list[str | Cell] = [*row.labels]
        for column in one.columns:
            printed = row.paper.get(column.key)
            if one.of_paper:
                cells.append(ABSENT if printed is None else _paper_number(printed, column))
            cells.append(_ours(row, column, results))
        counts = sorted({len(results.series(value)) for value in row.ours.values()} - {0})
        rows.append([*cells, ", ".join(map(str, counts)) or "0"])
    paper = f"; paper: {one.data}; ours" if one.of_paper else ""
    caption = f"{one.title}{paper}: mean ± standard deviation over n runs"
    return Table(caption, [*columns, "n"], rows, align + "r")


HELP_NOTE = (
    "Errors removed: the points gained, as a part of the errors without teachers. A student that starts lower can gain "
    "more points and still be helped less by this measure; the claims are about points."
)


def help_table(students: Sequence[Help], results: Results) -> Table:
    """What the same teachers add to each student, in points and as a part of its errors; seeds that both arms have."""
    rows = []
    for one in students:
        without, taught = results.series(one.without), results.series(one.taught)
        seeds = sorted(without.keys() & taught.keys())
        if not seeds:
            rows.append([one.student, *[ABSENT] * 4, "0"])
            continue
        before, after = (fmean(series[seed] for seed in seeds) for series in (without, taught))
        removed = (after - before) / (1 - before) if before < 1 else None
        rows.append(
            [one.student, percent(before), percent(after), points(after - before), percent(removed), f"{len(seeds)}"]
        )
    columns = ["Student", "No teacher, %", "Both teachers, %", "Gain, points", "Errors removed, %", "n"]
    return Table("How much both teachers help each student", columns, rows)


def _paper_number(value: float, column: Column) -> str:
    return f"{value:g}" if column.unit in ("M", "images/s") else number(value, 3 if column.unit == "nat" else 2)


def _ours(row: Row, column: Column, results: Results) -> str:
    value = row.ours.get(column.key)
    summary = None if value is None else results.summary(value)
    if value is None or summary is None:
        return ABSENT
    if value.metric in BEST and (best := results.best(value)) is not None:
        return shown(best, column.unit)
    if column.unit == "%":
        return mean_sd(summary)
    spread = "" if summary.sd is None or column.unit == "M" else f" ± {shown(summary.sd, column.unit)}"
    return shown(summary.mean, column.unit) + spread
