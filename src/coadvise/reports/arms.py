"""The arms that a report shows in detail: every seed, their teachers, learning curves, similarity to the teachers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..names import TOP1
from ..paper.declared import Dots, Experiment
from ..run.reading import read_run
from ..significance import summarise
from .figures import dots, teachers_of
from .page import Folded, Part, Section, Text
from .plots.accuracy import learning_curves
from .plots.style import draw, style
from .results import Results
from .similarity import Outputs, similarity_section
from .tables import ABSENT, Table, count, duration, mean_sd, parameters, percent, points
from .titles import teacher_title


def shown_in_detail(experiments: Sequence[Experiment]) -> dict[str, Dots]:
    """Name → figure of the experiments whose figure has a section of its own."""
    return {one.name: one.figure for one in experiments if isinstance(one.figure, Dots) and one.figure.title}


def arms_section(name: str, figure: Dots, results: Results) -> Section | None:
    """The figure, every seed, the teachers; None where none of the arms was run."""
    drawing = dots(f"{name}-arms", figure, results)
    if drawing is None:
        return None
    star = " Star: teacher." if figure.teachers else ""
    note = f"Small: one run. Large: mean. Bar: 95 % t-interval of the mean (needs two runs).{star}"
    tables: list[Part] = [_seeds_table(figure, results), _each_seed(figure, results), *_teachers_table(figure, results)]
    return Section(f"{name}-arms", figure.title, [drawing, Text(note, "note"), *tables])


def _seeds_table(figure: Dots, results: Results) -> Table:
    base_label, base = next(iter(figure.values.items()))
    rows = []
    for label, value in figure.values.items():
        series = results.series(value)
        of_base = {} if value == base else results.series(base)
        gains = [series[seed] - of_base[seed] for seed in series if seed in of_base]
        errors = [1 - of_base[seed] for seed in series if seed in of_base]
        pairs = f" (n = {len(gains)})" if len(gains) != len(series) else ""
        removed = percent(sum(gains) / sum(errors)) + pairs if sum(errors) else ABSENT
        sizes = sorted({run.student.parameters for run in results.runs(value.arm)})
        gain = points(summarise(gains).mean) + pairs if gains else ABSENT
        top1 = mean_sd(results.summary(value))
        size = ", ".join(map(parameters, sizes)) or ABSENT
        rows.append([label, top1, str(len(series)), gain, removed, size])
    columns = ["Trained with", "Top-1, %", "n", "Gain, points", "Errors removed, %", "Parameters"]
    return Table(f"Top-1 over n seeds, and the gain over “{base_label}” of the same seeds", columns, rows)


def _each_seed(figure: Dots, results: Results) -> Folded:
    series = {label: results.series(value) for label, value in figure.values.items()}
    seeds = sorted({seed for found in series.values() for seed in found})
    rows = [[label, *(percent(found.get(seed)) for seed in seeds)] for label, found in series.items()]
    table = Table("Top-1 of each run, %", ["Trained with", *(f"seed {seed}" for seed in seeds)], rows)
    return Folded("Every seed", [table])


def _teachers_table(figure: Dots, results: Results) -> list[Table]:
    rows = []
    for teacher in teachers_of(figure, results):
        run = results.run(teacher.arm, teacher.seed)
        cells = [ABSENT] * 4
        if run is not None:
            student = run.student
            cells = [student.model, percent(run.number()), parameters(student.parameters), duration(run.seconds)]
        rows.append([teacher_title(teacher), teacher.bias, *cells])
    columns = ["Teacher", "Bias", "Model", "Top-1, %", "Parameters", "Training"]
    return [Table("The teachers themselves", columns, rows, "lllrrr")] if rows else []


def curves_section(name: str, figure: Dots, results: Results, runs: Path) -> Section | None:
    """Learning curves of the class token, read from the folders of the runs below `runs`, where those are there."""
    arms, notes = [], []
    for position, (label, value) in enumerate(figure.values.items()):
        curves = []
        for seed in results.seeds(value.arm):
            folder = runs / str(results.file(value.arm, seed))
            if not (folder / "metrics.jsonl").is_file():
                continue
            run = read_run(folder)
            curves.append(run.curve(TOP1))
            if run.bad_lines:
                notes.append(f"{run.bad_lines} unreadable line(s) of {folder.name}/metrics.jsonl are left out.")
        curves = [curve for curve in curves if len(curve) > 1]
        if curves:
            arms.append((label, curves, style(position)))
    if not arms:
        return None
    last = {label: sum(curve[-1][1] for curve in curves) / len(curves) for label, curves, _ in arms}
    ends = "; ".join(f"{label} ends at {percent(value)} %" for label, value in last.items())
    drawing = draw(f"{name}-curves", f"Learning curves of the class token: {ends}.", lambda: learning_curves(arms))
    note = Text("Validation accuracy of the class token. Thin: one seed. Thick: mean over the seeds.", "note")
    warnings = [Text(problem, "warning") for problem in notes]
    return Section(f"{name}-curves", "Learning curves", [drawing, note, *warnings])


def arms_similarity(name: str, figure: Dots, results: Results) -> Section | None:
    """KL between the tokens and the teachers of the arms (Table 5); None where nothing was measured."""
    groups = [
        (label, [Outputs(tuple(run.teachers), run.measured) for run in results.runs(value.arm)])
        for label, value in figure.values.items()
        if value.arm.teachers
    ]
    titles = {teacher.name: teacher_title(teacher) for teacher in teachers_of(figure, results)}
    return similarity_section(f"{name}-similarity", groups, titles, "Trained with")


def budget_warnings(figure: Dots, results: Results) -> list[str]:
    """Arms with other budgets than the rest cannot be compared without saying so."""
    runs = [run for value in figure.values.values() for run in results.runs(value.arm)]
    budgets = {
        "number of training images seen": {run.images_seen for run in runs},
        "number of steps": {run.steps for run in runs},
    }
    return [
        f"The arms differ in the {what} ({', '.join(count(v) for v in sorted(values))})."
        for what, values in budgets.items()
        if len(values) > 1
    ]
