"""Metrics as sums and counts: added over batches and processes, divided once at the end.

Averaging per-process means would weigh the processes wrongly when their shares differ by a sample.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


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
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def batch_metrics(
    tokens: Mapping[str, Float[Tensor, "b k"]],
    advice: Mapping[str, Float[Tensor, "b k"]],
    label: Int[Tensor, " b"],
) -> dict[str, Float[Tensor, " b"]]:
    """Every metric of a batch, by name and sample.

    Names: `accuracy/TOKEN`, `loss/TOKEN` (cross entropy), `accuracy/average` of all heads' logits when there
    are several, `teacher/NAME` (its accuracy), `kl/TEACHER|TOKEN` = KL(teacher ‖ token) and
    `kl_reverse/TEACHER|TOKEN` = KL(token ‖ teacher): a token has its teacher's name, so the order alone cannot tell.
    """
    rows: dict[str, Tensor] = {}
    for name, z in tokens.items():
        rows[f"accuracy/{name}"] = correct(z, label)
        rows[f"loss/{name}"] = F.cross_entropy(z.float(), label, reduction="none")
    if len(tokens) > 1:
        rows["accuracy/average"] = correct(torch.stack([z.float() for z in tokens.values()]).mean(dim=0), label)
    for name, z in advice.items():
        rows[f"teacher/{name}"] = correct(z, label)
        for token, z_token in tokens.items():
            rows[f"kl/{name}|{token}"] = kl_rows(z, z_token)
            rows[f"kl_reverse/{name}|{token}"] = kl_rows(z_token, z)
    return rows
