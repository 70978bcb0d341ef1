"""The co-advising loss: Eq. 1 of the paper for any number of teachers.

L = λ0 · CE(σ(z_class), y) + Σ_t λ_t · τ_t² · KL(σ(z_teacher_t / τ_t) ‖ σ(z_token_t / τ_t)), each term the mean over
the batch. Eq. 1 prints the student first inside KL; the official code computes KL(teacher ‖ student), the usual
direction of distillation, and so does this module. Everything here is a pure function of tensors: the teachers
run elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, SupportsFloat

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .errors import ModelError, did_you_mean, require
from .names import CLASS

_LOWEST = torch.finfo(torch.float32).min
# Logits of a batch from which on memory is worth a second computation: 1 MiB in float32.
LARGE = 2**18


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


def label_loss(
    logits: Float[Tensor, "b k"], target: Float[Tensor, "b k"] | Int[Tensor, " b"], labelled: float = 1.0
) -> Float[Tensor, ""]:
    """Cross entropy to hard labels (b,) or soft targets (b, k), mean over the batch, in float32.

    Args:
        labelled: share of all images that have a label; the targets of the others are zeros. The mean is divided by it.
    """
    loss = F.cross_entropy(logits.float(), target if target.ndim == 1 else target.float())
    return loss if labelled == 1 else loss / labelled


def soft_advice(student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"], temperature: float) -> Float[Tensor, ""]:
    """τ² · KL(teacher ‖ student) at temperature τ, mean over the batch (Eq. 1, second and third term)."""
    # Half precision loses small probabilities and the difference of two logs cancels: always float32.
    # A class that the teacher masks (−inf) has no probability and adds nothing: 0 · −inf would be NaN.
    log_p = F.log_softmax(teacher.float() / temperature, dim=1).clamp_min(_LOWEST)
    log_q = F.log_softmax(student.float() / temperature, dim=1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2


def hard_advice(student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
    """Cross entropy to the teacher's top class (DeiT's hard distillation), mean over the batch."""
    return F.cross_entropy(student.float(), teacher.argmax(dim=1))


def several_label_loss(
    logits: Float[Tensor, "b k"], target: Float[Tensor, "b k"], labelled: float = 1.0
) -> Float[Tensor, ""]:
    """Binary cross entropy of each class, mean over classes and batch, as timm's `BinaryCrossEntropy`; in float32.

    Args:
        labelled: has to be 1, since a target of zeros says here that there is no class.
    """
    assert labelled == 1
    return F.binary_cross_entropy_with_logits(logits.float(), target.float())


def several_soft_advice(
    student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"], temperature: float
) -> Float[Tensor, ""]:
    """τ² · KL(teacher ‖ student) of the yes or no to each class at temperature τ, mean over classes and batch."""
    total = torch.zeros((), device=student.device)
    for sign in (1, -1):  # σ(−z) = 1 − σ(z)
        log_p = F.logsigmoid(sign * teacher.float() / temperature).clamp_min(_LOWEST)
        log_q = F.logsigmoid(sign * student.float() / temperature)
        total = total + (log_p.exp() * (log_p - log_q)).mean()
    return total * temperature**2


def several_hard_advice(student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
    """Binary cross entropy to the classes of which the teacher is more than half sure."""
    return several_label_loss(student, teacher > 0)


class Comparison(NamedTuple):
    """What logits are compared by: with targets, with a teacher's logits, and with a teacher's answer."""

    label: Callable[[Tensor, Tensor, float], Tensor]
    soft: Callable[[Tensor, Tensor, float], Tensor]
    hard: Callable[[Tensor, Tensor], Tensor]


COMPARISONS = {
    "one": Comparison(label_loss, soft_advice, hard_advice),
    "several": Comparison(several_label_loss, several_soft_advice, several_hard_advice),
}
"""By how many classes an image has: one of them (softmax), or any number (sigmoid)."""


def co_advise_loss(
    logits: Mapping[str, Float[Tensor, "b k"]],
    advice: Mapping[str, Float[Tensor, "b k"]],
    target: Float[Tensor, "b k"] | Int[Tensor, " b"],
    *,
    weights: Mapping[str, float] | None = None,
    temperatures: Mapping[str, float] | None = None,
    kind: Literal["soft", "hard"] = "soft",
    tokens: Literal["own", "single"] = "own",
    known: Mapping[str, Sequence[int] | Int[Tensor, " c"]] | None = None,
    labelled: float = 1.0,
    labels: Literal["one", "several"] = "one",
) -> LossTerms:
    """Eq. 1 for any number of teachers.

    Args:
        logits: student's output by token name, as from `forward_tokens`; `class` is required.
        advice: teacher's logits by teacher name, for the same images; carries no gradient.
        target: class indices (b,) or soft targets (b, k), as after mixup. Rows sum to one; with class weights, to the
            weight of the image in the mean over the batch, which is not divided by the sum of weights.
        weights: λ by name (`class` is λ0), 1 where not given, never negative.
        temperatures: τ by teacher name, 1 where not given, positive.
        kind: `soft` advice is KL at temperature τ; `hard` is cross entropy to the teacher's top class, without τ.
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

    Returns:
        LossTerms: `class` first, then each token. A token without a teacher learns the labels. Under `single`
        the terms of the teachers keep the teachers' names.

    Raises:
        ModelError: names, shapes, λ or τ that do not fit.
    """
    weights, temperatures, known = weights or {}, temperatures or {}, known or {}
    if not 0 < labelled <= 1:
        raise ModelError(f"co_advise_loss: labelled is {labelled}, must be a share: > 0 and ≤ 1")
    _check_kinds(logits, advice, target, weights, temperatures)
    _check(logits, advice, target, weights, temperatures, tokens)
    if labels == "several" and target.ndim == 1:
        raise ModelError("labels='several' takes a target (b, k): 0 or 1 for each class of each image")
    if labels == "several" and labelled != 1:
        raise ModelError("labels='several' takes labelled images alone: a target of zeros says that there is no class")
    objective = Objective(weights, temperatures, kind, tokens, known, labelled, labels)
    try:
        return objective.terms(logits, advice, target)
    except IndexError:
        classes, lowest, highest = logits[CLASS].shape[1], int(target.min()), int(target.max())
        if target.ndim != 1 or (lowest >= 0 and highest < classes):
            raise
        wrong = highest if highest >= classes else lowest
        raise ModelError(f"target holds {wrong}; the student has {classes} classes") from None


@dataclass(frozen=True)
class Objective:
    """Eq. 1 with its settings: what training minimises, and what costs are measured of.

    Attributes: as the arguments of `co_advise_loss`.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    temperatures: Mapping[str, float] = field(default_factory=dict)
    kind: Literal["soft", "hard"] = "soft"
    tokens: Literal["own", "single"] = "own"
    known: Mapping[str, Sequence[int] | Int[Tensor, " c"]] = field(default_factory=dict)
    labelled: float = 1.0
    labels: Literal["one", "several"] = "one"

    def on(self, device: torch.device) -> Objective:
        """The same with the classes that a teacher knows on the device: lists would be copied there in every step."""
        return replace(self, known={name: torch.as_tensor(one, device=device) for name, one in self.known.items()})

    def names(self, tokens: Iterable[str], teachers: Iterable[str]) -> tuple[str, ...]:
        """Names of the terms, in order, for a student with these outputs and these teachers."""
        return tuple(dict.fromkeys([CLASS, *tokens, *teachers]))

    def terms(
        self,
        logits: Mapping[str, Float[Tensor, "b k"]],
        advice: Mapping[str, Float[Tensor, "b k"]],
        target: Float[Tensor, "b k"] | Int[Tensor, " b"],
    ) -> LossTerms:
        """As calling it, without a check of what is given: what a step of training does and what is compiled."""
        compare = COMPARISONS[self.labels]
        if self.tokens == "single":  # every term falls on it, and their gradients are summed in float32
            logits = {**logits, CLASS: logits[CLASS].float()}
        terms: dict[str, Tensor] = {}
        for name in self.names(logits, advice):
            if name == CLASS or name not in advice:
                terms[name] = compare.label(logits[name], target, self.labelled)
                continue
            student, teacher = logits[CLASS if self.tokens == "single" else name], advice[name].detach()
            if name in self.known:
                student, teacher = (_columns(one, self.known[name]) for one in (student, teacher))
            if self.kind == "hard":
                terms[name] = _lean(compare.hard, student, teacher)
            else:
                terms[name] = _lean(compare.soft, student, teacher, self.temperatures.get(name, 1.0))
        return LossTerms(terms, self.weights)

    def __call__(
        self,
        logits: Mapping[str, Float[Tensor, "b k"]],
        advice: Mapping[str, Float[Tensor, "b k"]],
        target: Float[Tensor, "b k"] | Int[Tensor, " b"],
    ) -> LossTerms:
        """Every term of the loss, and their weighted sum."""
        return co_advise_loss(
            logits, advice, target, weights=self.weights, temperatures=self.temperatures, kind=self.kind,
            tokens=self.tokens, known=self.known, labelled=self.labelled, labels=self.labels,
        )  # fmt: skip


def _columns(z: Float[Tensor, "b k"], chosen: Sequence[int] | Int[Tensor, " c"]) -> Float[Tensor, "b c"]:
    return z.index_select(1, chosen) if isinstance(chosen, Tensor) else z[:, chosen]


def _lean(advise: Callable[..., Tensor], student: Tensor, teacher: Tensor, *settings: float) -> Tensor:
    """`advise(student, teacher, …)`; large logits in 16 bits are kept for the backward pass as they are.

    PyTorch would keep several copies in float32 for each teacher. Here they are made again when they are needed, one
    teacher after the other. A compiler decides on its own.
    """
    if torch.compiler.is_compiling() or student.numel() < LARGE or student.element_size() > 2:
        return advise(student, teacher, *settings)
    term: Tensor = checkpoint(advise, student, teacher, *settings, use_reentrant=False, preserve_rng_state=False)
    return term


def _check_kinds(logits: object, advice: object, target: object, weights: object, temperatures: object) -> None:
    """Refuse what is no mapping of tensors or numbers: Python's own errors would not say which argument is meant."""
    groups = {"logits": logits, "advice": advice, "weights": weights, "temperatures": temperatures}
    for what, group in groups.items():
        kind, example = ("tensors", "{'class': z, …}") if what in ("logits", "advice") else ("numbers", "{'conv': 2.0}")
        require(
            group, Mapping, f"co_advise_loss: {what}", f"give a mapping from names to {kind}, {example}", ModelError
        )
        for name, value in group.items() if isinstance(group, Mapping) else ():
            wanted = Tensor if kind == "tensors" else SupportsFloat
            require(value, wanted, f"co_advise_loss: {what} of '{name}'", f"give {kind}", ModelError)
    how = "give a tensor of class indices (b,) or of soft targets (b, k)"
    require(target, Tensor, "co_advise_loss: target", how, ModelError)
    if isinstance(target, Tensor) and target.ndim == 1 and target.dtype not in (torch.int64, torch.uint8):
        raise ModelError(f"co_advise_loss: target is of {target.dtype}; class indices are int64: target.long()")


def _check(
    logits: Mapping[str, Tensor],
    advice: Mapping[str, Tensor],
    target: Tensor,
    weights: Mapping[str, float],
    temperatures: Mapping[str, float],
    tokens: str,
) -> None:
    if CLASS not in logits:
        raise ModelError(f"logits have no '{CLASS}' token (they have: {', '.join(logits) or 'none'})")
    shape = tuple(logits[CLASS].shape)
    for what, group in (("student token", logits), ("teacher", advice)):
        for name, z in group.items():
            if tuple(z.shape) != shape:
                raise ModelError(
                    f"{what} '{name}' gives logits of shape {tuple(z.shape)}, expected {shape} like 'class'"
                )
    if (
        target.ndim == 0
        or target.shape[0] != shape[0]
        or (target.ndim == 2 and tuple(target.shape) != shape)
        or target.ndim > 2
    ):
        raise ModelError(f"target has shape {tuple(target.shape)}, expected ({shape[0]},) or {shape}")
    if tokens == "own":
        for name in advice:
            if name not in logits:
                raise ModelError(
                    f"teacher '{name}' has no token of its own{did_you_mean(name, logits)}; "
                    "give the student a token of that name, or use tokens='single'"
                )
    for name, weight in weights.items():
        if name not in logits and name not in advice:
            raise ModelError(f"weights: there is no '{name}'{did_you_mean(name, [*logits, *advice])}")
        if weight < 0:
            raise ModelError(f"weight of '{name}' is {weight}, must be ≥ 0")
    for name, temperature in temperatures.items():
        if name not in advice:
            raise ModelError(f"temperatures: there is no teacher '{name}'{did_you_mean(name, advice)}")
        if not temperature > 0:
            raise ModelError(f"temperature of '{name}' is {temperature}, must be > 0")
