"""The recipe's part on what a student learns by, and which of its settings go together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from .data import Augmentation, Data
from .fields import NonNegative, Part, Positive, Probability


class Dist(Part):
    """Weights of the two parts of `loss.advice: dist`."""

    inter: NonNegative = 1.0
    """Of the correlation between the classes of an image."""
    intra: NonNegative = 1.0
    """Of the correlation between the images of a class, in each micro-batch of a process by itself."""


class Decoupled(Part):
    """Weights of the two parts of `loss.advice: decoupled`."""

    alpha: NonNegative = 1.0
    """Of whether an image is of its class or not."""
    beta: NonNegative = 1.0
    """Of the other classes among themselves."""


class Loss(Part):
    """Eq. 1 of the paper and its variants."""

    label_weight: NonNegative = 1.0
    """λ0, the weight of the labels on the class token."""
    weights: dict[str, NonNegative] = {}
    """λ of each advised token, by name; 1 where not given."""
    temperatures: dict[str, Positive] = {}
    """τ of each teacher, by name; 1 where not given."""
    advice: Literal["soft", "hard", "standardised", "dist", "decoupled"] = "soft"
    """`soft`: KL to the teacher's distribution. `hard`: cross entropy to the teacher's top class. `standardised`: KL of
    logits that are z-scores. `dist`: 1 − correlation. `decoupled`: KL of the target class and of the others apart."""
    tokens: Literal["auto", "own", "single"] = "auto"
    """`own`: each teacher advises its own token, which is added to a ViT of timm. `single`: every term acts on the
    class output (Table 7). `auto`: `own` for a token student, `single` for a model with one head."""
    apart: NonNegative = 0.0
    """Weight of a term that keeps the heads of advised tokens from reading the same directions (Saito et al., 2017)."""
    dist: Dist = Dist()
    decoupled: Decoupled = Decoupled()
    gate: Literal["none", "right", "harder", "random"] = "none"
    """Images on which a teacher's term counts: all; those on which it is `right`; those on which its term is the
    highest of all teachers' (`harder`); or some that are drawn at `random` for each teacher. The mean is over all
    images whatever the gate."""
    gate_drop: Probability | None = None
    """Probability with which `random` leaves out a teacher on an image (0.5 when not given), and `harder` one whose
    term is not the highest (1 when not given)."""

    @property
    def parts(self) -> tuple[float, float]:
        """Weights of the two parts of the advice, where it has two."""
        if self.advice == "dist":
            return self.dist.inter, self.dist.intra
        return self.decoupled.alpha, self.decoupled.beta

    @property
    def drop(self) -> float:
        """Probability with which a teacher is left out by chance."""
        if self.gate_drop is not None:
            return self.gate_drop
        return {"random": 0.5, "harder": 1.0}.get(self.gate, 0.0)


def needs_all(loss: Loss) -> bool:
    """Whether advice needs the logits of all classes, so that none of them may be left out of a cache."""
    return loss.advice == "standardised"


def loss_problems(loss: Loss, data: Data, advisers: int, top_k: int | None) -> Iterable[str]:
    """What does not go together, in words.

    Args:
        advisers: number of terms of advice.
        top_k: logits that are stored of each image; None where all are at hand.
    """
    for name in ("dist", "decoupled"):
        if getattr(loss, name) != type(getattr(loss, name))() and loss.advice != name:
            yield f"loss.{name} goes with loss.advice={name}; leave it out"
    if loss.advice in ("dist", "decoupled") and not any(loss.parts):
        yield f"loss.{loss.advice}: both weights are 0, which leaves no advice"
    if loss.gate_drop is not None and loss.gate not in ("random", "harder"):
        yield "loss.gate_drop goes with loss.gate=random or harder; leave it out"
    if loss.gate == "random" and loss.drop == 1:
        yield "loss.gate_drop is 1, which leaves no advice; must be < 1 with loss.gate=random"
    if loss.gate == "harder" and advisers == 1:
        yield "loss.gate=harder chooses between teachers, and one advises; add another, or leave it out"
    if loss.gate != "none" and loss.advice == "dist" and loss.dist.intra:
        yield (
            f"loss.gate={loss.gate} chooses images, and the correlation between images belongs to none of them; set "
            "loss.dist.intra=0"
        )
    if needs_all(loss) and top_k is not None:
        yield (
            f"loss.advice=standardised needs the logits of all classes, and {top_k} of each image are stored; set "
            "advice.top_k=null"
        )
    yield from _label_problems(loss, data)


def _label_problems(loss: Loss, data: Data) -> Iterable[str]:
    """Advice and gates that ask for the class of an image."""
    of_one_class = [f"loss.advice={loss.advice}"] if loss.advice not in ("soft", "hard") else []
    asking = [f"loss.advice={loss.advice}"] if loss.advice == "decoupled" else []
    if loss.gate == "right":
        of_one_class, asking = ([*words, "loss.gate=right"] for words in (of_one_class, asking))
    if data.labels == "several":
        for setting in of_one_class:
            yield f"{setting} is for images of one class each; leave it out with data.labels=several"
        return
    for setting in asking:
        if data.unlabelled is not None:
            yield f"{setting} needs the class of every image; leave it out with data.unlabelled"
        if data.balance == "weights" and mixes(data.augment):
            yield (
                f"{setting} takes a mixed image for one of the class of its larger share, which weights of classes "
                "hide; take data.balance=sampling, or leave it out"
            )


def mixes(augment: Augmentation) -> bool:
    """Whether two images are made one."""
    return augment.mix_probability > 0 and (augment.mixup > 0 or augment.cutmix > 0)
