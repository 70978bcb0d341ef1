"""Result files → one page that a reader can judge: `write_report` for a demo, `run_report` for one run.

Reads only files (no torch): see `report_inputs` for their form, `report_demo` for what is said about them,
`report_page` for how it is written.
"""

from __future__ import annotations

from pathlib import Path

from ..names import CLASS
from . import demo_words as words
from .inputs import Demo, read_demo
from .page import Page, Section, Text, write_page
from .plots.accuracy import DotRow, dot_plot, learning_curves
from .plots.disagreement import disagreement_figure
from .plots.style import Drawing, Style, draw, style
from .provenance import provenance_section
from .similarity import similarity_section
from .tables import NONE, Table, count, mean_sd, percent


def write_report(folder: Path) -> Path:
    """Report of a demo: reads `demo.json` and the runs it names, writes report.html, report.md and figures/.

    Runs that are missing are named in the report; the rest is reported.

    Returns:
        The path of `report.html`.

    Raises:
        RunError: `folder` holds no readable `demo.json`.
    """
    folder = Path(folder)
    return write_page(demo_page(read_demo(folder)), folder)


def demo_page(demo: Demo) -> Page:
    """A demo's report as data."""
    comparisons = words.compare(demo)
    runs = [(arm.label, run) for arm in demo.arms for run in arm.runs]
    sections = [
        _result_section(demo),
        Section(
            "verdicts",
            "What the numbers decide",
            [
                *(Text(sentence) for sentence in words.same_against_cross(demo, comparisons)),
                *([words.verdicts_table(comparisons)] if comparisons else [Text("No comparison was planned.")]),
                Text(words.VERDICT_NOTE, "note"),
            ],
        ),
        _curves_section(demo),
        _tokens_section(demo),
        similarity_section([(arm.label, arm.runs) for arm in demo.arms], _labels(demo), "Trained with"),
        _disagreement_section(demo),
        provenance_section([*runs, *((f"teacher {t.label}", t.run) for t in demo.teachers if t.run)]),
    ]
    return Page(
        title=demo.title,
        headline=words.headline(demo, comparisons),
        lead=words.what_was_done(demo),
        sections=[section for section in sections if section is not None],
        warnings=[*demo.notes, *_budget_notes(demo)],
    )


def _labels(demo: Demo) -> dict[str, str]:
    names = [teacher.name for teacher in demo.teachers] + [name for arm in demo.arms for name in arm.teachers]
    return {name: demo.teacher_label(name) for name in names}


def _styles(demo: Demo) -> list[Style]:
    """One style an arm; labels only is always the baseline in ink."""
    position, found = 0, []
    for arm in demo.arms:
        position += arm.kind != "labels"
        found.append(style(0 if arm.kind == "labels" else position))
    return found


def _budget_notes(demo: Demo) -> list[str]:
    """Runs that differ in budget, seeds or data cannot be compared without saying so."""
    notes = []
    for field, what in (("images_seen", "number of training images seen"), ("steps", "number of steps")):
        values = {run.result[field] for arm in demo.arms for run in arm.runs if field in run.result}
        if len(values) > 1:
            notes.append(f"The arms differ in the {what} ({', '.join(count(v) for v in sorted(values))}).")
    done = {arm.label: len(arm.by_seed) for arm in demo.arms}
    for label in [label for label, n in done.items() if n == 0]:
        notes.append(f"{label}: no finished run, so this arm has no numbers.")
    return notes


def _result_section(demo: Demo) -> Section:
    parts: list[Text | Table | Drawing] = [words.arms_table(demo)]
    teachers = words.teachers_table(demo)
    rows = [
        DotRow(arm.label, list(arm.by_seed.values()), words.summary(arm), look)
        for arm, look in zip(demo.arms, _styles(demo), strict=True)
        if arm.by_seed
    ]
    if rows:
        marks = [
            (f"teacher: {demo.teacher_label(t.name)}", t.run.accuracy)
            for t in demo.teachers
            if t.run and t.run.accuracy is not None
        ]
        said = "; ".join(f"{row.label} {mean_sd(row.summary)} % (n = {len(row.values)})" for row in rows)
        alt = f"Dot plot of top-1 accuracy by arm: {said}."
        parts.append(draw("accuracy", alt, lambda: dot_plot(rows, marks)))
        parts.append(
            Text("Small: one run. Large: mean. Bar: 95 % t-interval of the mean (needs n ≥ 2). Star: teacher.", "note")
        )
    if teachers:
        parts.append(teachers)
    return Section("result", "Accuracy", parts)


def _curves_section(demo: Demo) -> Section | None:
    arms = [
        (arm.label, [curve for run in arm.runs if (curve := run.curve(f"accuracy/{CLASS}"))], look)
        for arm, look in zip(demo.arms, _styles(demo), strict=True)
    ]
    arms = [arm for arm in arms if arm[1]]
    if not arms:
        return None
    said = "; ".join(
        f"{label} ends at {percent(sum(c[-1][1] for c in curves) / len(curves))} %" for label, curves, _ in arms
    )
    drawing = draw("learning-curves", f"Learning curves of the class token: {said}.", lambda: learning_curves(arms))
    note = Text("Validation accuracy of the class token. Thin: one seed. Thick: mean over the seeds.", "note")
    return Section("curves", "Learning curves", [drawing, note])


def _tokens_section(demo: Demo) -> Section | None:
    table = words.tokens_table(demo)
    if table is None:
        return None
    note = "At inference the class token alone answers; “average” takes the mean of all heads' logits."
    return Section("tokens", "Accuracy of each token", [table, Text(note, "note")])


def _disagreement_section(demo: Demo) -> Section | None:
    if not demo.images:
        return None
    images, names = demo.images, demo.classes
    models = list(dict.fromkeys(name for image in images for name in image.outputs))
    rows = []
    for image in images:
        cells = []
        for model in models:
            shares = image.outputs.get(model)
            if shares is None:
                cells.append(NONE)
                continue
            best = max(range(len(shares)), key=shares.__getitem__)
            cells.append(f"{'✓' if best == image.label else '✗'} {names[best]} ({shares[best]:.2f})")
        rows.append([str(image.index) if image.index >= 0 else NONE, names[image.label], *cells])
    table = Table(
        "Predicted class (probability) of each model", ["Image", "True class", *models], rows, "rl" + "l" * len(models)
    )
    said = "; ".join(
        f"{m} is right on {sum(r[2 + i].startswith('✓') for r in rows)} of {len(rows)}" for i, m in enumerate(models)
    )
    drawing = draw(
        "disagreements",
        f"Class probabilities on {len(images)} chosen images: {said}.",
        lambda: disagreement_figure(images, names),
    )
    note = (
        "Images on which the teachers disagree, chosen for that: they show how advice combines, not how often. "
        "Shaded: the true class. Green with ✓: predicted and right; orange with ✗: predicted and wrong. With "
        "more than ten classes only the likeliest are shown."
    )
    return Section("disagreements", "Where the teachers disagree", [drawing, Text(note, "note"), table])
