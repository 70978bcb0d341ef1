"""What candidates for teachers say before any student is trained, and whether a comparison of students can show more.

Accuracies are shares, cross entropies are in nats, differences of accuracies are shares, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ConfigDict, TypeAdapter, with_config

from ..system.files import read_json
from .result import parsed

FORMAT = 1
NAME = "headroom.json"
HEADROOM = "headroom"
"""Folder of that file beside the report of experiments."""

MARGIN = 0.005
"""Headroom below which students hardly differ: they keep a part of it, and a few seeds tell no half point apart."""
EQUAL = 0.01
"""Two kinds are of equal accuracy where their members differ by less."""
FAR = 0.05
"""Two kinds whose members differ by more are too unequal for gains over the mean accuracy to say anything of kind."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; None where it is not defined, as κ of two that are always right."""

    value: float | None
    low: float | None
    high: float | None

    @property
    def above(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.low is not None and self.low > 0

    @property
    def below(self) -> bool:
        """Whether the whole interval lies below 0."""
        return self.high is not None and self.high < 0

    @property
    def negated(self) -> Estimate:
        """The same with the other sign."""
        value, low, high = (None if one is None else -one for one in (self.value, self.high, self.low))
        return Estimate(value, low, high)


@dataclass(frozen=True)
class Asked:
    """A teacher on some images.

    Attributes:
        bias: its kind; None where it is not known.
        model: what it has in common with other seeds of the same model.
        loss: cross entropy to the labels.
    """

    name: str
    bias: str | None
    model: str
    accuracy: Estimate
    loss: Estimate


@dataclass(frozen=True)
class Two:
    """The mean of the distributions of two teachers, or of all pairs of seeds of two models.

    Attributes:
        names: of both teachers, or of both models.
        biases: of both, in that order.
        count: pairs of teachers over which this is a mean.
        accuracy, loss: of the mean of the distributions.
        kappa: error consistency.
        gain: accuracy less the mean accuracy of the members.
        over_better: accuracy less that of the better member.
        delta: of two kinds, the gain less that of pairs of one kind, in equal parts of the kinds of both members as far
            as they have pairs; None for pairs of one kind, and where neither kind has one.
    """

    names: tuple[str, str]
    biases: tuple[str | None, str | None]
    count: int
    accuracy: Estimate
    loss: Estimate
    kappa: Estimate
    gain: Estimate
    over_better: Estimate
    delta: Estimate | None

    @property
    def kinds(self) -> str | None:
        """`conv` for one kind, `conv + inv` for two; None where one is not known."""
        known = sorted({bias for bias in self.biases if bias is not None})
        return None if None in self.biases else " + ".join(known)


@dataclass(frozen=True)
class Contrast:
    """Pairs of two kinds against pairs of one kind. All pairs of models count alike, and all seeds within them.

    Attributes:
        biases: the two kinds.
        counts: kind, or `A + B`, → pairs of teachers.
        cross: accuracy of the mean of two kinds.
        same: kind → accuracy of the mean of two of that kind.
        better: the kind of which two do better.
        delta: `cross` less `same` of the better kind.
        equal: what `delta` would be of members of equal accuracy: the gain of the mean over the mean of its members,
            of pairs of two kinds less that of pairs of one kind (the mean of both kinds where both have pairs).
        unequal: accuracy of the members of the first kind less that of the second's.
        loss: cross entropy of pairs of two kinds less that of pairs of the better kind; below 0 is better.
        kappa_cross, kappa_same: error consistency of the pairs of two kinds, and of one kind.
    """

    biases: tuple[str, str]
    counts: Mapping[str, int]
    cross: Estimate
    same: Mapping[str, Estimate]
    better: str
    delta: Estimate
    equal: Estimate
    unequal: Estimate
    loss: Estimate
    kappa_cross: Estimate
    kappa_same: Estimate

    @property
    def alike(self) -> bool:
        """Whether the kinds are of equal accuracy."""
        return abs(self.unequal.value or 0.0) < EQUAL

    @property
    def far(self) -> bool:
        """Whether their accuracies are too far apart to adjust for."""
        return abs(self.unequal.value or 0.0) >= FAR


@dataclass(frozen=True)
class Headroom:
    """All teachers and pairs on images that are seen in one way.

    Attributes:
        images, samples: different images, and views of them.
        seeds: most teachers of one model.
        pairs: every pair of teachers.
        models: every pair of models over their seeds; empty where each model has one teacher, and `pairs` says it all.
        contrasts: for every two kinds of which at least one has a pair of its own.
    """

    images: int
    samples: int
    seeds: int
    teachers: tuple[Asked, ...]
    pairs: tuple[Two, ...]
    models: tuple[Two, ...]
    contrasts: tuple[Contrast, ...]

    @property
    def shown(self) -> tuple[Two, ...]:
        """Pairs of models where models have seeds, else pairs of teachers; best first."""
        return tuple(sorted(self.models or self.pairs, key=lambda two: -(two.accuracy.value or 0.0)))


@with_config(ConfigDict(extra="ignore"))
@dataclass(frozen=True)
class HeadroomResult:
    """The content of `headroom.json`.

    Attributes:
        student: on images as the student's augmentation and mixing show them.
        plain: on images as evaluation shows them.
        views: training views of each image.
        resamples, seed: of the bootstrap.
        facts: teacher → its model, bias, weights (hash) and file.
        seconds: that the teachers took.
    """

    name: str
    student: Headroom
    plain: Headroom
    views: int
    resamples: int
    seed: int
    seconds: float
    facts: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def content(self) -> dict[str, Any]:
        """JSON-ready, with the verdicts in words."""
        said = [dataclasses.asdict(one) for one in verdicts(self.student)]
        return {**dataclasses.asdict(self), "verdicts": said}

    @classmethod
    def read(cls, path: Path) -> HeadroomResult:
        """Read such a file.

        Raises:
            RunError: the file is missing, no JSON, or has fields of another form.
        """
        return parsed(_ADAPTER, read_json(path, "run `coadvise headroom` again"), path)  # type: ignore[no-any-return]


_ADAPTER = TypeAdapter(HeadroomResult)


class _Told(NamedTuple):
    outcome: Literal["yes", "no", "other"]
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """Whether a comparison of students can show what a second kind adds.

    Attributes:
        outcome: `yes`; `no`; `other` for what is undecided, or decided by accuracy and not by kind.
    """

    outcome: str
    sentence: str
    notes: tuple[str, ...] = ()


def in_points(one: Estimate, signed: bool = True) -> str:
    """`+1.4 points (0.6 … 2.1)`."""
    if one.value is None or one.low is None or one.high is None:
        return "not defined"
    value = _points(one.value)
    sign = "+" if signed and value.strip("0.") and not value.startswith("−") else ""
    return f"{sign}{value} points ({_points(one.low)} … {_points(one.high)})"


def _points(share: float) -> str:
    text = f"{100 * share:.1f}"
    return (text.lstrip("-") if float(text) == 0 else text).replace("-", "−")


def verdicts(found: Headroom) -> list[Verdict]:
    """A verdict for every two kinds, or one that says what is missing for any."""
    if found.contrasts:
        return [_verdict(one, found.seeds) for one in found.contrasts]
    kinds = sorted({one.bias for one in found.teachers if one.bias is not None})
    if len(kinds) > 1:
        what = f"the teachers are one {' and one '.join(kinds)}"
        sentence = f"nothing to compare with: {what}; give a second one of a kind, such as another seed"
    elif kinds:
        sentence = f"nothing to compare with: all teachers are of one kind, {kinds[0]}; give one of another"
    else:
        sentence = "nothing to compare: the kinds of the teachers are not known; set teachers.NAME.bias"
    return [Verdict("other", sentence, tuple(_gains(found.shown)))]


def _gains(pairs: Sequence[Two]) -> list[str]:
    return [
        f"{' + '.join(two.names)}: {in_points(two.gain)} over the mean of both, "
        f"{in_points(two.over_better)} over the better one"
        for two in pairs[:3]
    ]


def _verdict(one: Contrast, seeds: int) -> Verdict:
    first, second = one.biases
    told, notes = _told(one), []
    if one.alike:
        notes.append(
            f"of equal accuracy within {100 * EQUAL:.0f} point, so Δ is that of gains over the mean accuracy of the "
            f"members; as they are, two kinds against two of {one.better}, it is {in_points(one.delta)}"
        )
    else:
        ahead, behind = (first, second) if (one.unequal.value or 0.0) > 0 else (second, first)
        notes.append(
            f"not of equal accuracy: {ahead} is {_points(abs(one.unequal.value or 0.0))} points better than {behind}, "
            f"so Δ is that against two of {one.better}; by gains over the mean accuracy of the members it is "
            f"{in_points(one.equal)}"
        )
        if one.far:
            notes.append("which says little: the mean of so unequal members gains by the better one alone")
    if len(one.same) == 1:
        other = second if one.better == first else first
        notes.append(f"there are no two of {other} to compare with")
    notes.append(
        f"intervals are over images and over up to {seeds} seeds of a model, few as these are"
        if seeds > 1
        else "intervals are over images alone: other seeds of these teachers may differ by more"
    )
    return Verdict(told.outcome, f"{first} + {second}: {told.sentence}", tuple(notes))


def _told(one: Contrast) -> _Told:
    delta = one.equal if one.alike else one.delta
    two, against = in_points(delta), "one kind" if one.alike else one.better
    if delta.high is None or delta.low is None:
        return _Told("other", "not defined on these images")
    if delta.above and delta.high < MARGIN:
        return _Told("no", f"a headroom of {two} only: students of these pairs will hardly differ")
    if delta.above and one.equal.above:
        return _Told("yes", f"a second kind has a headroom of {two}: a comparison of students can show something")
    if delta.above:
        return _Told(
            "other",
            f"two kinds are better by {two}, but not shown to be so at equal accuracy ({in_points(one.equal)}): "
            "students may differ, and it would not be for the kind",
        )
    if not one.alike and not one.far and one.equal.low is not None and one.equal.low >= MARGIN:
        now = "no headroom" if delta.high < MARGIN else "undecided"
        return _Told(
            "other",
            f"{now} as they are, {two} against two of {one.better}; at equal accuracy it would be "
            f"{in_points(one.equal)}: a better teacher of the weaker kind comes first",
        )
    if delta.below:
        ahead = in_points(delta.negated, signed=False)
        return _Told("no", f"no headroom, two of {against} do better than two kinds by {ahead}")
    if delta.high < MARGIN:
        return _Told("no", f"no headroom, {two}: students of these pairs will hardly differ")
    return _Told("other", f"undecided, {two}: more validation images, views or seeds of teachers would tell")
