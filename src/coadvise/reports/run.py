"""The report of one training run: how the loss fell, what each output reached, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..names import CLASS
from ..run.reading import Run, finite, read_run
from .page import Page, Section, Text, write_page
from .plots.accuracy import Curve, run_curves
from .plots.style import Drawing, draw
from .provenance import provenance_section
from .similarity import similarity_section
from .tables import NONE, Table, count, duration, number, parameters, percent


def run_page(run: Run) -> Page:
    """One run's report as data."""
    result = run.result
    name = str(result.get("name") or run.path)
    warnings = [] if result else ["This run has not finished; the page shows what it has logged so far."]
    if run.bad_lines:
        warnings.append(f"{run.bad_lines} unreadable line(s) of metrics.jsonl are left out.")
    warnings += [
        f"{count(n)} unreadable image(s) of the {part} set were skipped."
        for part, n in (result.get("skipped") or {}).items()
        if n
    ]
    sections = [
        _run_curves_section(run),
        _run_accuracy_section(run),
        similarity_section([(name, [run])], {}, "Run"),
        provenance_section([(name, run)]) if result else None,
        Section("recipe", "Recipe", [Text(run.recipe, "code")], folded=True) if run.recipe else None,
    ]
    return Page(name, _run_headline(run), _run_lead(run), [s for s in sections if s is not None], warnings)


def _run_headline(run: Run) -> str:
    if run.accuracy is not None:
        epochs = run.result.get("epochs")
        after = f" after {count(epochs)} epochs" if epochs is not None else ""
        return f"{percent(run.accuracy)} % top-1 of the class token{after}"
    curve = run.curve(f"accuracy/{CLASS}")
    if curve:
        return f"Not finished: {percent(curve[-1][1])} % top-1 of the class token after {curve[-1][0]:g} epochs"
    return "No accuracy has been measured yet"


def _run_lead(run: Run) -> list[str]:
    result = run.result
    student, data = result.get("student") or {}, result.get("data") or {}
    sentences = []
    if student and data:
        sentences.append(
            f"{student.get('model', 'The model')} ({parameters(finite(student.get('parameters')))} parameters) was "
            f"trained on {count(finite(data.get('train')))} images of {data.get('source', 'the data')} and "
            f"measured on {count(finite(data.get('val')))} held-out images."
        )
    seconds, seen = finite(result.get("seconds")), finite(result.get("images_seen"))
    if seconds and seen:
        sentences.append(
            f"It took {duration(seconds)} for {count(finite(result.get('steps')))} steps, "
            f"{count(seen / seconds)} images/s."
        )
    best = result.get("best") or {}
    if finite(best.get("value")) is not None:
        sentences.append(
            f"The best evaluation was {percent(best['value'])} % after epoch {best.get('epoch', '?')} "
            f"({best.get('weights', 'model')} weights); being picked on these very images, it is no "
            "fair estimate."
        )
    return sentences


def _run_curves_section(run: Run) -> Section | None:
    steps = [line for line in run.lines if line.get("kind") == "train" and "step" in line]
    names = list(dict.fromkeys(name for line in steps for name in line.get("terms") or {}))
    terms: dict[str, Curve] = {
        name: [(line["step"], v) for line in steps if (v := finite((line.get("terms") or {}).get(name))) is not None]
        for name in names
    }
    rate = [(line["step"], v) for line in steps if (v := finite(line.get("lr"))) is not None]
    tokens = list(
        dict.fromkeys(
            key
            for line in run.lines
            if line.get("kind") == "eval"
            for key in line.get("metrics") or {}
            if key.startswith("accuracy/")
        )
    )
    accuracy: dict[str, Curve] = {key.removeprefix("accuracy/"): run.curve(key) for key in tokens}
    averaged = run.curve(f"accuracy/{CLASS}", "ema")
    if averaged:
        accuracy[f"{CLASS} (EMA weights)"] = averaged
    if not steps and not tokens:
        return None
    ends = ", ".join(f"{name} {percent(curve[-1][1])} %" for name, curve in accuracy.items() if curve)
    alt = f"Loss terms ({', '.join(names) or 'none'}) and learning rate by step; accuracy by epoch, last: {ends}."
    return Section("curves", "Training", [draw("training", alt, lambda: run_curves(terms, rate, accuracy))])


def _run_accuracy_section(run: Run) -> Section | None:
    if not run.tokens:
        return None
    averaged = run.result.get("ema") or {}
    columns = ["Output", "Top-1, %", "Cross entropy, nats", *(["Top-1 of EMA weights, %"] if averaged else [])]
    rows = []
    for name in run.tokens:
        row = [name, percent(finite(run.final.get(f"accuracy/{name}")))]
        row.append(number(finite(run.final.get(f"loss/{name}"))))
        rows.append([*row, *([percent(finite(averaged.get(f"accuracy/{name}")))] if averaged else [])])
    parts: list[Text | Table | Drawing] = [Table("After the last epoch", columns, rows)]
    teachers = run.result.get("teachers") or {}
    if teachers:
        parts.append(_teachers_table(run, teachers))
    return Section("accuracy", "Accuracy", parts)


def _teachers_table(run: Run, teachers: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for name, facts in teachers.items():
        checked = percent(finite(facts.get("accuracy")))
        if finite(facts.get("samples")):
            checked += f" of {count(finite(facts['samples']))}"
        whole = percent(finite(run.final.get(f"teacher/{name}")))
        size = parameters(finite(facts.get("parameters")))
        rows.append([name, str(facts.get("model", NONE)), str(facts.get("bias") or NONE), checked, whole, size])
    columns = ["Teacher", "Model", "Bias", "Top-1 checked before, % of images", "Top-1 at the end, %", "Parameters"]
    return Table("Teachers, on the validation set", columns, rows, "lllrrr")


def run_report(run_folder: Path) -> Path:
    """Report of one training run, finished or not; writes report.html and figures/ into its folder.

    Returns:
        The path of `report.html`.

    Raises:
        RunError: the folder holds neither `result.json` nor `metrics.jsonl`, or a result that is unreadable.
    """
    run_folder = Path(run_folder)
    return write_page(run_page(read_run(run_folder)), run_folder, with_markdown=False)
