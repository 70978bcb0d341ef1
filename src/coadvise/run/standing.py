"""How good a finished run is, in words: against chance, its teachers and linear probes, and what to do next."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import few
from ..significance import ALPHA, wilson
from .per_class import chance
from .result import ASKED, Probe, RunResult, SeveralFacts, SeveralProbe

EARLIER = 5000
"""Validation images that a probe of an earlier version was asked about at most: a part, with its classes in balance."""


@dataclass(frozen=True)
class Standing:
    """One model on the validation images.

    Attributes:
        kind: `student`, `teacher`, `probe`, or `labels` for the same student without its teachers.
        name: of the teacher; for a probe, whose features it uses.
        right: images named rightly, of so many `samples`.
        images_per_s: where it was measured.
        part: whether these are a part of the validation images with its classes in balance: of all images any model is
            right on another share, so nothing is concluded from it.
    """

    kind: str
    name: str
    model: str
    right: int
    samples: int
    parameters: int
    images_per_s: float | None = None
    part: bool = False

    @property
    def share(self) -> float:
        """Top-1 as a share."""
        return self.right / self.samples

    @property
    def title(self) -> str:
        """`the student`, `teacher conv`, `the linear probe on resnet18 (conv)`."""
        titles = {"student": "the student", "teacher": f"teacher {self.name}", "labels": "labels alone"}
        return titles.get(self.kind) or f"the linear probe on {self.model} ({self.name})"

    def above(self, other: Standing) -> bool:
        """Whether it is better than another by more than chance, at 5 %; of a `part` nothing is known.

        Both are taken for independent, which for answers to the same images asks for a larger difference than needed.
        """
        spread = sum(one.share * (1 - one.share) / one.samples for one in (self, other))
        gap = self.share - other.share
        return not (self.part or other.part) and gap > 0 and gap * gap > 3.84 * spread


def standings(result: RunResult) -> list[Standing]:
    """The student, then its teachers, then the probes; nothing where the student's accuracy is not known."""
    samples = result.samples
    if result.accuracy is None or samples < 1:
        return []
    speeds = {} if result.baselines is None else result.baselines.images_per_s
    student = result.student
    right = round(result.accuracy * samples)
    found = [Standing("student", "student", student.model, right, samples, student.parameters, speeds.get("student"))]
    for name, facts in result.teachers.items():
        whole = result.final.get(f"teacher/{name}")
        share, of = (whole, samples) if whole is not None else (facts.accuracy, facts.samples)
        if share is not None and of and math.isfinite(share):
            speed = speeds.get(name)
            asked = of  # of the others it knows no class, so that it names none of them rightly
            if whole is not None and facts.asked is not None:
                asked = min(facts.asked, of)
            part = whole is None and of < samples  # of the check before the training
            right = round(share * asked)
            found.append(Standing("teacher", name, facts.model, right, of, facts.parameters, speed, part))
    for probe in () if result.baselines is None else result.baselines.probes:
        speed = speeds.get(f"probe {probe.of}")
        right, part = probe.right, in_balance(probe, result)
        found.append(Standing("probe", probe.of, probe.model, right, probe.samples, probe.parameters, speed, part))
    if result.baselines is not None and (plain := result.baselines.labels) is not None:
        speed = speeds.get("student")
        found.append(Standing("labels", "labels", plain.model, plain.right, plain.samples, plain.parameters, speed))
    return found


def in_balance(probe: Probe | SeveralProbe, result: RunResult) -> bool:
    """Whether a probe of an earlier version was asked about a part in which classes are in balance, unlike in all."""
    even = result.several is None and len({one.support for one in result.per_class.values()}) == 1
    return probe.samples <= EARLIER < result.samples and not even


def which_part(samples: int, result: RunResult, part: bool) -> str:
    """Which of the validation images a model was asked about, as a sentence goes on; nothing where about all."""
    if part:
        return ", a part with its classes in balance, so not to be compared"
    return ", drawn at random" if samples <= ASKED < result.samples else ""


def _of_which(one: SeveralProbe, result: RunResult) -> str:
    which = which_part(one.samples, result, in_balance(one, result))
    return f" on {one.samples:,} images{which}" if which else ""


def chance_of(result: RunResult) -> tuple[int, int] | None:
    """Images that are right if the commonest class is named always, and how many there are."""
    if result.per_class:
        return chance(result.per_class), sum(one.support for one in result.per_class.values())
    return None


@dataclass(frozen=True)
class Verdict:
    """A run in words.

    Attributes:
        headline: the student's result and the one thing to know about it.
        others: classes that are missed, chance, teachers and probes, a sentence each.
        cost: what the best and the student cost, where that was measured.
        advice: what to do next.
    """

    headline: str
    others: tuple[str, ...]
    cost: str | None
    advice: tuple[str, ...]

    @property
    def sentences(self) -> list[str]:
        """All but the advice, in order."""
        return [self.headline, *self.others, *([self.cost] if self.cost else [])]


def verdict_of(result: RunResult, folder: Path) -> Verdict | None:
    """What there is to say of a finished run; None where its accuracy is not known.

    Args:
        folder: where the run is, for the commands that are named.
    """
    if result.several is not None:
        return _verdict_of_several(result, result.several, folder)
    ranked = standings(result)
    if not ranked:
        return None
    student, *rest = ranked
    guessed = chance_of(result)
    guessing = guessed is not None and wilson(student.right, student.samples)[0] <= guessed[0] / guessed[1]
    ahead = sorted((one for one in rest if one.above(student)), key=lambda one: -one.share)
    said = f"{_count(student)} after {result.weights}"
    behind = f"behind {' and '.join(_brief(one) for one in ahead[:2])}" if ahead else ""
    level = "no better than guessing" if guessed and student.right <= guessed[0] else "not clearly better than guessing"
    tails = [part for part in (level if guessing else "", behind) if part]
    headline = f"The student is right on {said}" + (f": {', and '.join(tails)}" if tails else "")
    return Verdict(
        headline,
        (*_advice_added(result, student), *_missed(result), *_others(rest, guessed, result)),
        _cost(ranked),
        tuple(_advice(result, folder, guessing, ahead)),
    )


def _verdict_of_several(result: RunResult, several: SeveralFacts, folder: Path) -> Verdict | None:
    found = result.answered("map")
    if found is None:
        return None
    samples, classes = result.samples, len(several.average_precision)
    level = f"chance: {_percent(several.chance)}" if found > several.chance else "no better than chance"
    headline = (
        f"The student's mAP is {_percent(found)} ({level}) on {samples:,} validation images and {classes} classes "
        f"after {result.weights}"
    )
    others = list(_missed(result))
    if (exact := result.answered("exact")) is not None:
        others.append(f"Every class of an image is right on {round(exact * samples):,} ({_percent(exact)}).")
    rivals = _rivals_of_several(result, folder)
    others += [f"{one.title[0].upper()}{one.title[1:]}: mAP {_percent(one.share)}{one.which}." for one in rivals]
    best = max((one for one in rivals if not one.part), key=lambda one: one.share, default=None)
    if found <= several.chance:
        advice = f"near chance: {_longer(result, folder)}"
    elif best is not None and best.share > found:
        use = shlex.join(["coadvise", "predict", "IMAGE", "--model", best.place or ""])
        ways = [f"use it (`{use}`)"] if best.place else []
        advice = f"the mAP of {best.title} is higher: {', or '.join([*ways, _longer(result, folder)])}"
    else:
        advice = _use(folder)
    return Verdict(headline, tuple(others), None, (advice,))


class _Rival(NamedTuple):
    """A teacher or a probe beside the student: its mAP, what predict opens of it, and on which `part` of the images."""

    title: str
    share: float
    place: str | None
    part: bool = False
    which: str = ""


def _rivals_of_several(result: RunResult, folder: Path) -> list[_Rival]:
    def place(own: Path, else_: str | None = None) -> str | None:
        return str(own) if (own / "best.safetensors").is_file() else else_

    shares = {name: result.final.get(f"teacher_map/{name}") for name in result.teachers}
    teachers = [
        _Rival(f"teacher {name}", share, place(folder / "teachers" / name, result.teachers[name].opens))
        for name, share in shares.items()
        if share is not None
    ]
    probes = () if result.baselines is None else result.baselines.several
    return teachers + [
        _Rival(
            f"the linear probe on {one.model} ({one.of})", one.mean_average_precision,
            place(folder / "baselines" / one.of), in_balance(one, result), _of_which(one, result),
        )
        for one in probes
    ]  # fmt: skip


def _longer(result: RunResult, folder: Path) -> str:
    early = result.stopped_early  # more epochs would end where these did
    more = f"schedule.epochs={2 * result.epochs}" if early is None else f"schedule.patience={2 * early.patience}"
    words = ["coadvise", "train", str(folder / "recipe.yaml"), more]
    return f"train longer (`{shlex.join([*words, f'run.output={folder}-longer'])}`)"


def _use(folder: Path) -> str:
    report = shlex.join(["coadvise", "report", str(folder)])
    use = shlex.join(["coadvise", "predict", "IMAGE", "--model", str(folder)])
    return f"use it (`{use}`), or see where it errs (`{report}`)"


def _count(one: Standing) -> str:
    return f"{one.right:,} of {one.samples:,} validation images ({_percent(one.share)})"


def _brief(one: Standing) -> str:
    return f"{one.title} ({_percent(one.share)})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _advice_added(result: RunResult, student: Standing) -> Iterator[str]:
    plain = None if result.baselines is None else result.baselines.labels
    if plain is None or not plain.samples:
        return
    points = 100 * (plain.advised - plain.alone) / plain.samples
    did = (
        f"added {points:.1f} points"
        if points > 0
        else f"cost {-points:.1f} points"
        if points < 0
        else "changed nothing"
    )
    p = (
        ""
        if plain.p is None
        else f", McNemar p = {plain.p:.2g}" + (", which may be chance" if plain.p >= ALPHA else "")
    )
    yield (
        f"Co-advised {_percent(student.share)}, labels alone {_percent(plain.right / plain.samples)}: the advice {did} "
        f"of {plain.samples:,} images (right alone: {plain.advised:,} and {plain.alone:,}{p})."
    )


def _missed(result: RunResult) -> Iterator[str]:
    missed, there = never_right(result)
    if missed:
        are = "is" if len(missed) == 1 else "are"
        yield f"{len(missed)} of {len(there)} classes {are} never named rightly: {few(missed)}."


def never_right(result: RunResult) -> tuple[list[str], list[str]]:
    """Classes of which no image is named rightly, among those that have images."""
    there = {name: one for name, one in result.per_class.items() if one.support}
    return [name for name, one in there.items() if not one.right], list(there)


def _others(rest: Sequence[Standing], guessed: tuple[int, int] | None, result: RunResult) -> Iterator[str]:
    if guessed is not None:
        share = _percent(guessed[0] / guessed[1])
        yield f"Naming the commonest class always would be right on {guessed[0]:,} ({share})."
    for one in (one for one in rest if one.kind != "labels"):
        which = which_part(one.samples, result, one.part)
        yield f"{one.title[0].upper()}{one.title[1:]}: {one.right:,} of {one.samples:,} ({_percent(one.share)}){which}."


def _cost(ranked: Sequence[Standing]) -> str | None:
    timed = [one for one in ranked if one.images_per_s]
    student, best = ranked[0], max((one for one in ranked if not one.part), key=lambda one: one.share)
    if student not in timed or len(timed) < 2:
        return None
    chance = "" if any(best.above(one) for one in ranked if one is not best) else ", though not by more than chance"
    shown = [one for one in dict.fromkeys((best, student)) if one in timed]
    first, *more = [f"{one.images_per_s:,.0f} images/s with {_millions(one.parameters)}" for one in shown]
    if best not in timed:
        return f"Best is {best.title}{chance}; the student: {first}."
    return f"Best is {best.title}{chance}: {first}" + "".join(f"; the student: {one}" for one in more) + "."


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.3g} M parameters" if parameters >= 999_500 else f"{parameters / 1e3:.3g} k parameters"


def _advice(result: RunResult, folder: Path, guessing: bool, ahead: Sequence[Standing]) -> Iterator[str]:
    longer = _longer(result, folder)
    report = shlex.join(["coadvise", "report", str(folder)])
    use_of: Callable[[Path], str] = lambda place: shlex.join(["coadvise", "predict", "IMAGE", "--model", str(place)])
    if guessing:
        yield f"near guessing: {longer}, or look at its losses and its labels (`{report}`)"
    kinds = {
        "probe": ("baselines", "behind a linear probe"), "labels": ("baselines", "behind labels alone"),
        "teacher": ("teachers", "below a teacher"),
    }  # fmt: skip
    best = {kind: one for kind in kinds if (one := next((one for one in ahead if one.kind == kind), None)) is not None}
    for kind, one in best.items():
        place, what = kinds[kind]
        own = folder / place / one.name
        facts = result.teachers.get(one.name) if kind == "teacher" else None
        if (own / "best.safetensors").is_file():
            ways = [f"use it (`{use_of(own)}`)"]
        elif facts is not None and facts.opens is not None:
            ways = [f"use it (`{use_of(Path(facts.opens))}`)"]
        else:
            ways = [] if facts is None or facts.source is None else [f"use it as it is ({facts.source})"]
        if kind == "probe" and one.name != "student":  # of a student with weights of its own
            ways.append("fine-tune a pretrained student (student.pretrained=true)")
        ways += [longer] if kind == list(best)[-1] and not guessing else []
        if ways:
            yield f"{what}: {', or '.join(ways)}"
    missed, there = never_right(result)
    if not ahead and not guessing:
        poor = len(missed) > len(there) / 2
        yield (
            f"most classes are never named rightly: {longer}, or see where it errs (`{report}`)"
            if poor
            else _use(folder)
        )
