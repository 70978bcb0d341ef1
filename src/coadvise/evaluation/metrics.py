"""Metrics as sums and counts: added over batches and processes, divided once at the end.

Averaging per-process means would weigh the processes wrongly when their shares differ by a sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..run.calibration import calibration
from ..shapes import Bool, Float, Int


class Sums:
    """Named float64 sums with a count each."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, values: Float[Tensor, " b"]) -> None:
        """Add one value for each sample; stays on the values' device, without waiting for it."""
        entry = torch.stack([values.double().sum(), torch.full_like(values, 1.0, dtype=torch.float64).sum()])
        self._sums[name] = self._sums[name] + entry if name in self._sums else entry

    def state(self, names: list[str], device: torch.device) -> Float[Tensor, "n 2"]:
        """Sums and counts in the order of `names`, zero where nothing was added; for an all-reduce."""
        zero = torch.zeros(2, dtype=torch.float64, device=device)
        return torch.stack([self._sums.get(name, zero).to(device) for name in names])


def means(names: list[str], state: Float[Tensor, "n 2"]) -> dict[str, float]:
    """Divide sums by counts; names without a sample are left out."""
    return {name: total / count for name, (total, count) in zip(names, state.tolist(), strict=True) if count > 0}


def correct(logits: Float[Tensor, "b k"], label: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """1 where the top class is the label, else 0."""
    return (logits.argmax(dim=1) == label).float()


def kl_rows(p_logits: Float[Tensor, "b k"], q_logits: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """KL(p ‖ q) of each row, in nats (Table 5; the paper leaves the direction open, so callers take both)."""
    log_p, log_q = F.log_softmax(p_logits.float(), dim=1), F.log_softmax(q_logits.float(), dim=1)
    terms = log_p.exp() * (log_p - log_q)
    return terms.masked_fill(log_p == -torch.inf, 0).sum(dim=1)  # what p masks adds nothing, and not 0 · −inf


def batch_metrics(
    tokens: Mapping[str, Float[Tensor, "b k"]], advice: Mapping[str, Float[Tensor, "b k"]], label: Int[Tensor, " b"]
) -> dict[str, Float[Tensor, " b"]]:
    """Every metric of a batch, by name and sample.

    Names: `accuracy/TOKEN`, `loss/TOKEN` (cross entropy), `accuracy/average` of all heads' logits when there
    are several, `teacher/NAME` (its accuracy), `kl/TEACHER|TOKEN` = KL(teacher ‖ token) and
    `kl_reverse/TEACHER|TOKEN` = KL(token ‖ teacher): a token has its teacher's name, so the order alone cannot tell.
    Of a teacher that does not know some classes (−inf for every image), all of them are over those that it knows.
    """
    rows: dict[str, Tensor] = {}
    for name, z in tokens.items():
        rows[f"accuracy/{name}"] = correct(z, label)
        rows[f"loss/{name}"] = F.cross_entropy(z.float(), label, reduction="none")
    if len(tokens) > 1:
        rows["accuracy/average"] = correct(torch.stack([z.float() for z in tokens.values()]).mean(dim=0), label)
    for name, z in advice.items():
        known = (z > -torch.inf).any(dim=0)
        rows[f"teacher/{name}"] = correct(z, label)[known[label]]
        for token, z_token in tokens.items():
            rows[f"kl/{name}|{token}"] = kl_rows(z[:, known], z_token[:, known])
            rows[f"kl_reverse/{name}|{token}"] = kl_rows(z_token[:, known], z[:, known])
    return rows


def metric_names(tokens: Iterable[str], teachers: Iterable[str]) -> list[str]:
    """Names of `batch_metrics`, in an order that is the same on every process, whatever samples it has."""
    tokens = list(tokens)
    names = [f"{what}/{token}" for what in ("accuracy", "loss") for token in tokens]
    names += ["accuracy/average"] if len(tokens) > 1 else []
    for teacher in teachers:
        names += [f"teacher/{teacher}"]
        names += [f"{kl}/{teacher}|{token}" for token in tokens for kl in ("kl", "kl_reverse")]
    return names


def error_consistency(right: Bool[Tensor, " n"], other: Bool[Tensor, " n"]) -> float | None:
    """Cohen's κ of being right: 1 where both err on the same images, 0 where no more than by chance.

    None where chance alone makes them agree always (both always right, or always wrong). Geirhos et al. 2020,
    "Beyond accuracy: quantifying trial-by-trial behaviour of CNNs and humans by measuring error consistency".
    """
    a, b = right.double(), other.double()
    agree = (a == b).double().mean()
    chance = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    return None if chance >= 1 - 1e-12 else float((agree - chance) / (1 - chance))


def linear_cka(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> float | None:
    """Linear centred kernel alignment (Kornblith et al. 2019, the biased estimator), in float64.

    1 where one is a rotation and scaling of the other; None where either does not vary.
    """
    x, y = (z.double() - z.double().mean(dim=0) for z in (x, y))
    cross = (x.T @ y).square().sum()
    own = (x.T @ x).norm() * (y.T @ y).norm()
    return float(cross / own) if own > 0 else None


def calibration_error(probabilities: Float[Tensor, "n k"], label: Int[Tensor, " n"]) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over equally wide bins of confidence."""
    confidence, answer = probabilities.double().max(dim=1)
    return calibration(confidence.cpu().numpy(), (answer == label).cpu().numpy())[0]


def ensemble(logits: Sequence[Float[Tensor, "n k"]], label: Int[Tensor, " n"]) -> tuple[float, float]:
    """Accuracy of the mean of the members' probabilities, and the share of images on which some member is right."""
    mean = torch.stack([z.double().softmax(dim=1) for z in logits]).mean(dim=0)
    some = torch.stack([z.argmax(dim=1) == label for z in logits]).any(dim=0)
    return float((mean.argmax(dim=1) == label).double().mean()), float(some.double().mean())
