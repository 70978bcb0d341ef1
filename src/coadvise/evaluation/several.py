"""Images of any number of classes: what a batch says, answers image by image, and the check of the teachers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.views.finish import Batch
from ..errors import DataError, ModelError
from ..models.teachers import Teachers, class_count_message
from ..names import ALL_HEADS
from ..run.several import SeveralAnswers, average_precisions
from ..shapes import Float
from .answers import Gather, gathered
from .teacher_check import advice_that_fits, finite

SHUFFLES = 19
"""A teacher has to be better than with its images mixed up so often: by chance that happens once in twenty."""


def kl_of_each(p_logits: Float[Tensor, "b k"], q_logits: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """KL(p ‖ q) of the yes or no to each class, in nats, mean over the classes."""
    total = torch.zeros(len(p_logits), device=p_logits.device)
    for sign in (1, -1):  # σ(−z) = 1 − σ(z)
        log_p, log_q = F.logsigmoid(sign * p_logits.float()), F.logsigmoid(sign * q_logits.float())
        total = total + (log_p.exp() * (log_p - log_q)).mean(dim=1)
    return total


def several_names(tokens: Iterable[str], teachers: Iterable[str]) -> list[str]:
    """Names of `several_metrics`, in an order that is the same on every process."""
    tokens = list(tokens)
    names = [f"loss/{token}" for token in tokens]
    return names + [f"{kl}/{one}|{token}" for one in teachers for token in tokens for kl in ("kl", "kl_reverse")]


def several_metrics(
    tokens: Mapping[str, Float[Tensor, "b k"]], advice: Mapping[str, Float[Tensor, "b k"]], batch: Batch
) -> dict[str, Float[Tensor, " b"]]:
    """What can be said of single images: `loss/TOKEN` (binary cross entropy), `kl/TEACHER|TOKEN` and `kl_reverse/…` as
    in `metrics.batch_metrics`; each the mean over the classes, or over those that a teacher knows."""
    rows: dict[str, Tensor] = {}
    for name, z in tokens.items():
        losses = F.binary_cross_entropy_with_logits(z.float(), batch.target.float(), reduction="none")
        rows[f"loss/{name}"] = losses.mean(dim=1)
    for name, z in advice.items():
        known = (z > -torch.inf).any(dim=0)
        for token, z_token in tokens.items():
            rows[f"kl/{name}|{token}"] = kl_of_each(z[:, known], z_token[:, known])
            rows[f"kl_reverse/{name}|{token}"] = kl_of_each(z_token[:, known], z[:, known])
    return rows


class SeveralCollected:
    """Logits, collected batch by batch in main memory: an accelerator has no room for those of many images."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Tensor]] = []

    @torch.no_grad()
    def add(self, batch: Batch, tokens: Mapping[str, Tensor], advice: Mapping[str, Tensor]) -> None:
        """Keep what is answered for a batch: logits (b, k) by token and by teacher."""
        row = {"index": batch.index, "truth": batch.target > 0.5}
        row |= {f"output.{name}": z.float() for name, z in tokens.items()}
        if len(tokens) > 1:
            row[f"output.{ALL_HEADS}"] = torch.stack([z.float() for z in tokens.values()]).mean(dim=0)
        row |= {f"teacher.{name}": z.float() for name, z in advice.items()}
        self._rows.append({name: values.cpu() for name, values in row.items()})

    def answers(self, data: str, classes: Sequence[str], gather: Gather = lambda rows: rows) -> SeveralAnswers:
        """All of them, over all processes, in the order of the images.

        Args:
            data: digest of the validation images.

        Raises:
            DataError: no image could be read.
        """
        rows = gathered(self._rows, gather)
        of = lambda kind: {n.partition(".")[2]: v for n, v in rows.items() if n.startswith(f"{kind}.")}
        return SeveralAnswers(data, tuple(classes), rows["index"], rows["truth"], of("output"), of("teacher"))

    def metrics(self, classes: Sequence[str], gather: Gather = lambda rows: rows) -> dict[str, float]:
        """See `SeveralAnswers.metrics`.

        Raises:
            DataError: none of the images has a class, or could be read.
        """
        found = self.answers("", classes, gather).metrics()
        if "map/class" not in found:
            raise DataError("none of the images that it is measured on has any class; give images that have some")
        return found


@dataclass(frozen=True)
class SeveralCheck:
    """A teacher on labelled images of any number of classes: its mAP, and the best that it has with these mixed up."""

    mean_average_precision: float
    chance: float
    samples: int


@torch.no_grad()
def check_several(
    teachers: Teachers, batches: Iterable[tuple[Tensor, Tensor]], classes: int
) -> dict[str, SeveralCheck]:
    """Measure every teacher on labelled images.

    Args:
        batches: (images (b, 3, h, w), targets (b, k)), on the teachers' device.

    Raises:
        ModelError: logits that are not finite, or not one for each class.
    """
    rows: list[dict[str, Tensor]] = []
    for images, target in batches:
        advice = advice_that_fits(teachers, images)
        for name, z in advice.items():
            if z.shape[1] != classes:
                raise ModelError(class_count_message(name, z.shape[1], classes))
        rows.append({"": target > 0.5, **{name: finite(name, z) for name, z in advice.items()}})
    whole = {name: torch.cat([row[name].cpu() for row in rows]).numpy() for name in rows[0]}
    truth = whole.pop("")
    return {name: _check_of(truth, logits) for name, logits in whole.items()}


def _check_of(truth: np.ndarray, logits: np.ndarray) -> SeveralCheck:
    used = (logits > -np.inf).any(axis=0) & truth.any(axis=0)
    truth, logits = truth[:, used], logits[:, used]
    if not used.any():
        return SeveralCheck(0.0, 0.0, len(truth))
    generator = np.random.default_rng(0)
    shuffled = [average_precisions(truth[generator.permutation(len(truth))], logits).mean() for _ in range(SHUFFLES)]
    return SeveralCheck(float(average_precisions(truth, logits).mean()), float(max(shuffled)), len(truth))


def require_able_of_several(checks: Mapping[str, SeveralCheck]) -> None:
    """Stop before a student is trained on worthless advice.

    Raises:
        ModelError: a teacher that is no better than chance.
    """
    for name, check in checks.items():
        if check.mean_average_precision <= check.chance:
            raise ModelError(
                f"teacher '{name}' has a mAP of {check.mean_average_precision:.1%} on {check.samples} validation "
                f"images, no better than chance ({check.chance:.1%}); train it longer "
                f"(teachers.{name}.train.epochs=N), check its normalisation and classes, or go on all the same with "
                "run.allow_weak=true"
            )
