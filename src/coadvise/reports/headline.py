"""The headline and the lead of a report: computed from the numbers, and never claiming more than the tests do."""

from __future__ import annotations

from collections.abc import Sequence

from ..paper.ablations import TITLES
from ..paper.arms import Arm
from ..paper.declared import MARGIN, Dots, Experiment
from ..significance import DOES_NOT_HOLD, HOLDS, summarise
from .claims import NO_MEANING, NOT_MEASURED, Judged
from .figures import teachers_of
from .problems import trained_again
from .results import About, Results
from .tables import count, percent

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


def _word(n: int) -> str:
    return _NUMBERS[n] if n < len(_NUMBERS) else str(n)


def headline(experiments: Sequence[Experiment], judged: Sequence[Judged], results: Results) -> str:
    """The main result in one sentence.

    Args:
        judged: all claims of the experiments.
    """
    if not results.files:
        return "No finished run yet"
    papers = [one.name for one in experiments if one.of_paper]
    if claims := [one for one in judged if one.experiment in papers]:
        return _count_of_claims(claims, len(results.files))
    main = next((one for one in judged if one.claim in [of.main for of in experiments]), None)
    if not papers and main is not None and main.differences:
        return _gain(main, results)
    return f"{_runs(len(results.files))} finished"


def _count_of_claims(judged: Sequence[Judged], runs: int) -> str:
    verdicts = [one.verdict for one in judged]
    holds, fails, absent, void = map(verdicts.count, (HOLDS, DOES_NOT_HOLD, NOT_MEASURED, NO_MEANING))
    undecided = len(judged) - holds - fails - absent - void
    plural = lambda n, one, many: f"{n} {one if n == 1 else many}"
    if absent and not holds + fails:  # cut off early: what is there comes first
        begun = (
            f"{plural(undecided, 'is', 'are')} undecided and the others wait" if undecided else "none is decided yet"
        )
        return f"{_runs(runs)} finished; of {plural(len(judged), 'claim', 'claims')} of the paper {begun}"
    parts = [f"{plural(holds, 'holds', 'hold')} here", f"{plural(fails, 'does', 'do')} not"]
    parts += [f"{plural(undecided, 'is', 'are')} undecided"]
    parts += [f"{plural(void, 'means', 'mean')} nothing at this scale"] if void else []
    parts += [f"{plural(absent, 'is', 'are')} not measured"] if absent else []
    return f"Of {plural(len(judged), 'claim', 'claims')} of the paper {', '.join(parts[:-1])} and {parts[-1]}"


def _gain(main: Judged, results: Results) -> str:
    """The claim that some teachers make a student better, in a sentence that fits its verdict."""
    (taught,), (labels,) = main.claim.plus, main.claim.minus
    shares = ([results.series(value)[seed] for seed in main.differences] for value in (taught, labels))
    after, before = (percent(summarise(values).mean) for values in shares)
    n, teachers = len(main.differences), _teachers(taught.arm)
    student = "vision transformer" if taught.arm.is_transformer else "student"
    if main.verdict == HOLDS:
        lift = "lifts" if len(taught.arm.teachers) == 1 else "lift"
        return f"{teachers.capitalize()} {lift} the {student} from {before} to {after} % (n = {n})"
    if main.verdict == DOES_NOT_HOLD:
        return f"With {teachers} the {student} falls from {before} to {after} % (n = {n})"
    undecided = "One seed decides nothing" if n == 1 else f"Undecided at n = {n}"
    return f"{undecided}: the {student} reaches {after} % with {teachers}, {before} % with labels only"


def _teachers(arm: Arm) -> str:
    """`two teachers of different kinds`, `one teacher`, …"""
    n, kinds = len(arm.teachers), len({teacher.bias for teacher in arm.teachers})
    kind = "" if n < 2 else " of the same kind" if kinds == 1 else " of different kinds"
    return f"{_word(n)} teacher{'' if n == 1 else 's'}{kind}"


def _runs(n: int) -> str:
    return f"{n:,} run{'' if n == 1 else 's'}"


def lead(experiments: Sequence[Experiment], results: Results, about: About) -> list[str]:
    """What was done, in a few sentences."""
    if not results.files:
        return []
    of_paper = any(one.of_paper for one in experiments)
    done = [] if of_paper else [sentence for one in experiments for sentence in _what_was_done(one, results)]
    equal = (
        f"That two models are about equal is tested against a margin of {100 * MARGIN:g} points, as what the paper "
        "calls similar differs by up to 1.3; such claims of a table are corrected among themselves."
    )
    again = f", but for {', '.join(found)}, see below" if (found := trained_again(results)) else ""
    tested = [
        "Each claim is tested over the seeds (two-sided t-test of the differences, Holm's correction over the claims "
        "of its table); with one seed nothing can be tested.",
        f"The seeds are the students': all students of a teacher learn from the same run of it{again}, so a verdict "
        "about kinds of teachers is about these teachers.",
    ]
    crossed, claims = any(one.contrasts for one in experiments), not all(one.contrasts for one in experiments)
    margins = any(claim.margin is not None for one in experiments for claim in one.claims)
    return [
        *done,
        *(tested[:1] if claims else []),
        *([equal] if margins else []),
        *(tested[1:] if claims else []),
        *(["Contrasts are tested over runs of the teachers and seeds of the students at once."] if crossed else []),
        "Top-1, losses and divergences are those of the last epoch. Where a run was evaluated more than once, all "
        "other measures, and the teachers' advice, are of the epoch with the best top-1.",
        *_departures(about),
    ]


def _what_was_done(one: Experiment, results: Results) -> list[str]:
    """The teachers and the ways of teaching, for an experiment whose arms are shown in detail."""
    if not (isinstance(one.figure, Dots) and one.figure.title):
        return []
    arms = [value.arm for value in one.figure.values.values() if results.seeds(value.arm)]
    sentences = []
    if teachers := teachers_of(one.figure, results):
        names = ", ".join(
            TITLES.get(one.model, one.model) + (f" (seed {one.seed})" if one.seed else "") for one in teachers
        )
        were = "teachers were" if len(teachers) > 1 else "teacher was"
        sentences.append(f"{_word(len(teachers)).capitalize()} {were} trained on labels and then frozen: {names}.")
    if arms:
        steps = {run.steps for arm in arms for run in results.runs(arm)}
        budget = f"each for {count(steps.pop())} steps" if len(steps) == 1 else "with budgets that differ"
        sentences.append(
            f"The same student was trained in {_word(len(arms))} ways, {budget}; runs of the same seed are "
            "compared in pairs."
        )
    return sentences


def _departures(about: About) -> list[str]:
    texts = [f"In place of the scale's own settings: {', '.join(about.changed)}."] if about.changed else []
    given = ", ".join(sorted(about.given))
    return texts + ([f"Weights were given, not trained, for {given}: one run each."] if given else [])
