"""The report of re-run tables and figures: the paper's number and ours side by side, and what the claims are worth.

Reads result files alone (no torch). The same files give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..paper.ablations import FAMILIES, SEVEN_ARMS, SEVEN_TITLES
from ..paper.ablations import NONE as LABELS_ONLY
from ..paper.declared import BEST, MARGIN, Column, Experiment, Row, Value
from ..run.reading import Run
from ..significance import DOES_NOT_HOLD, HOLDS, Summary, summarise
from ..system.files import read_json, write_atomic, write_json
from .beyond import beyond_section
from .claims import NO_MEANING, NOT_MEASURED, Judged, Results, judge, why_absent
from .inputs import read_disagreements
from .page import Page, Section, Text, write_page
from .plots.accuracy import DotRow, dot_plot
from .plots.disagreement import disagreement_figure
from .plots.paper import Family, Pair, Point, differences_figure, parameters_figure, teachers_figure
from .plots.style import Drawing, draw, style
from .provenance import provenance_section
from .tables import NONE, Cell, Table, count, latex_table, mean_sd, number, p_value

_SCALE = {"%": 100.0, "M": 1e-6}


def write_paper_report(
    output: Path, files: Mapping[str, Mapping[str, Any]], experiments: Sequence[Experiment], scale: Mapping[str, Any]
) -> Path:
    """Write report.html, report.md, figures/, tables/NAME.tex and verdicts.json.

    Args:
        files: name of a result file → its content.
        scale: `name`, `title`, `seeds` asked for; `given`, arms whose weights were given; `changed`, settings;
            `particulars`, sentences on what differs from the paper.

    Returns:
        The path of `report.html`.
    """
    results = Results(files)
    judged = {one.name: judge(one, results) for one in experiments}
    papers = [one for one in experiments if one.of_paper]
    particulars = [Text(text) for text in scale.get("particulars", ())]
    sections = [Section("scale", "What this scale changes beside sizes", particulars)] if particulars else []
    sections += [_claims_section(papers, judged)] if papers else []
    seven = _seven_section(results)
    sections += [seven] if seven and any(one.name == "table6" for one in experiments) else []
    pictures = _pictures(output, results)
    for one in experiments:
        sections.append(_experiment_section(one, results, judged[one.name], pictures))
        write_atomic(output / "tables" / f"{one.name}.tex", latex_table(_table(one, results)))
    beyond = beyond_section(experiments, results, pictures / "attention.json" if pictures else None)
    sections += [beyond] if beyond else []
    runs = [(content["arm"], Run(f"{name}.json", _as_run(content), ())) for name, content in sorted(files.items())]
    sections += [provenance_section(runs)] if runs else []
    write_json(output / "verdicts.json", [one.as_json() for claims in judged.values() for one in claims])
    what = "The paper's experiments" if papers else "Beyond the paper"
    page = Page(
        title=f"{what} on {scale['title']}",
        headline=_headline([claim for one in papers for claim in judged[one.name]], results),
        lead=_lead(results, scale, bool(papers)),
        sections=sections,
        warnings=_warnings(experiments, results, scale),
    )
    return write_page(page, output)


def _pictures(output: Path, results: Results) -> Path | None:
    """The folder of what was made of single images, where that is of these runs and not of earlier ones."""
    path = output / "figure2.json"
    ids = {content["id"] for content in results.files.values()}
    return output if path.is_file() and set(read_json(path).get("runs", [""])) <= ids else None


def _as_run(content: Mapping[str, Any]) -> dict[str, Any]:
    return {**content, "fingerprint": content.get("id")}


def _headline(judged: Sequence[Judged], results: Results) -> str:
    if not results.files:
        return "No finished run yet"
    if not judged:
        return f"{_runs(len(results.files))} finished"
    word = lambda verdict: sum(one.verdict == verdict for one in judged)
    holds, fails, absent, void = word(HOLDS), word(DOES_NOT_HOLD), word(NOT_MEASURED), word(NO_MEANING)
    undecided = len(judged) - holds - fails - absent - void
    plural = lambda n, one, many: f"{n} {one if n == 1 else many}"
    parts = [f"{plural(holds, 'holds', 'hold')} here", f"{plural(fails, 'does', 'do')} not"]
    parts += [f"{plural(undecided, 'is', 'are')} undecided"]
    parts += [f"{plural(void, 'means', 'mean')} nothing at this scale"] if void else []
    parts += [f"{plural(absent, 'is', 'are')} not measured"] if absent else []
    return f"Of {_claims(len(judged))} of the paper {', '.join(parts[:-1])} and {parts[-1]}"


def _runs(n: int) -> str:
    return f"{n:,} run{'' if n == 1 else 's'}"


def _claims(n: int) -> str:
    return f"{n} claim{'' if n == 1 else 's'}"


def _lead(results: Results, scale: Mapping[str, Any], of_paper: bool) -> list[str]:
    if not results.files:
        return []
    seeds = int(scale["seeds"])
    facts: Mapping[str, Any] = next(iter(results.files.values())).get("data", {})
    compared = (
        "The paper's numbers are those of its own data and sizes, so they are to be compared in their order and their "
        "differences, not in their height."
    )
    return [
        f"{_runs(len(results.files))} for {seeds} seed{'s' if seeds > 1 else ''} on {scale['title']}: "
        f"{count(facts.get('train'))} training and {count(facts.get('val'))} validation images of "
        f"{len(facts.get('classes', ()))} classes.",
        *([compared] if of_paper else []),
        "Each claim is tested over the seeds (two-sided t-test of the differences, Holm's correction over the claims "
        "of its table); with one seed nothing can be tested. That two models are about equal is tested against a "
        f"margin of {100 * MARGIN:g} points, as what the paper calls similar differs by up to 1.3; such claims of a "
        "table are corrected among themselves.",
        "The seeds are the students': all students of a teacher "
        "learn from the same run of it, so a verdict about kinds of teachers is about these teachers.",
        "Top-1, losses and divergences are those of the last epoch. Where a run was evaluated more than once, all "
        "other measures, and the teachers' advice, are of the epoch with the best top-1.",
        *_departures(scale),
    ]


def _departures(scale: Mapping[str, Any]) -> list[str]:
    given, changed = sorted(scale.get("given", ())), scale.get("changed", ())
    texts = [f"In place of the scale's own settings: {', '.join(changed)}."] if changed else []
    return texts + ([f"Weights were given, not trained, for {', '.join(given)}: one run each."] if given else [])


def _warnings(experiments: Sequence[Experiment], results: Results, scale: Mapping[str, Any]) -> list[str]:
    return [*_unfinished(experiments, results, scale), *_mixtures(experiments, results)]


def _mixed_precision(experiments: Sequence[Experiment], results: Results) -> list[str]:
    """Claims in which runs of one seed were trained in different precisions."""
    found = []
    for claim in (claim for one in experiments for claim in one.claims if not claim.compared):
        for seed in {seed for value in claim.values for seed in results.seeds(value.arm)}:
            runs = [results.content(value.arm, seed) for value in claim.values if seed in results.seeds(value.arm)]
            if len({str(run.get("provenance", {}).get("precision")) for run in runs}) > 1:
                found.append(claim.text)
                break
    return list(dict.fromkeys(found))


def _mixtures(experiments: Sequence[Experiment], results: Results) -> list[str]:
    """What keeps results of different machines from adding up."""
    found = []
    for group in ("corruptions", "a", "r"):
        made = {
            content.get("sources", {}).get(group, "made on the fly" if group == "corruptions" else "not named")
            for content in results.files.values()
            if group in content.get("groups", ())
        }
        if len(made) > 1:
            found.append(
                f"Not comparable: {group} was measured on different images ({', '.join(sorted(made))}); give the same "
                "--shifted in every call."
            )
    if mixed := _mixed_precision(experiments, results):
        found.append(f"Claims for which runs of different precision are compared: {'; '.join(mixed)}.")
    weights: dict[str, set[str]] = {}
    for content in results.files.values():
        for name, digest in content.get("teacher_weights", {}).items():
            weights.setdefault(name, set()).add(digest)
    several = sorted(name for name, digests in weights.items() if len(digests) > 1)
    if several:
        found.append(
            f"Students were taught by more than one training of {', '.join(several)}: the spread over the seeds holds "
            "the teachers', too. Carry the folders of the teachers' runs along with the result files."
        )
    return found


def _unfinished(experiments: Sequence[Experiment], results: Results, scale: Mapping[str, Any]) -> list[str]:
    seeds, wanted = int(scale["seeds"]), dict[str, int]()
    for experiment in experiments:
        for value in experiment.values():
            if value.arm.id in scale.get("given", ()) and results.seeds(value.arm):
                continue
            have = len(results.seeds(value.arm))
            if have < (1 if value.seed is not None else seeds):
                wanted[value.arm.id] = have
    if not wanted:
        return []
    few = ", ".join(f"{name} ({have})" for name, have in list(wanted.items())[:8])
    more = f" and {len(wanted) - 8} more" if len(wanted) > 8 else ""
    return [f"Arms with fewer than {seeds} finished runs: {few}{more}. The same command goes on."]


# --- claims ------------------------------------------------------------------------------------------------


def _claims_section(experiments: Sequence[Experiment], judged: Mapping[str, Sequence[Judged]]) -> Section:
    rows = [
        [_name(one.name), claim.claim.text, *_claim_cells(claim)] for one in experiments for claim in judged[one.name]
    ]
    columns = ["In", "Claim", "Difference", "n", "p (Holm)", "Verdict"]
    table = Table("What the paper claims and what was found", columns, rows, "llrrrl")
    note = (
        "Differences are in percentage points where no unit is given, and in the claim's own direction: above zero "
        "speaks for it. Where a margin stands beside a difference, such as ±1.5, the claim is that it is nearer to "
        "zero than that, or below it, and p is about its distance to the margin. The files behind each are named in "
        "verdicts.json."
    )
    parts: list[Text | Table | Drawing] = [table, Text(note, "note")] if rows else [Text("No claim belongs to these.")]
    return Section("claims", "The claims", parts)


def _claim_cells(one: Judged) -> list[str | Cell]:
    kind = {HOLDS: "good", DOES_NOT_HOLD: "bad"}.get(one.verdict, "open")
    if one.claim.compared and one.differences:
        return [
            _shown(next(iter(one.differences.values())), one.claim.unit, True),
            NONE,
            "compared",
            Cell(one.verdict, kind),
        ]
    if one.test is None:
        return [NONE, "0", NONE, Cell(one.verdict, kind)]
    margin = "" if one.claim.margin is None else _shown(one.claim.margin, one.claim.unit)
    margin = f" (±{margin})" if one.claim.within is not None else f" (< {margin})" if margin else ""
    shown = _shown(one.test.mean, one.claim.unit, True) + margin
    return [shown, str(one.test.n), p_value(one.p), Cell(one.verdict, kind)]


def _detail_table(judged: Sequence[Judged]) -> Table:
    rows = []
    for one in judged:
        interval = NONE
        if one.test is not None and one.test.low is not None and one.test.high is not None:
            low, high = (_shown(v, one.claim.unit, True) for v in (one.test.low, one.test.high))
            interval = f"{low} … {high}"
        difference, n, p, cell = _claim_cells(one)
        rows.append([one.claim.text, one.claim.place, difference, interval, n, p, cell, one.reason or NONE])
    columns = ["Claim", "Place", "Difference", "95 % interval, uncorrected", "n", "p (Holm)", "Verdict", "Remark"]
    return Table("Claims", columns, rows, "llrrrrll")


# --- one experiment ----------------------------------------------------------------------------------------


def _name(name: str) -> str:
    return re.sub(r"(?=\d)", " ", name, count=1).capitalize()


def _experiment_section(one: Experiment, results: Results, judged: Sequence[Judged], pictures: Path | None) -> Section:
    parts: list[Text | Table | Drawing] = []
    if drawing := _drawing(one, results, pictures):
        parts.append(drawing)
    parts.append(_table(one, results))
    parts += [Text(text, "note") for text in _absent(one, results)]
    if judged:
        parts.append(_detail_table(judged))
    parts += [Text(note, "note") for note in one.notes]
    return Section(one.name, f"{_name(one.name)}: {one.title}", parts)


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
    counts = {
        results.content(arm, seed).get("detail", {}).get("corrupted images")
        for arm in corrupted
        for seed in results.seeds(arm)
    } - {None}
    if counts:
        found.append(f"Of the validation images {' or '.join(f'{n:,}' for n in sorted(counts))} were corrupted.")
    return found


def _table(one: Experiment, results: Results) -> Table:
    columns, align = list(one.heads), "l" * len(one.heads)
    for column in one.columns:
        columns += [f"{column.title}: paper", "ours"] if one.of_paper else [column.title]
        align += "rr" if one.of_paper else "r"
    columns, align = [*columns, "n"], align + "r"
    rows = []
    for row in one.rows:
        cells: list[str | Cell] = [*row.labels]
        for column in one.columns:
            printed = row.paper.get(column.key)
            if one.of_paper:
                cells.append(NONE if printed is None else _paper_number(printed, column))
            cells.append(_ours(row, column, results))
        counts = sorted({len(results.series(value)) for value in row.ours.values()} - {0})
        cells.append(", ".join(map(str, counts)) or "0")
        rows.append(cells)
    paper = f"; paper: {one.data}; ours" if one.of_paper else ""
    return Table(f"{one.title}{paper}: mean ± standard deviation over n runs", columns, rows, align)


def _paper_number(value: float, column: Column) -> str:
    return f"{value:g}" if column.unit in ("M", "images/s") else number(value, 3 if column.unit == "nat" else 2)


def _ours(row: Row, column: Column, results: Results) -> str:
    value = row.ours.get(column.key)
    series = list(results.series(value).values()) if value is not None else []
    if value is None or not series:
        return NONE
    if value.metric in BEST and (best := results.best(value)) is not None:
        return _shown(best, column.unit)
    summary = summarise(series)
    if column.unit == "%":
        return mean_sd(summary)
    text = _shown(summary.mean, column.unit)
    spread = summary.sd if summary.sd is not None and column.unit != "M" else None
    return text + (f" ± {_shown(spread, column.unit)}" if spread is not None else "")


def _shown(value: float, unit: str, signed: bool = False) -> str:
    value *= _SCALE.get(unit, 1.0)
    if unit == "%":
        text = number(value, 1)
    elif unit == "nat":
        text = number(value, 3)
    elif unit == "images/s":
        text = f"{value:,.0f}"
    else:
        text = f"{value:.3g}".replace("-", "−")
    if not signed:
        return text
    return (f"+{text}" if value > 0 and text.strip("0.") else text) + {"%": ""}.get(unit, f" {unit}")


# --- figures -----------------------------------------------------------------------------------------------


def _seven_section(results: Results) -> Section | None:
    drawing = _arms_figure("seven-arms", dict(zip(SEVEN_TITLES, map(Value, SEVEN_ARMS), strict=True)), results)
    note = "Small: one run. Large: mean. Bar: 95 % t-interval of the mean (needs two runs)."
    return Section("seven", "The arms that carry the claim", [drawing, Text(note, "note")]) if drawing else None


def _arms_figure(name: str, shown: Mapping[str, Value], results: Results) -> Drawing | None:
    rows = []
    for position, (label, value) in enumerate(shown.items()):
        values = list(results.series(value).values())
        if values:
            rows.append(DotRow(label, values, summarise(values), style(position)))
    if not rows:
        return None
    alt = "; ".join(f"{row.label} {mean_sd(row.summary)} %" for row in rows)
    return draw(name, f"Top-1 of Transformer-Ti by its teachers: {alt}.", lambda: dot_plot(rows, []))


def _drawing(one: Experiment, results: Results, pictures: Path | None) -> Drawing | None:
    if one.name == "figure1":
        return _figure1(one, results)
    if one.name == "figure2" and pictures:
        return _figure2(pictures)
    if one.name == "figure4":
        return _figure4(one, results)
    if one.name == "sweep":
        return _sweep_figure(one, results)
    if one.name in ("longer", "fresh"):
        return _arms_figure(one.name, {row.labels[0]: row.ours["top1"] for row in one.rows}, results)
    if one.name == "heads":
        answers = {row.labels[0]: row.ours.get("average", row.ours["top1"]) for row in one.rows}
        return _arms_figure(one.name, answers, results)
    return None


def _summary(value: Value, results: Results) -> Summary | None:
    values = list(results.series(value).values())
    return summarise(values) if values else None


def _figure1(one: Experiment, results: Results) -> Drawing | None:
    paper = [
        Point(row.labels[0], row.paper["parameters"], row.paper["top1"])
        for row in one.rows
        if "parameters" in row.paper
    ]
    ours = []
    for row in one.rows:
        size, top1 = _summary(row.ours["parameters"], results), _summary(row.ours["top1"], results)
        if size is not None and top1 is not None:
            spread = None if top1.sd is None else 100 * top1.sd
            ours.append(Point(row.labels[0], size.mean / 1e6, 100 * top1.mean, spread))
    if not ours:
        return None
    split = lambda points: ([p for p in points if p.label.startswith("D")], [p for p in points if p.label[0] == "C"])
    panels = [("paper (ImageNet-1k)", *split(paper)), ("ours", *split(ours))]
    said = ", ".join(f"{point.label} {point.y:.1f} %" for point in ours)
    return draw(
        "figure1", f"Top-1 against parameters, the paper's and ours: {said}.", lambda: parameters_figure(panels)
    )


def _figure2(pictures: Path) -> Drawing | None:
    classes, images = read_disagreements(pictures / "figure2.json", [])
    if not images:
        return None
    alt = f"Class probabilities of two teachers and two students on {len(images)} images."
    return draw("figure2", alt, lambda: disagreement_figure(images, classes))


def _sweep_figure(one: Experiment, results: Results) -> Drawing | None:
    """What both kinds with a token each gain over one teacher, and over a single token, under every change."""
    gains: dict[str, list[list[float]]] = {"over one teacher": [], "over a single token for both": []}
    rows = [row for row in one.rows if results.series(row.ours["both"])]
    for row in rows:
        both = results.series(row.ours["both"])
        for name, other in zip(gains, (results.series(row.ours[key]) for key in ("one", "single")), strict=True):
            gains[name].append([100 * (both[seed] - other[seed]) for seed in sorted(both.keys() & other.keys())])
    if not any(seeds for found in gains.values() for seeds in found):
        return None
    labels = [row.labels[0] for row in rows]
    alt = "What both kinds with a token each gain over one teacher and over a single token, under every change."
    return draw("sweep", alt, lambda: differences_figure(labels, list(gains.items())))


def _figure4(one: Experiment, results: Results) -> Drawing | None:
    families: dict[str, dict[str, list[Pair]]] = {"a": {}, "b": {}}
    for row in one.rows:
        panel, teacher, part = row.labels
        family = teacher.rpartition("-")[0] if panel == "b" else teacher
        x, y = _summary(row.ours["teacher"], results), _summary(row.ours["student"], results)
        if x is not None and y is not None:
            label = part if panel == "a" else teacher.rpartition("-")[2]
            spread = None if y.sd is None else 100 * y.sd
            families[panel].setdefault(family, []).append(Pair(100 * x.mean, 100 * y.mean, spread, label))
    if not any(families.values()):
        return None
    titles = {"a": "(a) teachers trained for a part of their epochs", "b": "(b) teachers of three sizes"}
    looks = {name: position for position, name in enumerate(FAMILIES, start=1)}
    panels = [
        (titles[k], [Family(name, points, looks[name.partition("-")[0]]) for name, points in found.items()])
        for k, found in families.items()
    ]
    base = _summary(Value(LABELS_ONLY), results)
    alt = "A student's top-1 against its teacher's, by family of teachers."
    return draw("figure4", alt, lambda: teachers_figure(panels, None if base is None else 100 * base.mean))
