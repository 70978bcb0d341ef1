"""The report of experiments: the paper's number and ours side by side, and the verdicts on the claims.

It is made of result files alone, and of learning curves where the runs' folders are there. The same files give the
same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..paper.declared import Experiment
from ..run.headroom import HEADROOM, NAME, HeadroomResult
from ..run.measurement import Measurement
from ..system.files import write_atomic, write_json
from .arms import arms_section, arms_similarity, curves_section, shown_in_detail
from .beyond import beyond_section
from .claims import Judged, judge
from .contrasts import Answered, answer, primary_headline
from .experiment import experiment_section, experiment_table
from .headline import headline, lead
from .headroom import headroom_section
from .page import Folded, Page, Part, Section, Text, write_page
from .pictures import disagreement_parts, pictures_of
from .problems import warnings_of
from .provenance import provenance_section
from .results import About, Results
from .slope import slope_section, taught_by_others
from .summary import experiments_summary
from .tables import Table, latex_table
from .titles import arm_title
from .verdicts import claims_section


def write_paper_report(
    output: Path, files: Mapping[str, Measurement], experiments: Sequence[Experiment], about: About
) -> Path:
    """Write report.html, report.md, figures/, tables/NAME.tex and verdicts.json.

    Args:
        files: name of a result file → its content.

    Returns:
        The path of `report.html`.
    """
    results = Results(files)
    judged = {one.name: judge(one, results) for one in experiments}
    claims = [claim for one in experiments for claim in judged[one.name]]
    for one in experiments:
        write_atomic(output / "tables" / f"{one.name}.tex", latex_table(experiment_table(one, results)))
    answers = {one.name: answer(one, results) for one in experiments}
    contrasts = [answered for one in experiments for answered in answers[one.name]]
    write_json(output / "verdicts.json", [*(one.as_json() for one in claims), *(one.as_json() for one in contrasts)])
    asked = None if any(one.of_paper for one in experiments) or not files else primary_headline(contrasts)
    what = experiments[0].title if len(experiments) == 1 else "Beyond the paper"
    what = "The paper's experiments" if any(one.of_paper for one in experiments) else what
    page = Page(
        title=f"{what} on {about.title}",
        headline=asked or headline(experiments, claims, results),
        lead=lead(experiments, results, about),
        sections=[
            section
            for section in _sections(output, results, experiments, judged, answers, about)
            if section is not None
        ],
        warnings=warnings_of(experiments, results, about),
        summary=experiments_summary(experiments, claims, contrasts, results, about),
    )
    return write_page(page, output)


def scale_section(about: About) -> Section | None:
    """What differs from the paper: in sentences, and setting by setting."""
    parts: list[Part] = [Text(text) for text in about.particulars]
    rows = [[name, before, here if here != before else "the same"] for name, before, here in about.settings]
    if rows:
        changed = sum(before != here for _, before, here in about.settings)
        caption = f"{changed} of {len(rows)} settings differ from the paper's, or from its authors' code"
        parts.append(Folded(caption, [Table("", ["Setting", "Paper", "Here"], rows, "lll")]))
    return Section("scale", "What this scale changes", parts) if parts else None


def _sections(
    output: Path,
    results: Results,
    experiments: Sequence[Experiment],
    judged: Mapping[str, Sequence[Judged]],
    answers: Mapping[str, Sequence[Answered]],
    about: About,
) -> Iterator[Section | None]:
    """In reading order; None for what was not measured."""
    papers = [one for one in experiments if one.of_paper]
    detailed = shown_in_detail(experiments)
    pictures = pictures_of(output, results)
    scale = scale_section(about)
    if papers:
        yield scale
        yield claims_section(papers, judged)
    for name, figure in detailed.items():
        yield arms_section(name, figure, results)
    for one in experiments:
        yield experiment_section(one, results, judged[one.name], pictures, answers[one.name])
    for name, figure in detailed.items():
        yield curves_section(name, figure, results, output / "runs")
        yield arms_similarity(name, figure, results)
    shown = any(one.figure == "single images" for one in experiments)
    if pictures and not shown and any("single images" in one.needs for one in experiments):
        yield Section("disagreements", "Where the teachers disagree", disagreement_parts("disagreements", pictures))
    if not papers:
        yield scale
    yield beyond_section(experiments, results, pictures)
    if (output / HEADROOM / NAME).is_file():
        headroom = HeadroomResult.read(output / HEADROOM / NAME)
        yield headroom_section(headroom, taught_by_others(results, headroom))
        yield slope_section(experiments, results, headroom)
    if results.files:
        titles = {arm.id: arm_title(arm) for one in experiments for arm in one.arms()}
        files = sorted(results.files.items())
        yield provenance_section([(titles.get(run.arm, run.arm), f"{name}.json", run) for name, run in files])
