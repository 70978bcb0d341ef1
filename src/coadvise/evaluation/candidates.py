"""Candidates for teachers: what each answers on validation images, and how two of them differ.

Nothing is trained but linear probes: a network that does not know the data's classes answers through one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .metrics import ensemble, error_consistency, linear_cka


@dataclass(frozen=True)
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
        best: name of the single candidate that is most accurate.
        gained, lost: images on which the average is right and `best` is wrong, and the other way round.
        p: of as large a difference by chance, two-sided (McNemar's exact test).
    """

    names: tuple[str, ...]
    average: float
    best: str
    gained: int
    lost: int
    p: float


def choose(candidates: Sequence[Candidate], label: Int[Tensor, " n"], count: int) -> Choice:
    """The set of `count` candidates whose average is right most often.

    Sets that no more images speak against than chance would (one standard error of the paired difference) count as
    equal: of these the one whose members err on the most different images is taken, by their mean κ.
    """
    by_name = {one.name: one for one in candidates}
    sets = list(itertools.combinations(by_name, min(count, len(by_name))))
    right = {names: _right([by_name[name] for name in names], label) for names in sets}
    top = max(sets, key=lambda names: int(right[names].sum()))
    equal = [names for names in sets if _margin(right[top], right[names])]
    kappas = {names: _mean_kappa([by_name[name] for name in names], label) for names in equal}
    taken = min(equal, key=lambda names: (kappas[names], -int(right[names].sum())))
    best = max(candidates, key=lambda one: one.accuracy(label))
    gained = int((right[taken] & ~best.right(label)).sum())
    lost = int((~right[taken] & best.right(label)).sum())
    members = tuple(sorted(taken, key=lambda name: -by_name[name].accuracy(label)))
    return Choice(members, float(right[taken].double().mean()), best.name, gained, lost, _mcnemar(gained, lost))


def _right(members: Sequence[Candidate], label: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
    mean = torch.stack([one.log_p.double().exp() for one in members]).mean(dim=0)
    return mean.argmax(dim=1) == label


def _margin(top: Bool[Tensor, " n"], other: Bool[Tensor, " n"]) -> bool:
    """Whether the difference of two sets is within one standard error, √(images on which they differ)."""
    differing = int((top != other).sum())
    return int(top.sum()) - int(other.sum()) <= math.sqrt(differing)


def _mean_kappa(members: Sequence[Candidate], label: Int[Tensor, " n"]) -> float:
    found = [error_consistency(a.right(label), b.right(label)) for a, b in itertools.combinations(members, 2)]
    known = [kappa for kappa in found if kappa is not None]
    return sum(known) / len(known) if known else 0.0


def _mcnemar(gained: int, lost: int) -> float:
    from scipy.stats import binomtest  # slow to import

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


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
                     "gained": choice.gained, "lost": choice.lost, "p": choice.p},
    }  # fmt: skip
