"""Candidates for teachers: what each answers on validation images, and how two of them differ.

Nothing is trained but linear probes: a network that does not know the data's classes answers through one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..shapes import Bool, Float, Int
from ..significance import mcnemar
from .metrics import ensemble, error_consistency, linear_cka


@dataclass(frozen=True, eq=False)
class Candidate:
    """Answers of a candidate on the validation images, which are the same for all of them.

    Attributes:
        bias: its kind; None where it is not known.
        probed: whether it answers through a linear probe.
        log_p: (n, k) logarithms of class probabilities.
        features: (n, d), what its classifier sees.
        images_per_s: that it answers on this machine.
    """

    name: str
    bias: str | None
    probed: bool
    parameters: int
    log_p: Float[Tensor, "n k"]
    features: Float[Tensor, "n d"]
    images_per_s: float

    def right(self, label: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Whether each answer is right."""
        return self.log_p.argmax(dim=1) == label

    def accuracy(self, label: Int[Tensor, " n"]) -> float:
        """Share of the images on which it is right."""
        return float(self.right(label).double().mean())


@dataclass(frozen=True)
class Pair:
    """How two candidates differ.

    Attributes:
        names: of both.
        kappa: error consistency, Cohen's κ of being right; None where chance alone makes them agree.
        cka: linear CKA of their features; None where they do not vary.
        average: accuracy of the mean of their probabilities.
        either: share of the images on which at least one is right.
    """

    names: tuple[str, str]
    kappa: float | None
    cka: float | None
    average: float
    either: float


def pairs_of(candidates: Sequence[Candidate], label: Int[Tensor, " n"]) -> list[Pair]:
    """Every pair of candidates, best average first."""
    found = []
    for a, b in itertools.combinations(candidates, 2):
        average, either = ensemble([a.log_p, b.log_p], label)
        kappa = error_consistency(a.right(label), b.right(label))
        found.append(Pair((a.name, b.name), kappa, linear_cka(a.features, b.features), average, either))
    return sorted(found, key=lambda pair: -pair.average)


@dataclass(frozen=True)
class Choice:
    """A proposed set of teachers.

    Attributes:
        names: of its members, the most accurate first.
        average: accuracy of the mean of their probabilities.
        kappa: mean κ of its pairs; None where there is none.
        best: name of the single candidate that is most accurate.
        gained, lost: images on which the average is right and `best` is wrong, and the other way round.
        p: of as large a difference by chance, two-sided: McNemar's exact test, after Bonferroni's correction for the
            choice among `sets` of them, which was made on the same images.
        weak: candidates that were left out, since they err too often.
        sets: how many were compared.
    """

    names: tuple[str, ...]
    average: float
    kappa: float | None
    best: str
    gained: int
    lost: int
    p: float
    weak: tuple[str, ...]
    sets: int = 1


TWICE, POINTS = 2.0, 0.05
"""A teacher may err so many times as often as the best one, or by so much more often."""


def choose(candidates: Sequence[Candidate], label: Int[Tensor, " n"], count: int) -> Choice:
    """The set of at most `count` candidates whose average is right most often.

    Those that err far more often than the best one are left out: each advises a token of its own, so that its errors
    count, whatever the average makes of them. Sets that no more images speak against than chance would (one standard
    error of the paired difference) count as equal: of these the one whose members err on the most different images is
    taken, by their mean κ.
    """
    ordered = sorted(candidates, key=lambda one: -one.accuracy(label))
    best = ordered[0]
    error = 1 - best.accuracy(label)
    able = [one for one in ordered if 1 - one.accuracy(label) <= max(TWICE * error, error + POINTS)]
    sets = list(itertools.combinations(able, min(count, len(able))))
    right = [_right(members, label) for members in sets]
    top = max(right, key=lambda answers: int(answers.sum()))
    equal = [number for number, answers in enumerate(right) if _margin(top, answers)]
    kappas = {number: mean_kappa(sets[number], label) for number in equal}
    taken = min(equal, key=lambda number: (kappas[number] or 0.0, -int(right[number].sum())))
    changed = mcnemar(right[taken].tolist(), best.right(label).tolist())
    return Choice(
        names=tuple(one.name for one in sets[taken]), average=float(right[taken].double().mean()), kappa=kappas[taken],
        best=best.name, gained=changed.first, lost=changed.second,
        p=1.0 if changed.p is None else min(1.0, len(sets) * changed.p),
        weak=tuple(one.name for one in ordered if one not in able), sets=len(sets),
    )  # fmt: skip


def _right(members: Sequence[Candidate], label: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
    mean = torch.stack([one.log_p.double().exp() for one in members]).mean(dim=0)
    return mean.argmax(dim=1) == label


def _margin(top: Bool[Tensor, " n"], other: Bool[Tensor, " n"]) -> bool:
    """Whether the difference of two sets is within one standard error, √(images on which they differ)."""
    differing = int((top != other).sum())
    return int(top.sum()) - int(other.sum()) <= math.sqrt(differing)


def mean_kappa(members: Sequence[Candidate], label: Int[Tensor, " n"]) -> float | None:
    """Mean κ of the pairs of a set; None where none has one."""
    found = [error_consistency(a.right(label), b.right(label)) for a, b in itertools.combinations(members, 2)]
    known = [kappa for kappa in found if kappa is not None]
    return sum(known) / len(known) if known else None


def as_json(candidates: Sequence[Candidate], label: Int[Tensor, " n"], choice: Choice) -> Mapping[str, object]:
    """All of it, JSON-ready."""
    return {
        "images": len(label),
        "candidates": {
            one.name: {
                "accuracy": one.accuracy(label), "bias": one.bias, "probe": one.probed, "parameters": one.parameters,
                "images_per_s": round(one.images_per_s, 1),
            }
            for one in candidates
        },
        "pairs": [
            {"of": list(pair.names), "kappa": pair.kappa, "cka": pair.cka, "average": pair.average,
             "either": pair.either}
            for pair in pairs_of(candidates, label)
        ],
        "proposed": {"of": list(choice.names), "average": choice.average, "best alone": choice.best,
                     "gained": choice.gained, "lost": choice.lost, "p": choice.p, "sets compared": choice.sets,
                     "kappa": choice.kappa, "too weak": list(choice.weak)},
    }  # fmt: skip
