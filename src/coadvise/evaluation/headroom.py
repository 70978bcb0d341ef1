"""What pairs of teachers know together, before any student is trained: accuracy of their mean, κ, and Δ.

A student that learns from the summed KL of several teachers on one head learns the mean of their distributions. So the
accuracy of that mean on the student's own views tells what another pair of teachers can be worth to it, and it costs
passes of the teachers alone.

Error consistency κ is that of Geirhos, Meding and Wichmann, "Beyond accuracy: quantifying trial-by-trial behaviour of
CNNs and humans by measuring error consistency", NeurIPS 2020: observed agreement of being right, against that of
independent decisions of these accuracies. Theirs is on plain images; ours also on mixed ones, where right is the class
with the larger share.

Seeds of a model are resampled with the images (`resampling`). A pair weighs the sum of the weights of its members
less 1, the first order of their product: so no seed is paired with itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import ModelError
from ..run.headroom import Asked, Contrast, Headroom, Two
from ..shapes import Bool, Float, Float32, Float64, Int
from .resampling import RESAMPLES, Draws, Outcomes, estimate, joined, means, seed_weights

_AT_ONCE = 4096  # samples


@dataclass(frozen=True)
class Member:
    """A teacher by its name, its bias (None where it is not known), and the model of which it is a seed."""

    name: str
    bias: str | None
    model: str


def pairs_of(count: int) -> list[tuple[int, int]]:
    """Every two of `count` teachers, in order."""
    return list(itertools.combinations(range(count), 2))


def outcomes_of(
    log_p: Sequence[Float[Tensor, "b k"]], target: Float[Tensor, "b k"]
) -> tuple[Bool[np.ndarray, "q b"], Float32[np.ndarray, "q b"]]:
    """Being right and cross entropy of every teacher, and then of the mean of every pair, on a batch.

    Args:
        log_p: logarithms of the class probabilities of each teacher.
        target: shares of the classes. Right is the class with the largest share (the first of equal ones); the cross
            entropy is the expected one, to a class that is drawn by these shares.
    """
    label = target.argmax(dim=1)
    right, loss = [], []
    pairs = (torch.logaddexp(log_p[i], log_p[j]) - math.log(2) for i, j in pairs_of(len(log_p)))
    for row in itertools.chain(log_p, pairs):
        right.append(row.argmax(dim=1) == label)
        # What no class is drawn from adds nothing, whatever its logarithm.
        loss.append(-torch.where(target > 0, target * row, 0.0).sum(dim=1))
    return torch.stack(right).cpu().numpy(), torch.stack(loss).float().cpu().numpy()


def headroom_from(
    probabilities: Float[np.ndarray, "t n k"] | Float[Tensor, "t n k"],
    target: Int[np.ndarray, " n"] | Float[np.ndarray, "n k"] | Tensor,
    members: Sequence[Member],
    *,
    image: Int[np.ndarray, " n"] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Headroom:
    """All quantities of some teachers from their class probabilities.

    Args:
        target: labels, or shares of the classes.
        image: index of the image that each sample counts for, where there are several samples of one.
        seed: of the resamples; the same images get the same ones, however they are seen.

    Raises:
        ModelError: fewer than two teachers, two of one name, or shapes that do not fit.
    """
    p, goal = torch.as_tensor(probabilities), torch.as_tensor(target)
    if p.ndim == 3 and goal.ndim == 1:
        goal = torch.nn.functional.one_hot(goal.long(), p.shape[2])
    if p.ndim != 3 or goal.shape != p.shape[1:] or len(members) != len(p):
        raise ModelError(
            f"probabilities have the shape {tuple(p.shape)}, targets {tuple(goal.shape)}, and {len(members)} teachers "
            "are named; give (teachers, images, classes), (images,) or (images, classes), and a name for each teacher"
        )
    places = np.arange(p.shape[1]) if image is None else np.asarray(image)
    tiny = torch.finfo(torch.float32).tiny
    parts = []
    for at in range(0, p.shape[1], _AT_ONCE):
        part = slice(at, at + _AT_ONCE)
        logs = [one[part].double().clamp_min(tiny).log() for one in p]
        parts.append((*outcomes_of(logs, goal[part].double()), places[part]))
    return headroom(joined(parts, int(places.max()) + 1), members, resamples=resamples, seed=seed)


def headroom(outcomes: Outcomes, members: Sequence[Member], *, resamples: int = RESAMPLES, seed: int = 0) -> Headroom:
    """All quantities, with their intervals.

    Args:
        outcomes: of the teachers in the order of `members`, and of their pairs in that of `pairs_of`.
        seed: of the resamples; outcomes on the same images get the same ones.

    Raises:
        ModelError: fewer than two teachers, or two of one name.
    """
    names = [one.name for one in members]
    if len(names) < 2:
        raise ModelError("name two teachers or more: what pairs of them know together is what is compared")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ModelError(f"two teachers are named '{twice[0]}'; give each a name of its own")
    drawn = _Drawn(outcomes, members, resamples, seed)
    teachers = tuple(
        Asked(one.name, one.bias, one.model, estimate(drawn.accuracy[:, i]), estimate(drawn.loss[:, i]))
        for i, one in enumerate(members)
    )
    seeds = max(sum(one.model == model for one in members) for model in drawn.models)
    each, over_seeds = _Means(drawn, np.ones_like(drawn.weights)), _Means(drawn, drawn.weights)
    pairs = tuple(each.two([p], (names[i], names[j])) for p, (i, j) in enumerate(drawn.pairs))
    models = tuple(over_seeds.two(drawn.groups[two], two) for two in drawn.groups) if seeds > 1 else ()
    contrasts = tuple(over_seeds.contrasts())
    return Headroom(len(np.unique(outcomes.image)), len(outcomes.image), seeds, teachers, pairs, models, contrasts)


class _Drawn:
    """Numbers of single teachers and single pairs, in all resamples.

    Attributes:
        models: of the teachers, in order.
        groups: two models → their pairs of teachers.
        weights: (resamples + 1, pairs), by the seeds that were drawn.
        middle, better: accuracy of the members of each pair: their mean, and that of the better one.
    """

    def __init__(self, outcomes: Outcomes, members: Sequence[Member], resamples: int, seed: int) -> None:
        self.members, self.models = members, [one.model for one in members]
        self.pairs = pairs_of(len(members))
        self.groups: dict[tuple[str, str], list[int]] = {}
        for p, (i, j) in enumerate(self.pairs):
            key = self.models[i], self.models[j]
            self.groups.setdefault(key[::-1] if key[::-1] in self.groups else key, []).append(p)
        first, second = (np.array(side) for side in zip(*self.pairs, strict=True))
        both = outcomes.right[first] & outcomes.right[second]
        found = means([outcomes.right, outcomes.loss, both], outcomes, resamples, seed)
        right, loss, agree = np.split(found, [len(outcomes.right), 2 * len(outcomes.right)], axis=1)
        self.accuracy, self.mean_accuracy = np.split(right, [len(members)], axis=1)
        self.loss, self.mean_loss = np.split(loss, [len(members)], axis=1)
        a, b = self.accuracy[:, first], self.accuracy[:, second]
        self.middle, self.better = (a + b) / 2, np.where(a[0] >= b[0], a, b)
        chance = a * b + (1 - a) * (1 - b)
        with np.errstate(divide="ignore", invalid="ignore"):
            # Both right or both wrong: 1 − a − b + 2 · both.
            self.kappa = np.where(chance < 1 - 1e-12, (1 - a - b + 2 * agree - chance) / (1 - chance), np.nan)
        seeds = seed_weights(self.models, resamples, seed)
        self.weights = seeds[:, first] + seeds[:, second] - 1

    def biases(self, p: int) -> tuple[str | None, str | None]:
        """Of the members of a pair."""
        i, j = self.pairs[p]
        return self.members[i].bias, self.members[j].bias

    def of_kind(self, bias: str) -> list[int]:
        """Pairs of two of a kind."""
        return [p for p in range(len(self.pairs)) if self.biases(p) == (bias, bias)]

    def member(self, bias: str, chosen: Sequence[int]) -> Float64[np.ndarray, "r p"]:
        """Accuracy of the member with a bias, of pairs of two kinds; 0 for other pairs."""
        found = np.zeros_like(self.mean_accuracy)
        for p in chosen:
            i, j = self.pairs[p]
            found[:, p] = self.accuracy[:, i if self.members[i].bias == bias else j]
        return found


class _Means:
    """Means over pairs, in which those of each resample have its weights."""

    def __init__(self, drawn: _Drawn, weights: Float64[np.ndarray, "r p"]) -> None:
        self.drawn, self.weights, self.gain = drawn, weights, drawn.mean_accuracy - drawn.middle
        kinds = sorted({one.bias for one in drawn.members if one.bias is not None})
        self.own = {bias: pairs for bias in kinds if (pairs := drawn.of_kind(bias))}
        self.own_gain = {bias: self.over(self.gain, pairs) for bias, pairs in self.own.items()}

    def over(self, values: Float64[np.ndarray, "r p"], chosen: Sequence[int]) -> Draws:
        """Mean over some pairs: every two models count alike, and their seeds within them.

        Pairs of which the value is not defined are left out.
        """
        known = {p for p in chosen if np.isfinite(values[0, p])}
        groups = [own for pairs in self.drawn.groups.values() if (own := [p for p in pairs if p in known])]
        if not groups:
            return np.full(len(values), np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            sums = [(values[:, own] * self.weights[:, own]).sum(axis=1) / self.weights[:, own].sum(axis=1)
                    for own in groups]  # fmt: skip
        return np.asarray(np.mean(sums, axis=0))

    def two(self, chosen: list[int], names: tuple[str, str]) -> Two:
        """Some pairs that belong together."""
        drawn, biases = self.drawn, self.drawn.biases(chosen[0])
        take = lambda values: self.over(values, chosen)
        own = [self.own_gain[bias] for bias in dict.fromkeys(biases) if bias in self.own_gain]
        delta = None
        if own and None not in biases and biases[0] != biases[1]:
            delta = estimate(take(self.gain) - np.mean(own, axis=0))
        return Two(
            names=names, biases=biases, count=len(chosen), accuracy=estimate(take(drawn.mean_accuracy)),
            loss=estimate(take(drawn.mean_loss)), kappa=estimate(take(drawn.kappa)), gain=estimate(take(self.gain)),
            over_better=estimate(take(drawn.mean_accuracy - drawn.better)), delta=delta,
        )  # fmt: skip

    def contrasts(self) -> Iterator[Contrast]:
        """Every two kinds of which one has a pair of its own."""
        kinds = sorted({one.bias for one in self.drawn.members if one.bias is not None})
        for first, second in itertools.combinations(kinds, 2):
            own = {bias: self.own[bias] for bias in (first, second) if bias in self.own}
            if own:
                yield self._contrast(first, second, own)

    def _contrast(self, first: str, second: str, own: dict[str, list[int]]) -> Contrast:
        drawn = self.drawn
        cross = [p for p in range(len(drawn.pairs)) if set(drawn.biases(p)) == {first, second}]
        accuracy, loss = self.over(drawn.mean_accuracy, cross), self.over(drawn.mean_loss, cross)
        same = {bias: self.over(drawn.mean_accuracy, pairs) for bias, pairs in own.items()}
        better = max(same, key=lambda bias: float(same[bias][0]))
        side = {bias: self.over(drawn.member(bias, cross), cross) for bias in (first, second)}
        equal = self.over(self.gain, cross) - np.mean([self.own_gain[bias] for bias in own], axis=0)
        kappa_same = self.over(drawn.kappa, list(itertools.chain(*own.values())))
        return Contrast(
            biases=(first, second),
            counts={f"{first} + {second}": len(cross), **{bias: len(pairs) for bias, pairs in own.items()}},
            cross=estimate(accuracy), same={bias: estimate(draws) for bias, draws in same.items()}, better=better,
            delta=estimate(accuracy - same[better]), equal=estimate(equal),
            unequal=estimate(side[first] - side[second]),
            loss=estimate(loss - self.over(drawn.mean_loss, own[better])),
            kappa_cross=estimate(self.over(drawn.kappa, cross)), kappa_same=estimate(kappa_same),
        )  # fmt: skip
