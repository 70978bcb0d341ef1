"""The check of the teachers before training: accuracy on labelled images, and whether their advice is any use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from timm.utils import natural_key
from torch import Tensor

from ..errors import ModelError, one_line
from ..models.teachers import Teachers, class_count_message, require_size

_LISTED = 200
"""Classes of which an index map fits into a message."""


@dataclass(frozen=True)
class TeacherCheck:
    """Accuracy of a teacher on labelled images of the classes that it knows.

    Attributes:
        accuracy: fraction of images whose top class is the label.
        chance: accuracy of always naming the commonest class.
        order: accuracy after the best renaming of the teacher's classes.
        renaming: its pairs (student's class, teacher's class) that images speak for.
        mapped: whether the teacher has an index map already; its classes are then those behind it.
    """

    accuracy: float
    chance: float
    order: float
    renaming: tuple[tuple[int, int], ...]
    samples: int
    mapped: bool = False

    @property
    def moved(self) -> tuple[tuple[int, int], ...]:
        """Pairs of the renaming which differ."""
        return tuple((ours, its) for ours, its in self.renaming if ours != its)

    @property
    def weak(self) -> bool:
        """Whether guessing would do as well in more than one of a thousand trials, by the binomial distribution.

        Where the images are too few to tell even a perfect teacher from guessing, it need only beat chance.
        """
        from scipy.stats import binom  # slow to import

        if self.chance**self.samples > 0.001:
            return self.accuracy <= self.chance < 1
        correct = round(self.accuracy * self.samples)
        return float(binom.sf(correct - 1, self.samples, self.chance)) > 0.001

    @property
    def reordered(self) -> bool:
        """Another order of the classes explains the labels far better."""
        return self.order > 2 * self.accuracy and self.order - self.accuracy > 0.2


@torch.no_grad()
def measure_teachers(
    teachers: Teachers, batches: Iterable[tuple[Tensor, Tensor]], classes: int
) -> dict[str, TeacherCheck]:
    """Measure every teacher on labelled images.

    Args:
        batches: (images (b, 3, h, w), labels (b,)), on the teachers' device.
        classes: number of the student's classes.

    Raises:
        ModelError: logits that are not finite, or not one for each class.
    """
    members = dict(teachers.items())
    confusion = {name: np.zeros((classes, classes), dtype=np.int64) for name in teachers.names}
    for images, label in batches:
        for name, z in advice_that_fits(teachers, images).items():
            if z.shape[1] != classes:
                raise ModelError(class_count_message(name, z.shape[1], classes))
            answer, known = finite(name, z).argmax(dim=1).cpu().numpy(), members[name].known
            found = label.cpu().numpy()
            asked = np.full(len(found), True) if known is None else np.isin(found, known)
            np.add.at(confusion[name], (found[asked], answer[asked]), 1)
    return {name: _check_of(table, members[name].classes is not None) for name, table in confusion.items()}


def advice_that_fits(teachers: Teachers, images: Tensor) -> dict[str, Tensor]:
    """What the teachers say of a batch, their images and classes checked.

    Raises:
        ModelError: a class map or a size that does not fit.
    """
    for name, member in teachers.items():
        known = getattr(member.model, "num_classes", None)
        if member.classes is not None and known is not None and int(member.classes.max()) >= known:
            raise ModelError(
                f"teacher '{name}' has {known} classes, but its index map names class {int(member.classes.max())}; "
                f"indices go from 0 to {known - 1}"
            )
    advice = {}
    for i, (name, member) in enumerate(teachers.items()):
        try:
            advice[name] = member(teachers._seen(i, images))
        except (ModelError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # models refuse a size in many ways, some without a word
            require_size(name, member, (images.shape[-2], images.shape[-1]))  # which says more
            size = f"{images.shape[-2]}×{images.shape[-1]}"
            raise ModelError(
                f"teacher '{name}' cannot take images of {size}: {one_line(error)}; "
                f"set the resolution it was made for: teachers.{name}.image_size"
            ) from error
    return advice


def finite(name: str, logits: Tensor) -> Tensor:
    """Pass a teacher's logits on if they are finite; −inf masks a class, as long as others are left.

    Raises:
        ModelError: they are not finite.
    """
    if not torch.isfinite(logits.max(dim=1).values).all():  # a maximum is NaN where any number is
        raise ModelError(f"teacher '{name}' gives logits that are not finite; its weights are broken")
    return logits


def _check_of(confusion: np.ndarray, mapped: bool) -> TeacherCheck:
    from scipy.optimize import linear_sum_assignment  # comes with scikit-learn; slow to import

    samples = max(int(confusion.sum()), 1)
    rows, columns = linear_sum_assignment(confusion, maximize=True)
    return TeacherCheck(
        accuracy=float(np.trace(confusion)) / samples,
        chance=float(confusion.sum(axis=1).max()) / samples,
        order=float(confusion[rows, columns].sum()) / samples,
        renaming=tuple((int(r), int(c)) for r, c in zip(rows, columns, strict=True) if confusion[r, c] > 0),
        samples=samples,
        mapped=mapped,
    )


def require_able(checks: Mapping[str, TeacherCheck], class_names: Sequence[str]) -> None:
    """Stop before a student is trained on worthless advice.

    Raises:
        ModelError: a teacher near chance level, or with its classes in another order.
    """
    for name, check in checks.items():
        if check.reordered:
            pairs = ", ".join(f"{class_names[s]} → {class_names[t]}" for s, t in check.moved[:3])
            raise ModelError(
                f"teacher '{name}' seems to have its classes in another order: accuracy {check.accuracy:.1%} as they "
                f"are, {check.order:.1%} after renaming ({pairs}, …); {_map_of(name, check, class_names)}, "
                "or set run.allow_weak=true"
            )
        if check.weak:
            raise ModelError(
                f"teacher '{name}' is at {check.accuracy:.1%} on {check.samples} validation images, near chance level "
                f"({check.chance:.1%}); train it longer (teachers.{name}.train.epochs=N), check its normalisation and "
                "classes, or go on all the same with run.allow_weak=true"
            )


def _map_of(name: str, check: TeacherCheck, class_names: Sequence[str]) -> str:
    """What to give as the index map: written out where it seems to be the order in which timm reads class folders."""
    plain = f"give teachers.{name}.classes"
    if check.mapped:
        return plain
    try:
        keys = [tuple(natural_key(one)) for one in class_names]
    except ValueError:  # a class named "²", of which timm makes no number
        return plain
    if len(set(keys)) < len(keys) or len(keys) > _LISTED:  # timm has no fixed order of folders `A` and `a`
        return plain
    place = {index: rank for rank, index in enumerate(sorted(range(len(keys)), key=lambda index: keys[index]))}
    same = sum(place[ours] == its for ours, its in check.renaming)
    if same < 0.8 * len(check.renaming):  # a teacher is wrong about some
        return plain
    ranks = ",".join(str(place[index]) for index in range(len(keys)))
    order = "it seems to be that of timm's class folders (10 after 9, no capitals first)"
    return f"{order}: teachers.{name}.classes=[{ranks}]"
