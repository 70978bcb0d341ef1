"""Every term of the loss and their weighted sum, for given logits, advice and targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..errors import ModelError
from ..names import CLASS
from ..shapes import Bool, Float, Int
from .checking import check_fits, check_kept, check_kinds, check_settings
from .gates import Gate, counted, harder, right, target_class
from .one import (
    Reduction,
    decoupled_advice,
    dist_advice,
    hard_advice,
    label_loss,
    soft_advice,
    standardised_advice,
)
from .several import several_hard_advice, several_label_loss, several_soft_advice

# Logits of a batch from which on memory is worth a second computation: 1 MiB in float32.
LARGE = 2**18

Kind = Literal["soft", "hard", "standardised", "dist", "decoupled"]
Logits = Mapping[str, Float[Tensor, "b k"]]
Target = Float[Tensor, "b k"] | Int[Tensor, " b"]
Kept = Mapping[str, Bool[Tensor, " b"]]


class LossTerms(dict[str, Tensor]):
    """Every term of the loss by token or teacher name, unweighted (τ² included), and their weighted sum.

    Attributes:
        total: scalar tensor, Σ λ · term.
    """

    def __init__(self, terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> None:
        super().__init__(terms)
        total = torch.zeros((), device=next(iter(terms.values())).device)
        for name, term in terms.items():
            total = total + weights.get(name, 1.0) * term
        self.total = total


def co_advise_loss(
    logits: Logits,
    advice: Logits,
    target: Target,
    *,
    weights: Mapping[str, float] | None = None,
    temperatures: Mapping[str, float] | None = None,
    kind: Kind = "soft",
    tokens: Literal["own", "single"] = "own",
    known: Mapping[str, Sequence[int] | Int[Tensor, " c"]] | None = None,
    labelled: float = 1.0,
    labels: Literal["one", "several"] = "one",
    parts: tuple[float, float] = (1.0, 1.0),
    gate: Gate = "none",
    kept: Kept | None = None,
) -> LossTerms:
    """Eq. 1 for any number of teachers.

    Args:
        logits: student's output by token name, as from `forward_tokens`; `class` is required.
        advice: teacher's logits by teacher name, for the same images; carries no gradient.
        target: class indices (b,) or soft targets (b, k), as after mixup. Rows sum to one; with class weights, to the
            weight of the image in the mean over the batch, which is not divided by the sum of weights.
        weights: λ by name (`class` is λ0), 1 where not given, never negative.
        temperatures: τ by teacher name, 1 where not given, positive.
        kind: `soft` advice is KL at temperature τ; `hard` is cross entropy to the teacher's top class, without τ;
            `standardised` is KL of z-scores (`standardised_advice`); `dist` is 1 − Pearson's correlation
            (`dist_advice`); `decoupled` weighs KL of the target class and KL of the others (`decoupled_advice`; of a
            mixed image, the class of the larger share).
        tokens: `own` lets each teacher advise the token of its name; `single` puts every term on the class
            token (Table 7, and students with one head).
        known: by name, the classes that a teacher knows, of those that do not know them all. Such a teacher's term is
            over these alone, with both distributions as they are given one of them: of the other classes, and of how
            likely these are together, it says nothing.
        labelled: share of the training images that have a label, where the others' targets are rows of zeros. The
            terms of the labels are divided by it, so that an image weighs in them what it would without the others;
            advice counts on all images. Being the share of all images and not of this batch, it keeps the mean over
            micro-batches and processes right, whatever each of them has; a batch without labels has terms of 0.
        labels: how many classes an image has. `several`: any number, so that each class is a question of its own, the
            target holds a 0 or a 1 for each, and every term is the mean over the classes.
        parts: weights of the two parts of `dist` (inter, intra) and of `decoupled` (α, β).
        gate: the images on which a teacher's term counts: `none` of them is left out; where the teacher is `right` (of
            a mixed image, about the class of the larger share); where its term is the highest of all teachers'
            (`harder`). Each term is the mean over all images of the batch whatever the gate.
        kept: images on which a teacher's term counts by its name, as drawn at random: with `harder`, on these beside
            those where it is the highest; else on no others. It counts on all for a teacher that is not named.

    Returns:
        LossTerms: `class` first, then each token. A token without a teacher learns the labels. Under `single`
        the terms of the teachers keep the teachers' names.

    Raises:
        ModelError: names, shapes, λ or τ that do not fit.
    """
    objective = Objective(weights or {}, temperatures or {}, kind, tokens, known or {}, labelled, labels, parts, gate)
    return objective(logits, advice, target, kept or {})


@dataclass(frozen=True)
class Objective:
    """Eq. 1 with its settings: what training minimises, and what costs are measured of.

    Attributes: as the arguments of `co_advise_loss`.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    temperatures: Mapping[str, float] = field(default_factory=dict)
    kind: Kind = "soft"
    tokens: Literal["own", "single"] = "own"
    known: Mapping[str, Sequence[int] | Int[Tensor, " c"]] = field(default_factory=dict)
    labelled: float = 1.0
    labels: Literal["one", "several"] = "one"
    parts: tuple[float, float] = (1.0, 1.0)
    gate: Gate = "none"

    def on(self, device: torch.device) -> Objective:
        """The same with the classes that a teacher knows on the device: lists would be copied there in every step."""
        return replace(self, known={name: torch.as_tensor(one, device=device) for name, one in self.known.items()})

    def names(self, tokens: Iterable[str], teachers: Iterable[str]) -> tuple[str, ...]:
        """Names of the terms, in order, for a student with these outputs and these teachers."""
        return tuple(dict.fromkeys([CLASS, *tokens, *teachers]))

    def terms(self, logits: Logits, advice: Logits, target: Target, kept: Kept | None = None) -> LossTerms:
        """As calling it, without a check of what is given: what a step of training does and what is compiled."""
        label = label_loss if self.labels == "one" else several_label_loss
        if self.tokens == "single":  # every term falls on it, and their gradients are summed in float32
            logits = {**logits, CLASS: logits[CLASS].float()}
        reduction: Reduction = "none" if self.gate != "none" or kept else "mean"
        terms: dict[str, Tensor] = {}
        for name in self.names(logits, advice):
            if name == CLASS or name not in advice:
                terms[name] = label(logits[name], target, self.labelled)
            else:
                token = logits[CLASS if self.tokens == "single" else name]
                terms[name] = self._advice(name, token, advice[name].detach(), target, reduction)
        if reduction == "none":
            terms |= self._counted({name: terms[name] for name in advice}, advice, target, kept or {})
        return LossTerms(terms, self.weights)

    def __call__(self, logits: Logits, advice: Logits, target: Target, kept: Kept | None = None) -> LossTerms:
        """Every term of the loss, and their weighted sum.

        Raises:
            ModelError: as `co_advise_loss`.
        """
        if not 0 < self.labelled <= 1:
            raise ModelError(f"co_advise_loss: labelled is {self.labelled}, must be a share: > 0 and ≤ 1")
        check_kinds(logits, advice, target, self.weights, self.temperatures)
        check_fits(logits, advice, target, self.weights, self.temperatures, self.tokens)
        check_settings(self.kind, self.parts, self.gate, self.labels, self.labelled)
        check_kept(kept or {}, advice, self.kind, self.parts)
        if self.labels == "several" and target.ndim == 1:
            raise ModelError("labels='several' takes a target (b, k): 0 or 1 for each class of each image")
        try:
            return self.terms(logits, advice, target, kept)
        except IndexError:
            classes, lowest, highest = logits[CLASS].shape[1], int(target.min()), int(target.max())
            if target.ndim != 1 or (lowest >= 0 and highest < classes):
                raise
            wrong = highest if highest >= classes else lowest
            raise ModelError(f"target holds {wrong}; the student has {classes} classes") from None

    def _advice(self, name: str, student: Tensor, teacher: Tensor, target: Target, reduction: Reduction) -> Tensor:
        """One teacher's term."""
        if name in self.known:
            student, teacher = (_columns(one, self.known[name]) for one in (student, teacher))
        temperature, (first, second) = self.temperatures.get(name, 1.0), self.parts
        if self.kind == "hard":
            hard = hard_advice if self.labels == "one" else several_hard_advice
            return _lean(hard, student, teacher, reduction)
        if self.kind == "standardised":
            return _lean(standardised_advice, student, teacher, temperature, reduction)
        if self.kind == "dist":
            return _lean(dist_advice, student, teacher, temperature, first, second, reduction)
        if self.kind == "decoupled":
            classes = self._class(name, target)
            return _lean(decoupled_advice, student, teacher, classes, temperature, first, second, reduction)
        soft = soft_advice if self.labels == "one" else several_soft_advice
        return _lean(soft, student, teacher, temperature, reduction)

    def _counted(self, each: Logits, advice: Logits, target: Target, kept: Kept) -> dict[str, Tensor]:
        """The teachers' terms of the images on which they count."""
        assert kept.keys() <= each.keys()
        if self.gate == "harder":
            where: dict[str, Tensor] = {
                name: one | kept[name] if name in kept else one for name, one in harder(each).items()
            }
        elif self.gate == "right":
            where = {}
            for name, z in advice.items():
                sure = _columns(z, self.known[name]) if name in self.known else z
                correct = right(sure, self._class(name, target))
                where[name] = correct & kept[name] if name in kept else correct
        else:
            where = dict(kept)
        return {name: counted(one, where[name]) if name in where else one.mean() for name, one in each.items()}

    def _class(self, name: str, target: Target) -> Int[Tensor, " b"]:
        """The class of each image among those that a teacher knows; −1 where it does not know it."""
        classes = target_class(target)
        if name not in self.known:
            return classes
        known = torch.as_tensor(self.known[name], device=classes.device)
        same = classes[:, None] == known
        return torch.where(same.any(dim=1), same.to(torch.uint8).argmax(dim=1), -1)


def _columns(z: Float[Tensor, "b k"], chosen: Sequence[int] | Int[Tensor, " c"]) -> Float[Tensor, "b c"]:
    return z.index_select(1, chosen) if isinstance(chosen, Tensor) else z[:, chosen]


def _lean(advise: Callable[..., Tensor], student: Tensor, teacher: Tensor, *settings: object) -> Tensor:
    """`advise(student, teacher, …)`; large logits in 16 bits are kept for the backward pass as they are.

    PyTorch would keep several copies in float32 for each teacher. Here they are made again when they are needed, one
    teacher after the other. A compiler decides on its own.
    """
    if torch.compiler.is_compiling() or student.numel() < LARGE or student.element_size() > 2:
        return advise(student, teacher, *settings)
    term: Tensor = checkpoint(advise, student, teacher, *settings, use_reentrant=False, preserve_rng_state=False)
    return term
