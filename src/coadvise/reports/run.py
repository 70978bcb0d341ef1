"""The report of one training run: its curves, the accuracy of each output, and its provenance."""

from __future__ import annotations

from pathlib import Path

from ..errors import RunError
from ..names import CLASS, TOP1
from ..run.reading import RunFiles, finite, read_run
from ..run.result import RunResult
from .page import Page, Section, Text, write_page
from .plots.accuracy import Curve, run_curves
from .plots.style import draw
from .provenance import provenance_section
from .similarity import Outputs, similarity_section
from .tables import ABSENT, Table, count, duration, number, parameters, percent


def run_page(run: RunFiles) -> Page:
    """One run's report as data."""
    result = run.result
    name = run.path if result is None else result.name
    warnings = [] if result else ["This run has not finished; the page shows what it has logged so far."]
    if run.bad_lines:
        warnings.append(f"{run.bad_lines} unreadable line(s) of metrics.jsonl are left out.")
    if result is not None:
        for part, n in (("train", result.skipped.train), ("val", result.skipped.val)):
            warnings += [f"{count(n)} unreadable image(s) of the {part} set were skipped."] if n else []
    sections = [_curves_section(run)]
    if result is not None:
        groups = [(name, [Outputs(tuple(result.teachers), result.final)])]
        sections += [_accuracy_section(result), similarity_section("similarity", groups, {}, "Run")]
        sections.append(provenance_section([(name, run.path, result)]))
    sections += [Section("recipe", "Recipe", [Text(run.recipe, "code")], folded=True)] if run.recipe else []
    return Page(name, _headline(run), _lead(result), [s for s in sections if s is not None], warnings)


def _headline(run: RunFiles) -> str:
    if run.result is not None and run.result.accuracy is not None:
        return f"{percent(run.result.accuracy)} % top-1 of the class token after {count(run.result.epochs)} epochs"
    if curve := run.curve(TOP1):
        return f"Not finished: {percent(curve[-1][1])} % top-1 of the class token after {curve[-1][0]:g} epochs"
    return "No accuracy has been measured yet"


def _lead(result: RunResult | None) -> list[str]:
    if result is None:
        return []
    student, data, best = result.student, result.data, result.best
    sentences = [
        f"{student.model} ({parameters(student.parameters)} parameters) was trained on {count(data.train)} images of "
        f"{data.source} and measured on {count(data.val)} held-out images."
    ]
    if result.seconds and result.images_seen:
        speed = count(result.images_seen / result.seconds)
        sentences.append(f"It took {duration(result.seconds)} for {count(result.steps)} steps, {speed} images/s.")
    sentences.append(
        f"The best evaluation was {percent(best.value)} % after epoch {best.epoch} ({best.weights} weights); being "
        "picked on these very images, it is no fair estimate."
    )
    return sentences


def _curves_section(run: RunFiles) -> Section | None:
    steps = [line for line in run.lines if line.get("kind") == "train" and "step" in line]
    names = list(dict.fromkeys(name for line in steps for name in line.get("terms") or {}))
    terms: dict[str, Curve] = {
        name: [(line["step"], v) for line in steps if (v := finite((line.get("terms") or {}).get(name))) is not None]
        for name in names
    }
    rate = [(line["step"], v) for line in steps if (v := finite(line.get("lr"))) is not None]
    evaluations = [line.get("metrics") or {} for line in run.lines if line.get("kind") == "eval"]
    tokens = list(dict.fromkeys(key for metrics in evaluations for key in metrics if key.startswith("accuracy/")))
    accuracy: dict[str, Curve] = {key.removeprefix("accuracy/"): run.curve(key) for key in tokens}
    if averaged := run.curve(TOP1, "ema"):
        accuracy[f"{CLASS} (EMA weights)"] = averaged
    if not steps and not tokens:
        return None
    ends = ", ".join(f"{name} {percent(curve[-1][1])} %" for name, curve in accuracy.items() if curve)
    alt = f"Loss terms ({', '.join(names) or 'none'}) and learning rate by step; accuracy by epoch, last: {ends}."
    return Section("curves", "Training", [draw("training", alt, lambda: run_curves(terms, rate, accuracy))])


def _accuracy_section(result: RunResult) -> Section | None:
    if not result.tokens:
        return None
    columns, rows = ["Output", "Top-1, %", "Cross entropy, nats"], []
    for name in result.tokens:
        rows.append([name, percent(result.final[f"accuracy/{name}"]), number(result.final.get(f"loss/{name}"))])
        if result.ema:
            rows[-1].append(percent(result.ema.get(f"accuracy/{name}")))
    table = Table("After the last epoch", [*columns, *(["Top-1 of EMA weights, %"] if result.ema else [])], rows)
    return Section("accuracy", "Accuracy", [table, *([_teachers_table(result)] if result.teachers else [])])


def _teachers_table(result: RunResult) -> Table:
    rows = []
    for name, facts in result.teachers.items():
        checked = percent(facts.accuracy) + (f" of {count(facts.samples)}" if facts.samples else "")
        whole = percent(result.final.get(f"teacher/{name}"))
        rows.append([name, facts.model, facts.bias or ABSENT, checked, whole, parameters(facts.parameters)])
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
    if (run_folder / "demo.json").is_file():
        raise RunError(
            f"{run_folder} holds a demo of an earlier version, whose report this one does not write; see its "
            "report.html, or run `coadvise demo` with another --output"
        )
    if (run_folder / "reproduce.json").is_file():
        raise RunError(
            f"{run_folder} holds experiments and no single run; the command that made them (`coadvise reproduce` or "
            "`coadvise demo`) writes their report anew"
        )
    return write_page(run_page(read_run(run_folder)), run_folder, with_markdown=False)
