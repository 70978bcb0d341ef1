"""What a token's logits are compared by where an image has any number of classes: each is a question of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..shapes import Float
from .one import _LOWEST, Reduction, Term


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
    student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"], temperature: float, reduction: Reduction = "mean"
) -> Term:
    """τ² · KL(teacher ‖ student) of the yes or no to each class at temperature τ, mean over classes and batch."""
    total = torch.zeros((), device=student.device)
    for sign in (1, -1):  # σ(−z) = 1 − σ(z)
        log_p = F.logsigmoid(sign * teacher.float() / temperature).clamp_min(_LOWEST)
        log_q = F.logsigmoid(sign * student.float() / temperature)
        each = log_p.exp() * (log_p - log_q)
        total = total + (each.mean() if reduction == "mean" else each.mean(dim=1))
    return total * temperature**2


def several_hard_advice(
    student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"], reduction: Reduction = "mean"
) -> Term:
    """Binary cross entropy to the classes of which the teacher is more than half sure, mean over classes and batch."""
    if reduction == "mean":
        return several_label_loss(student, teacher > 0)
    each = F.binary_cross_entropy_with_logits(student.float(), (teacher > 0).float(), reduction="none")
    return each.mean(dim=1)
