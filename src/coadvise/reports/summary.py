"""The lines on top of a page: what was trained, how good it is, against what, how sure that is, and what comes next."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median

from ..paper.ablations import SEVEN_DOTS
from ..paper.declared import Dots, Experiment, Near
from ..significance import paired_difference, summarise
from .claims import Judged
from .contrasts import Answered, is_decided, primary_sentence
from .problems import unfinished
from .results import About, Results
from .tables import count, mean_sd, percent, points

DONE, GOOD, AGAINST, SURE, NEXT = "What was done", "How good", "Against what", "How sure", "What next"


def experiments_summary(
    experiments: Sequence[Experiment],
    judged: Sequence[Judged],
    answers: Sequence[Answered],
    results: Results,
    about: About,
) -> list[tuple[str, str]]:
    """Of the paper's experiments, or others; nothing before the first run."""
    if not results.files:
        return []
    data = next(iter(results.files.values())).data
    arms = {run.arm for run in results.files.values()}
    runs = f"{len(results.files):,} run{'s' if len(results.files) > 1 else ''}"
    ways = f" of {len(arms)} models and ways to train them" if len(arms) > 1 else ""
    done = (
        f"{runs}{ways}, for {_seeds(results, about)}, on {about.title}: {count(data.train)} "
        f"training and {count(data.val)} validation images of {len(data.classes)} classes."
    )
    planned = next((one for one in experiments if one.contrasts), None)
    if planned is None:
        good, against = _best(_figure(experiments), results)
    else:
        good, against = _planned(planned, answers, results)
    if any(one.of_paper for one in experiments):
        against += [
            "The paper's numbers are those of its own data and sizes, so they are to be compared in their order and "
            "their differences, not in their height."
        ]
    lines = [(DONE, [done]), (GOOD, good), (AGAINST, against), (SURE, _sure(judged, answers))]
    lines.append((NEXT, _next(judged, answers, about, bool(unfinished(experiments, results, about)))))
    return [(name, " ".join(said)) for name, said in lines if said]


def _seeds(results: Results, about: About) -> str:
    """How many of the seeds that were asked for have runs."""
    runs = results.files.values()
    there = len({run.seed for run in runs if run.advisers} or {run.seed for run in runs})  # not those of teachers
    of = f"{there} of " if there < about.seeds else ""
    return f"{of}{about.seeds} seed{'s' if about.seeds > 1 else ''}"


def _figure(experiments: Sequence[Experiment]) -> Dots:
    return next((one.figure for one in experiments if isinstance(one.figure, Dots)), SEVEN_DOTS)


def _best(figure: Dots, results: Results) -> tuple[list[str], list[str]]:
    """The best way to teach of a figure, and its gain over the first one.

    All are compared over the same seeds. Where ways have different ones, those are taken with which the most runs are
    compared; a way that lacks one of them is left out, which is said.
    """
    (first, base), *rest = figure.values.items()
    without, series = results.series(base), {label: results.series(value) for label, value in rest}
    shared = [one.keys() & without.keys() for one in series.values() if one.keys() & without.keys()]
    compared = lambda chosen: len(chosen) * sum(one >= chosen for one in shared)
    seeds = sorted(max([*shared, set[int]().union(*shared).intersection(*shared)], key=compared, default=()))
    found = {label: [one[seed] for seed in seeds] for label, one in series.items() if one.keys() >= set(seeds)}
    if not seeds:
        return [], []
    label = max(found, key=lambda one: fmean(found[one]))
    student = "The vision transformer" if base.arm.is_transformer else "The student"
    before, after = summarise([without[seed] for seed in seeds]), summarise(found[label])
    best = "best" if after.mean >= before.mean else "the best of the others"
    good = (
        f"{student}: {mean_sd(before)} % top-1 with {first}; {best}: {mean_sd(after)} % with "
        f"{label[0].lower() + label[1:]}."
    )
    if fewer := len(shared) - len(found):
        ways = "1 other way has" if fewer == 1 else f"{fewer} other ways have"
        good += f" {ways} fewer of these runs, and cannot be compared yet."
    gain = paired_difference(found[label], [without[seed] for seed in seeds])
    ends = (
        f", 95 % interval {points(gain.low)} to {points(gain.high)}, uncorrected and chosen as the best"
        if gain.low is not None
        else ""
    )
    of = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    return [good], [f"{first[0].upper()}{first[1:]}, the same {of}: {points(gain.mean)} points{ends}."]


def _planned(experiment: Experiment, answers: Sequence[Answered], results: Results) -> tuple[list[str], list[str]]:
    """The ways of teaching of a planned experiment once all are there, and the answer to its question once it has one:
    nothing before, so that nobody decides by a part of the runs; the headline says how many there are."""
    own = [one for one in answers if one.experiment == experiment.name]
    sentence = primary_sentence(own) if is_decided(own) else None
    parts = [one for one in own if one.contrast.primary]
    figure = experiment.figure
    if not parts or any(one.test is None for one in parts) or not isinstance(figure, Dots):
        return [], [sentence] if sentence else []
    good = []
    for family in figure.families:
        runs = [
            top1
            for label, value in figure.values.items()
            if label.startswith(family)
            for top1 in results.series(value).values()
        ]
        if runs:
            good.append(f"{percent(fmean(runs))} % with {family} ({len(runs)} runs)")
    return [f"Top-1 of the student: {', '.join(good)}."] if good else [], [sentence] if sentence else []


def _sure(judged: Sequence[Judged], answers: Sequence[Answered]) -> list[str]:
    tested = [one for one in judged if one.test is not None]
    # The reach of a test for equality is a margin, and no difference that it would find.
    most = max((one.test.n for one in tested if one.test is not None), default=0)
    reach = [
        one.reach.corrected
        for one in tested
        if one.reach is not None and one.claim.unit == "%" and not isinstance(one.claim.says, Near)
    ]
    said = []
    if most > 1:
        finds = (
            f"; half of these tests would find a difference of {percent(median(reach))} points (80 % power), so that "
            "what is undecided may be as large"
            if reach
            else ""
        )
        said.append(f"Claims are tested over up to {most} seeds and corrected for their number{finds}.")
    elif tested:
        said.append("With one seed nothing is tested: another may turn every order around.")
    if answers:
        done = sum(one.test is not None for one in answers)
        said.append(f"{done} of {len(answers)} contrasts have all their runs; none is tested before.")
    return said


def _next(judged: Sequence[Judged], answers: Sequence[Answered], about: About, missing: bool) -> list[str]:
    wanted = max((one.contrast.seeds for one in answers if one.test is None), default=0)
    if wanted:
        return [f"The same command with --seeds {wanted} goes on."]
    if missing:
        return ["Runs are missing, see below: the same command goes on."]
    open_ = any(one.verdict.startswith("undecided") for one in judged)
    if open_:
        return [f"More seeds decide more: the same command with --seeds {2 * about.seeds} trains only what is new."]
    return ["Other data or a larger scale: `coadvise reproduce --help`."]
