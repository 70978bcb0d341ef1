"""The figure that an experiment declares, drawn with our numbers."""

from __future__ import annotations

from pathlib import Path

from ..paper.arms import Teacher
from ..paper.declared import AgainstTeachers, Dots, Experiment, Gains, Value
from .page import Part
from .pictures import disagreement_parts
from .plots.accuracy import DotRow, dot_plot
from .plots.paper import Family, Point, differences_figure, parameters_figure, teachers_figure
from .plots.style import Drawing, draw, style
from .results import Results
from .tables import mean_sd
from .titles import teacher_title


def figure_parts(one: Experiment, results: Results, pictures: Path | None) -> list[Part]:
    """What stands above the table of an experiment; a figure with a section of its own stands there."""
    drawing: Drawing | None = None
    match one.figure:
        case Dots(title=""):
            drawing = dots(one.name, one.figure, results)
        case "single images" if pictures is not None:
            return disagreement_parts(one.name, pictures)
        case "sizes":
            drawing = _sizes(one, results)
        case Gains():
            drawing = _gains(one, one.figure, results)
        case AgainstTeachers():
            drawing = _against_teachers(one, one.figure, results)
    return [] if drawing is None else [drawing]


def dots(name: str, figure: Dots, results: Results) -> Drawing | None:
    """Top-1 of every run of some arms; None where none was run."""
    rows = [
        DotRow(label, list(series.values()), results.summary(value), style(_look(figure, label, position)))
        for position, (label, value) in enumerate(figure.values.items())
        if (series := results.series(value))
    ]
    if not rows:
        return None
    said = "; ".join(f"{row.label} {mean_sd(row.summary)} %" for row in rows)
    marks = [
        (f"teacher: {teacher_title(teacher)}", top1)
        for teacher in (teachers_of(figure, results) if figure.teachers else ())
        if (top1 := results.value(Value(teacher.arm), teacher.seed)) is not None
    ]
    return draw(name, f"Top-1 of Transformer-Ti by its teachers: {said}.", lambda: dot_plot(rows, marks))


def _look(figure: Dots, label: str, position: int) -> int:
    """Number of the colour and the symbol of a label."""
    return next((i for i, family in enumerate(figure.families) if label.startswith(family)), position)


def teachers_of(figure: Dots, results: Results) -> list[Teacher]:
    """The teachers of the arms that were run, each once."""
    arms = [value.arm for value in figure.values.values() if results.seeds(value.arm)]
    return list(dict.fromkeys(teacher for arm in arms for teacher in arm.teachers))


def _sizes(one: Experiment, results: Results) -> Drawing | None:
    paper, ours = [], []
    for row in one.rows:
        (label,) = row.labels
        if "parameters" in row.paper:
            paper.append(Point(label, row.paper["parameters"], row.paper["top1"]))
        size, top1 = results.mean(row.ours["parameters"]), results.summary(row.ours["top1"])
        if size is not None and top1 is not None:
            ours.append(Point(label, size / 1e6, 100 * top1.mean, _per_cent(top1.sd)))
    if not ours:
        return None
    split = lambda points: ([p for p in points if p.label.startswith("D")], [p for p in points if p.label[0] == "C"])
    panels = [(f"paper ({one.data})", *split(paper)), ("ours", *split(ours))]
    said = ", ".join(f"{point.label} {point.y:.1f} %" for point in ours)
    alt = f"Top-1 against parameters, the paper's and ours: {said}."
    return draw(one.name, alt, lambda: parameters_figure(panels))


def _per_cent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _gains(one: Experiment, figure: Gains, results: Results) -> Drawing | None:
    rows = [row for row in one.rows if results.series(row.ours[figure.of])]
    gains: list[tuple[str, list[list[float]]]] = []
    for name, key in figure.over.items():
        pairs = [(results.series(row.ours[figure.of]), results.series(row.ours[key])) for row in rows]
        # In points, for the seeds that both have.
        points = [[100 * (a[seed] - b[seed]) for seed in sorted(a.keys() & b.keys())] for a, b in pairs]
        gains.append((name, points))
    if not any(seeds for _, found in gains for seeds in found):
        return None
    alt = "Gain of both kinds with a token each over one teacher and over a single token, under every change."
    return draw(one.name, alt, lambda: differences_figure([row.labels[0] for row in rows], gains))


def _against_teachers(one: Experiment, figure: AgainstTeachers, results: Results) -> Drawing | None:
    families: dict[str, dict[str, list[Point]]] = {panel: {} for panel in figure.panels}
    for row in one.rows:
        panel, teacher, part = row.labels
        by_size = panel == figure.sizes
        x, y = results.summary(row.ours["teacher"]), results.summary(row.ours["student"])
        if x is not None and y is not None:
            family, _, size = teacher.rpartition("-")
            point = Point(size if by_size else part, 100 * x.mean, 100 * y.mean, _per_cent(y.sd))
            families[panel].setdefault(family if by_size else teacher, []).append(point)
    if not any(families.values()):
        return None
    looks = {name: position for position, name in enumerate(figure.families, start=1)}
    panels = [
        (title, [Family(name, points, looks[name.partition("-")[0]]) for name, points in families[panel].items()])
        for panel, title in figure.panels.items()
    ]
    base = _per_cent(results.mean(figure.baseline))
    alt = "A student's top-1 against its teacher's, by family of teachers."
    return draw(one.name, alt, lambda: teachers_figure(panels, base))
