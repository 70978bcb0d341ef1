"""On which images a teacher's term counts.

The mean is over the whole batch all the same, and what is left is not made up for: an image on which a teacher counts
weighs in its term what it weighs without a gate. Labels count on all images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ..shapes import Bool, Float, Int

Gate = Literal["none", "right", "harder"]


def target_class(target: Float[Tensor, "b k"] | Int[Tensor, " b"]) -> Int[Tensor, " b"]:
    """Class of each image; of a mixed one the class of the larger share, the first of two equal ones."""
    return target.long() if target.ndim == 1 else target.argmax(dim=1)


def right(teacher: Float[Tensor, "b k"], target: Int[Tensor, " b"]) -> Bool[Tensor, " b"]:
    """Where a teacher's top class is the image's: Meng, Li, Zhao, Gong, "Conditional Teacher-Student Learning", ICASSP
    2019. There the labels take the teacher's place where it is wrong; here they count everywhere, by λ0.

    Args:
        target: −1 for a class that the teacher does not know.
    """
    return teacher.argmax(dim=1) == target


def harder(each: Mapping[str, Float[Tensor, " b"]]) -> dict[str, Bool[Tensor, " b"]]:
    """Where a teacher's term is the highest of all teachers', before λ; of equal ones the first counts.

    Sariyildiz, Weinzaepfel, Lucas, Larlus, Kalantidis, "UNIC: Universal Classification Models via Multi-teacher
    Distillation", ECCV 2024: there the other teachers are dropped with a probability, for features in place of classes.
    A term that is no number any more is the highest, and so it shows.
    """
    if not each:
        return {}
    highest = torch.stack([term.detach() for term in each.values()]).argmax(dim=0)
    return {name: highest == i for i, name in enumerate(each)}


def counted(term: Float[Tensor, " b"], where: Bool[Tensor, " b"]) -> Float[Tensor, ""]:
    """The mean over the batch of a term that is nothing where it does not count."""
    return torch.where(where, term, 0.0).mean()
