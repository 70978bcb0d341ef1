"""A finished run in five lines: what was trained, how good it is, against what, how sure that is, what comes next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from ..errors import few
from ..run.answers import Answers
from ..run.per_class import macro_f1
from ..run.result import Probe, RunResult, SeveralProbe
from ..run.standing import Verdict, in_balance, never_right, standings, which_part
from ..significance import ALPHA, mcnemar, wilson
from .curves import levels_of
from .summary import AGAINST, DONE, GOOD, NEXT, SURE
from .tables import count, duration, p_value, parameters, percent, points
from .words import tokens_sentence


def run_summary(result: RunResult, said: Verdict, answers: Answers | None, folder: Path) -> list[tuple[str, str]]:
    """The lines of a run whose accuracy is known, each with its word.

    Args:
        said: the run in words.
        answers: image by image, where the run kept them.
        folder: of the run, as it is named in `said`.
    """
    good, sure = _several(result) if result.several is not None else _single(result, answers)
    here = f" (`{shlex.join(['coadvise', 'report', str(folder)])}`)"  # which is this page
    steps = [f"{step[0].upper()}{step[1:].replace(here, ', below')}." for step in said.advice]
    against = ", ".join(_others(result)) + " (mAP)" * (result.several is not None)
    lines = {
        DONE: _trained(result),
        GOOD: good,
        AGAINST: f"{against[:1].upper()}{against[1:]}. {said.cost or ''}".strip(),
        SURE: sure,
        NEXT: " ".join(steps),
    }
    return [(word, text) for word, text in lines.items() if text.strip(". ")]


def _trained(result: RunResult) -> str:
    student, data = result.student, result.data
    names = [f"{name} ({facts.model})" for name, facts in result.teachers.items()]
    taught = f", taught by {_listed(names)}" if names else ", by its labels alone"
    more = f" and {count(data.unlabelled)} without labels" if data.unlabelled else ""
    return (
        f"{student.model} ({parameters(student.parameters)} parameters) for {count(result.epochs)} "
        f"epoch{'s' * (result.epochs != 1)} on {count(data.train)} images{more} of {data.source} with "
        f"{count(len(data.classes))} classes, in {duration(result.seconds)}{taught}."
    )


def _single(result: RunResult, answers: Answers | None) -> tuple[str, str]:
    student = standings(result)[0]
    good = [f"{percent(student.share)} % right: {count(student.right)} of {count(student.samples)} validation images"]
    if result.per_class:
        missed, there = never_right(result)
        good.append(f"mean F1 of the classes {percent(macro_f1(result.per_class))} %")
        good += [f"never right: {len(missed)} of {len(there)} classes ({few(missed)})"] if missed else []
    if (error := result.answered("ece")) is not None:
        good.append(f"confidence is {percent(error)} points off")
    low, high = wilson(student.right, student.samples)
    sure = [f"95 % interval {percent(low)} to {percent(high)} % (Wilson's, of {count(student.samples)} images)"]
    teachers = [one for one in standings(result) if one.kind == "teacher"]
    best = max(teachers, key=lambda one: one.share, default=None)
    if answers is not None and best is not None and best.name in answers.teachers:
        theirs = answers.teachers[best.name] == answers.label
        p = mcnemar(answers.right(), theirs).p
        gap = f"the difference to {best.title}, {points(student.share - best.share)} points,"
        if p is not None:
            sign = "<" if p < 0.001 else "="
            found = f"p {sign} {p_value(p).removeprefix('< ')}, McNemar"
            sure.append(f"{gap} {'may be' if p >= ALPHA else 'is more than'} chance ({found})")
    return f"{'; '.join(good)}.", f"{'; '.join(sure)}. {_one_run(result)}"


def _one_run(result: RunResult) -> str:
    picked = " The best of its evaluations was picked on these very images, which flatters it a little."
    return f"One run: another seed would give another result.{picked if result.delivered else ''}"


def _several(result: RunResult) -> tuple[str, str]:
    measured = count(result.samples)
    good = [f"mAP {percent(result.answered('map'))} % on {measured} validation images"]
    for what, words in (("f1_macro", "mean F1 of the classes"), ("exact", "every class of an image right")):
        if (value := result.answered(what)) is not None:
            good.append(f"{words} {percent(value)} %")
    return f"{'; '.join(good)}.", f"No interval is known of a mAP. {_one_run(result)}"


def _others(result: RunResult) -> Iterator[str]:
    """What the student is measured by, with its share."""
    for level in levels_of(result):
        yield f"{level.title} {percent(level.share)} %"
    baselines = result.baselines
    probes: list[tuple[Probe | SeveralProbe, float]] = []
    if baselines is not None:
        probes += [(one, one.accuracy) for one in baselines.probes]
        probes += [(one, one.mean_average_precision) for one in baselines.several]
        if (plain := baselines.labels) is not None:
            yield f"the same student on labels alone {percent(plain.right / plain.samples)} %"
    for one, share in probes:
        which = which_part(one.samples, result, in_balance(one, result))
        of = f" of {count(one.samples)} images{which}" if which else ""
        yield f"a linear probe on {one.model} ({one.of}) {percent(share)} %{of}"


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def run_lead(result: RunResult) -> list[str]:
    """How a run was measured, and what its lines leave out."""
    best = result.best
    teachers = {name: facts.model for name, facts in result.teachers.items()}
    sentences = [text for text in (tokens_sentence(result.student.tokens, teachers, result.answering),) if text]
    if result.seconds and result.images_seen:
        speed = count(result.images_seen / result.seconds)
        sentences.append(f"It took {duration(result.seconds)} for {count(result.steps)} steps, {speed} images/s.")
    if (early := result.stopped_early) is not None:
        sentences.append(
            f"It stopped early, after {count(result.epochs)} of {count(early.planned)} epochs: "
            f"{early.in_vain} no better than the best."
        )
    if not result.delivered:
        of = f"The best evaluation was {percent(best.value)} % after epoch {best.epoch} ({best.weights} weights)"
        return [*sentences, f"{of}; being picked on these very images, it is no fair estimate."]
    averaged = "the averaged weights" if best.weights == "ema" else "the weights"
    sentences.append(
        f"Everything here but the similarity to teachers is said of {averaged} after epoch {best.epoch}, which "
        f"best.safetensors holds and every command takes: their evaluation was the best."
    )
    if (last := result.final.get(f"accuracy/{result.answering}")) is not None:
        sentences.append(f"After the last epoch, top-1 was {percent(last)} %.")
    if (last := result.final.get(f"map/{result.answering}")) is not None:
        sentences.append(f"After the last epoch, the mAP was {percent(last)} %.")
    return sentences
