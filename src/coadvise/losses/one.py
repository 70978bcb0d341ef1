"""What a token's logits are compared by where an image has one class: with labels, and with a teacher's logits.

Each is the mean over the batch, or with `reduction="none"` the value of each image, whose mean it is. All compute in
float32: half precision loses small probabilities, and the difference of two logarithms cancels.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..shapes import Float, Int

Reduction = Literal["mean", "none"]
Term = Float[Tensor, "*b"]
"""Scalar, or (b,) with `reduction="none"`."""

_LOWEST = torch.finfo(torch.float32).min
_TINY = torch.finfo(torch.float32).tiny
# Where a student's logits, or probabilities relative to their mean, deviate by less than this, it stands in for their
# deviation. A head that starts at zero, such as an MLP-Mixer's, would have infinite gradients in its first step.
FLAT = 0.1
# Mean probability below which none is a measure of a deviation: its inverse times a gradient has to stay in range.
_RARE = 1e-32


def label_loss(
    logits: Float[Tensor, "b k"], target: Float[Tensor, "b k"] | Int[Tensor, " b"], labelled: float = 1.0
) -> Float[Tensor, ""]:
    """Cross entropy to hard labels (b,) or soft targets (b, k), mean over the batch, in float32.

    Args:
        labelled: share of all images that have a label; the targets of the others are zeros. The mean is divided by it.
    """
    loss = F.cross_entropy(logits.float(), target if target.ndim == 1 else target.float())
    return loss if labelled == 1 else loss / labelled


def soft_advice(
    student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"], temperature: float, reduction: Reduction = "mean"
) -> Term:
    """τ² · KL(teacher ‖ student) at temperature τ (Eq. 1, second and third term)."""
    # A class that the teacher masks (−inf) has no probability and adds nothing: 0 · −inf would be NaN.
    log_p = F.log_softmax(teacher.float() / temperature, dim=1).clamp_min(_LOWEST)
    log_q = F.log_softmax(student.float() / temperature, dim=1)
    if reduction == "none":
        return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1) * temperature**2
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2


def hard_advice(student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"], reduction: Reduction = "mean") -> Term:
    """Cross entropy to the teacher's top class.

    Touvron, Cord, Douze, Massa, Sablayrolles, Jégou, "Training data-efficient image transformers & distillation
    through attention", ICML 2021: ½ · CE(labels) + ½ · CE(teacher's class), that is with λ of ½ for each.
    """
    return F.cross_entropy(student.float(), teacher.argmax(dim=1), reduction=reduction)


def standardised_advice(
    student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"], temperature: float, reduction: Reduction = "mean"
) -> Term:
    """As `soft_advice`, of logits that are z-scores: of each image mean 0 and deviation 1 over its classes.

    Sun, Ren, Li, Wang, Cao, "Logit Standardization in Knowledge Distillation", CVPR 2024: the student has to order the
    classes as the teacher does, and not to be as sure. The deviation divides by k, as in the paper; its authors' code
    divides by k − 1, which is another τ. Here a student's deviation counts as at least `FLAT`. Of two classes z-scores
    are ±1 whatever the logits, and there is no gradient.

    Args:
        teacher: finite logits: a masked class has no z-score.
    """
    return soft_advice(_z_scores(student, FLAT), _z_scores(teacher, _TINY), temperature, reduction)


def dist_advice(
    student: Float[Tensor, "b k"],
    teacher: Float[Tensor, "b k"],
    temperature: float,
    inter: float = 1.0,
    intra: float = 1.0,
    reduction: Reduction = "mean",
) -> Term:
    """τ² · (inter · (1 − ρ over the classes, mean over images) + intra · (1 − ρ over the images, mean over classes)).

    ρ is Pearson's correlation of the teacher's and the student's probabilities at temperature τ: Huang, You, Wang,
    Qian, Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022. Here a student's probabilities deviate
    from their mean by at least `FLAT` of it. The images are those that are given together: of a batch that is divided
    over processes or micro-batches each part has its own second term, which makes this the one loss that depends on
    how a batch is divided. Of a single image it is constant.

    Args:
        reduction: `none` gives the first term alone, since the second one belongs to no image.
    """
    p, q = (F.softmax(z.float() / temperature, dim=1) for z in (teacher, student))
    each = 1 - _correlation(q, p, dim=1)
    if reduction == "none":
        return inter * temperature**2 * each
    return temperature**2 * (inter * each.mean() + intra * (1 - _correlation(q, p, dim=0)).mean())


def decoupled_advice(
    student: Float[Tensor, "b k"],
    teacher: Float[Tensor, "b k"],
    target: Int[Tensor, " b"],
    temperature: float,
    alpha: float = 1.0,
    beta: float = 1.0,
    reduction: Reduction = "mean",
) -> Term:
    """τ² · (α · KL of the target class or not + β · KL among the other classes), teacher ‖ student, at temperature τ.

    Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", CVPR 2022. With β = 1 − the teacher's probability
    of the target class it would be `soft_advice`, which hardly looks at the others where a teacher is sure.

    Args:
        target: class of each image; −1 where it is none of these k, so that all of them are others.
    """
    log_p, log_q = (F.log_softmax(z.float() / temperature, dim=1) for z in (teacher, student))
    log_p = log_p.clamp_min(_LOWEST)
    there, column = target >= 0, target.clamp_min(0)[:, None]
    here = torch.arange(student.shape[1], device=student.device) == target[:, None]  # b k
    rest_p, rest_q = (torch.logsumexp(z.masked_fill(here, -torch.inf), dim=1) for z in (log_p, log_q))
    rest_q = rest_q.masked_fill(rest_q == -torch.inf, 0.0)  # of one class there are no others
    own_p, own_q = (z.gather(1, column)[:, 0] for z in (log_p, log_q))
    own = own_p.exp() * (own_p - own_q) + rest_p.exp() * (rest_p.clamp_min(_LOWEST) - rest_q)
    # Given that it is one of the others: logits of the target class are left out on both sides.
    among_p, among_q = log_p - rest_p[:, None].clamp_min(_LOWEST), log_q - rest_q[:, None]
    others = (among_p.masked_fill(here, -torch.inf).exp() * (among_p - among_q).masked_fill(here, 0)).sum(dim=1)
    each = temperature**2 * (alpha * torch.where(there, own, 0.0) + beta * others)
    return each if reduction == "none" else each.mean()


def _z_scores(z: Float[Tensor, "b k"], least: float) -> Float[Tensor, "b k"]:
    """Logits less their mean, by their deviation, which counts as at least `least`."""
    z = z.float()
    variance, mean = torch.var_mean(z, dim=1, correction=0, keepdim=True)
    return (z - mean) * variance.clamp_min(max(least**2, _TINY)).rsqrt()


def _correlation(q: Float[Tensor, "b k"], p: Float[Tensor, "b k"], dim: int) -> Float[Tensor, " n"]:
    """Pearson's correlation of a student's and a teacher's probabilities along a dimension."""
    x, y = (_relative(one, dim) for one in (q, p))
    return (x * y).mean(dim) * _inverse(x, dim, FLAT**2) * _inverse(y, dim, _TINY)


def _inverse(x: Float[Tensor, "b k"], dim: int, least: float) -> Float[Tensor, " n"]:
    return x.square().mean(dim).clamp_min(least).rsqrt()


def _relative(p: Float[Tensor, "b k"], dim: int) -> Float[Tensor, "b k"]:
    """Deviations from the mean, in parts of it: squares of small probabilities would not be in float32's range."""
    mean = p.mean(dim, keepdim=True)
    return (p - mean) / mean.detach().clamp_min(_RARE)
