"""`coadvise reproduce` and `coadvise demo`: run what some experiments need, then write their report."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..checkpoints.trained import load_trained
from ..errors import CoadviseError, Interrupted, RecipeError, RunError, nearest
from ..evaluation.attention import attention_on
from ..evaluation.disagreement import disagreements
from ..paper.ablations import CONV, CROSS, INV, LABELS_ONLY
from ..paper.arms import arm
from ..paper.beyond import BEYOND
from ..paper.declared import Dots, Experiment, Row
from ..paper.imagenet import EXPERIMENTS
from ..reports.results import ATTENTION, IMAGES, About
from ..run.folder import RunFolder
from ..system.extras import need
from ..system.files import read_json, write_json
from ..system.progress import Display
from .beside import beside_paper
from .measure import read_result
from .planner import Planned, Planner
from .runner import Orders, open_jobs, run_jobs
from .setup import ExperimentSetup
from .teaching import MARK, mark_of


def find_experiments(names: Sequence[str]) -> list[Experiment]:
    """Tables and figures by name, in the paper's order, and what goes beyond it; `all` is every one of the paper's.

    Raises:
        RecipeError: an unknown name.
    """
    known = EXPERIMENTS | {one.name: one for one in BEYOND}
    for name in names:
        if name != "all" and name not in known:
            choice = nearest(name, known) or f"; choose one of {', '.join(known)}, or all (of the paper)"
            raise RecipeError(f"there is no '{name}'{choice}")
    return [one for name, one in known.items() if name in names or ("all" in names and one.of_paper)]


def seconds(text: str) -> float:
    """`90s`, `40m` or `1.5h` in seconds; a number alone is minutes.

    Raises:
        RecipeError: anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if not match:
        raise RecipeError(f"budget '{text}' is no length of time; write for example 40m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "": 60}[match[2]]


def reproduce(
    setup: ExperimentSetup, experiments: Sequence[Experiment], orders: Orders, display: Display | None = None
) -> Path:
    """Do the runs that are missing and write the report of those that are there.

    Returns:
        The path of the report's page.

    Raises:
        RunError: `setup.output` holds something else.
        Interrupted: Ctrl-C or SIGTERM; the report of what was finished is there.
        CoadviseError: bad input, found before anything is trained; or some runs failed, after the others were done and
            the report of them was written.
    """
    need("matplotlib", "the report of experiments")
    display = display or Display(every=10.0)
    output = setup.output
    planner = Planner(setup)
    experiments = [_told_apart(one, planner) for one in experiments]
    if output.exists() and not (output / MARK).is_file() and _holds_others(output):
        what = "a demo of an earlier version" if (output / "demo.json").is_file() else "other files"
        raise RunError(f"{output} holds {what}; choose another folder with --output")
    orders.shifted.require(setup.classes)
    _require_fit(setup, experiments)
    write_json(output / MARK, mark_of(setup))
    jobs, runs = open_jobs(planner, experiments, orders)
    if jobs:
        _require_folder(orders.results)
    names, to_do = ", ".join(one.name for one in experiments), f"{len(jobs)} jobs to do" if jobs else "all there"
    display.say(f"{names} on {setup.title}: {len(runs)} runs, {to_do}")
    try:
        whole = not jobs or run_jobs(jobs, orders, display)
    except (Interrupted, CoadviseError) as error:
        page = _report(planner, experiments, runs, orders, whole=not isinstance(error, Interrupted))
        display.say(f"report of what is finished: {page}")
        raise
    if not whole:
        display.say("the budget is spent; the same command goes on")
    return _report(planner, experiments, runs, orders, whole=whole)


def _holds_others(output: Path) -> bool:
    """Whether a path is no folder, or one with other files than the mark: another call may be writing that just now."""
    return not output.is_dir() or any(MARK not in path.name and not _only_runs(path) for path in output.iterdir())


def _only_runs(path: Path) -> bool:
    """Whether a path is the folder of runs with nothing but runs in it, as they are brought along from elsewhere."""
    return path.name == "runs" and path.is_dir() and all((one / "manifest.json").is_file() for one in path.iterdir())


def _told_apart(one: Experiment, planner: Planner) -> Experiment:
    """An experiment beyond the paper without the rows that the given settings make the same as an earlier one."""
    if one.of_paper:
        return one
    rows: dict[tuple[str, ...], Row] = {}
    for row in one.rows:
        rows.setdefault(tuple(planner.run(value.arm, 0).id for value in row.ours.values()), row)
    left = [row for row in one.rows if row not in rows.values()]
    if not left:
        return one
    shown = {value.arm for row in rows.values() for value in row.ours.values()}
    claims = [claim for claim in one.claims if {value.arm for value in claim.values} <= shown]
    names = ", ".join(row.labels[0] for row in left)
    note = f"Left out, because these settings make them the same as another row: {names}."
    figure = one.figure
    if isinstance(figure, Dots):
        figure = replace(figure, values={name: value for name, value in figure.values.items() if value.arm in shown})
    return replace(one, rows=list(rows.values()), claims=claims, notes=[*one.notes, note], figure=figure)


def _require_folder(results: Path) -> None:
    """Fail now, not when the first result is there."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results):
            pass
    except OSError as error:
        raise RunError(
            f"cannot write result files to {results}: {error.strerror or error}; choose another folder with --output "
            "or --results"
        ) from error


def _require_fit(setup: ExperimentSetup, experiments: Sequence[Experiment]) -> None:
    """Refuse weights of models that are not needed, and what is another training only where views recur."""
    arms = [one for experiment in experiments for one in experiment.arms()]
    models = {one.model for one in arms} | {teacher.model for one in arms for teacher in one.teachers}
    if unused := [model for model in setup.weights if model not in models]:
        names = ", ".join(one.name for one in experiments)
        raise RecipeError(f"--weights {unused[0]}=…: {names} has no such model; leave it out")
    needing = [one.name for one in experiments if "recurring views" in one.needs]
    if setup.views is None and needing:
        raise RecipeError(
            f"{needing[0]}: views never recur with these settings anyway; table6 and table7 are what you look for"
        )


def _report(
    planner: Planner, experiments: Sequence[Experiment], runs: Sequence[Planned], orders: Orders, *, whole: bool
) -> Path:
    """Write the report; pictures of single images take a pass over the validation set: not after a stop."""
    from ..reports.paper import write_paper_report  # imports Matplotlib

    setup = planner.setup
    if whole and any("single images" in one.needs for one in experiments):
        _write_pictures(planner)
    # A twin of a model whose weights were given is trained to teach, and is no second run of it.
    shown = [run for run in runs if not (planner.given(run.arm) and run.seed)]
    found = {run.name: result for run in shown if (result := read_result(orders.results, run)) is not None}
    given = sorted({run.arm.id for run in shown if planner.given(run.arm)})
    about = About(
        setup.scale.name,
        setup.title,
        orders.seeds,
        setup.changed,
        setup.particulars(),
        given,
        beside_paper(setup, experiments),
    )
    return write_paper_report(setup.output, found, experiments, about)


def _write_pictures(planner: Planner) -> None:
    """Images on which two teachers disagree and where the tokens look in them, once the four models are there."""
    both = "student, both teachers"
    shown = {"CNN": arm(CONV), "INN": arm(INV), "student, labels only": LABELS_ONLY, both: CROSS}
    runs = {label: planner.run(one, 0) for label, one in shown.items()}
    ids = [run.id for run in runs.values()]
    path = planner.setup.output / IMAGES
    if path.is_file() and read_json(path, "delete it and use the same command again").get("runs") == ids:
        return
    folders = [RunFolder(run.folder) for run in runs.values()]
    if all(folder.whole for folder in folders):
        models = {label: load_trained(run.folder) for label, run in runs.items()}
        found = disagreements(models)
        chosen = [image["index"] for image in found["images"][:4]]
        if chosen:
            write_json(path.with_name(ATTENTION), attention_on(models[both], chosen))
        write_json(path, {"runs": ids, **found})
