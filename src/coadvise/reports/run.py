"""The report of one training run: its curves, the accuracy of each output, and its provenance."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import RunError
from ..run.answers import Answers
from ..run.looks import Look, Looks
from ..run.pictures import Picture, read_pictures
from ..run.reading import RunFiles, read_run
from ..run.result import RunResult
from ..run.several import SeveralAnswers
from ..run.standing import in_balance, verdict_of, which_part
from .classes import better_known, calibration_section, classes_section, pictures_section
from .curves import curves_section
from .page import Page, Section, Text, write_page
from .plots.style import draw
from .plots.tokens import looks_figure
from .provenance import provenance_section
from .run_summary import run_lead, run_summary
from .several import EACH, map_section, several_section
from .similarity import Outputs, similarity_section
from .tables import ABSENT, Table, count, duration, number, p_value, parameters, percent
from .words import output_title


def run_page(run: RunFiles, folder: Path | None = None) -> Page:
    """One run's report as data; with its folder also what depends on single images, which stand there."""
    result = run.result
    name = run.path if result is None else result.name
    warnings = [] if result else ["This run has not finished; the page shows what it has logged so far."]
    if run.bad_lines:
        warnings.append(f"{run.bad_lines} unreadable line(s) of metrics.jsonl are left out.")
    if result is not None:
        for part, n in (("train", result.skipped.train), ("val", result.skipped.val)):
            warnings += [f"{count(n)} unreadable image(s) of the {part} set were skipped."] if n else []
    sections, answers = [curves_section(run)], None
    if result is not None:
        groups = [(name, [Outputs(tuple(result.teachers), result.final)])]
        answers, pictures = _single_images(result, folder, warnings)
        if result.several is None:
            sections.insert(0, _accuracy_section(result, None if answers is None else better_known(answers)))
        else:
            sections[:0] = _several_sections(result, folder, warnings)
        if answers is not None:
            sections[1:1] = [classes_section(answers), pictures_section(pictures), _looks_section(folder, warnings)]
            sections.append(calibration_section(answers))
        similarity = similarity_section("similarity", groups, {}, "Run")
        if similarity is not None and result.several is not None:
            similarity = replace(similarity, parts=[EACH, *similarity.parts])
        sections.append(similarity)
        sections.append(provenance_section([(name, run.path, result)]))
    sections += [Section("recipe", "Recipe", [Text(run.recipe, "code")], folded=True)] if run.recipe else []
    place = folder or Path(run.path)
    said = None if result is None else verdict_of(result, place)
    shown = [section for section in sections if section is not None]
    if result is None or said is None:
        return Page(name, _headline(run), [] if result is None else run_lead(result), shown, warnings)
    return Page(name, said.headline, run_lead(result), shown, warnings, run_summary(result, said, answers, place))


def _several_sections(result: RunResult, folder: Path | None, warnings: list[str]) -> list[Section]:
    """Of a run on images that have any number of classes; what is wrong with its answers joins `warnings`."""
    sections = [map_section(result)]
    if folder is not None:
        try:
            sections.append(several_section(SeveralAnswers.read(folder / "answers.safetensors")))
        except RunError as error:
            warnings.append(f"What depends on single images is left out: {error}.")
    return sections


def _single_images(
    result: RunResult, folder: Path | None, warnings: list[str]
) -> tuple[Answers | None, Mapping[str, Sequence[Picture]] | None]:
    """Answers and pictures of a run, where it kept them; what is wrong with them joins `warnings`."""
    if folder is None or result.several is not None or not result.per_class:  # of an earlier version
        return None, None
    try:
        return Answers.read(folder / "answers.safetensors"), read_pictures(folder / "pictures.json")
    except RunError as error:
        warnings.append(f"What depends on single images is left out: {error}.")
        return None, None


def _looks_section(folder: Path | None, warnings: list[str]) -> Section | None:
    """Where each token looks in a few images."""
    title = "Where the tokens look"
    try:
        found = Looks() if folder is None else Looks.read(folder / "attention.json")
        rows = [(base64.b64decode(one.jpeg), _row(one), {output_title(k): np.asarray(v) for k, v in one.maps.items()})
                for one in found.images]  # fmt: skip
        if not rows:
            return Section("attention", title, [Text(f"Not shown: {found.why}.", "note")]) if found.why else None
        alt = f"Attention of the {', '.join(rows[0][2])} to the patches of {len(rows)} validation images."
        drawing = draw("attention", alt, lambda: looks_figure(rows))
    except (RunError, OSError, ValueError) as error:
        warnings.append(f"Where the tokens look is left out: {error}.")
        return None
    note = (
        "Attention of each token to the patches in the last block, mean over the heads, bright where it is largest in "
        "its own map; the image is as the student sees it. It shows what a token reads, not why it answers as it does."
    )
    return Section("attention", title, [drawing, Text(note, "note")])


def _row(one: Look) -> str:
    return f"{one.kind}\n{one.label} {'✓' if one.answer == one.label else f'✗ {one.answer}'}"


def _headline(run: RunFiles) -> str:
    who = output_title(run.answering)
    if curve := run.curve(f"accuracy/{run.answering}"):
        return f"Not finished: {percent(curve[-1][1])} % top-1 of the {who} after {curve[-1][0]:g} epochs"
    if curve := run.curve(f"map/{run.answering}"):
        return f"Not finished: mAP {percent(curve[-1][1])} % of the {who} after {curve[-1][0]:g} epochs"
    return "No accuracy has been measured yet"


def _accuracy_section(result: RunResult, known: Table | None) -> Section | None:
    if not result.tokens:
        return None
    columns, rows = ["Output", "Top-1, %", "Cross entropy, nats"], []
    calibrated = any(key.startswith("ece/") for key in result.metrics)
    columns += ["Calibration error, %"] if calibrated else []
    columns += ["Top-1 after the last epoch, %"] if result.delivered else []
    columns += ["Averaged weights then, %" if result.delivered else "Top-1 of EMA weights, %"] if result.ema else []
    for name in result.tokens:
        top1 = f"accuracy/{name}"
        rows.append([output_title(name), percent(result.metrics.get(top1)), number(result.metrics.get(f"loss/{name}"))])
        rows[-1] += [percent(result.metrics.get(f"ece/{name}"))] if calibrated else []
        rows[-1] += [percent(result.final[top1])] if result.delivered else []
        rows[-1] += [percent(result.ema.get(top1))] if result.ema else []
    caption = "The weights that this run delivers" if result.delivered else "After the last epoch"
    table = Table(caption, columns, rows)
    others = [_teachers_table(result)] if result.teachers else []
    others += [] if known is None else [known]
    others += _labels_table(result)
    others += _probes_table(result)
    return Section("accuracy", "Accuracy", [table, *others])


def _labels_table(result: RunResult) -> list[Table]:
    """The same student without its teachers, and what that costs."""
    plain = None if result.baselines is None else result.baselines.labels
    if plain is None:
        return []
    row = [
        plain.model, f"{count(plain.right)} of {count(plain.samples)}", percent(plain.right / plain.samples),
        count(plain.advised), count(plain.alone), p_value(plain.p), duration(plain.seconds), duration(result.seconds),
    ]  # fmt: skip
    columns = ["Student", "Right", "Top-1, %", "Co-advised alone right", "Labels alone right", "p (McNemar)", "Took",
               "Co-advised took"]  # fmt: skip
    return [Table("What one would do instead: the same student trained on labels alone", columns, [row])]


def _probes_table(result: RunResult) -> list[Table]:
    """Linear probes, and what every model costs to ask."""
    if result.baselines is None:
        return []
    speeds, tables = result.baselines.images_per_s, []
    rows = [
        [f"{one.model} ({one.of})",
         f"{count(one.right)} of {count(one.samples)}{which_part(one.samples, result, in_balance(one, result))}",
         percent(one.accuracy),
         count(one.train), f"{one.image_size} px", parameters(one.parameters), count(speeds.get(f"probe {one.of}")),
         duration(one.seconds)]
        for one in result.baselines.probes
    ]  # fmt: skip
    columns = ["Linear probe on", "Right", "Top-1, %", "Fitted to", "Sees", "Parameters", "Images/s", "Took"]
    if rows:
        tables.append(Table("What one would do instead: logistic regression on the features", columns, rows))
    asked = [[name, count(speed)] for name, speed in speeds.items() if not name.startswith("probe ")]
    if asked:
        caption = "Speed of the models of this run in float32, in batches of eight on the device of the training"
        tables.append(Table(caption, ["Model", "Images/s"], asked))
    return tables


def _teachers_table(result: RunResult) -> Table:
    rows = []
    for name, facts in result.teachers.items():
        checked = percent(facts.accuracy) + (f" of {count(facts.samples)}" if facts.samples else "")
        whole = percent(result.final.get(f"teacher/{name}"))
        if facts.asked is not None and facts.asked < result.samples:
            whole += f" of the {count(facts.asked)} whose class it knows"
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
    return write_page(run_page(read_run(run_folder), run_folder), run_folder, with_markdown=False)
