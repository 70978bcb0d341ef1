"""AdamW, its parameter groups and the learning-rate schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn

from ..models.students import classifier_of
from ..recipe.schema import Optim, Schedule
from .parts import advised_tokens, layers_of, new_parts


def make_optimizer(student: nn.Module, settings: Optim) -> torch.optim.Optimizer:
    """AdamW in one fused pass over the weights; no decay on norms, biases, tokens and position embeddings.

    Raises:
        ModelError: a student that does not say what the settings need to know of it.
    """
    by_layer = settings.layer_decay is not None
    if by_layer:
        layers_of(student, "optim.layer_decay")  # timm would give one rate to a model that knows no layers
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        classifier_of(student) if by_layer else student, opt="adamw", lr=peak_lr(settings),
        weight_decay=settings.weight_decay, betas=settings.betas, eps=settings.eps, layer_decay=settings.layer_decay,
        fused=True,
    )  # fmt: skip
    factors = _rate_factors(student, settings)
    for group in list(optimizer.param_groups) if factors else ():
        _split(optimizer, group, factors)
    optimizer.param_groups = [group for group in optimizer.param_groups if group["params"]]
    return optimizer


def _rate_factors(student: nn.Module, settings: Optim) -> dict[int, float]:
    """Factors on the learning rate by the parameter's `id`, beside those of its layer; 1 where not given."""
    factors: dict[int, float] = {}
    if settings.backbone_lr != 1.0:
        new = {id(one) for one in new_parts(student, "optim.backbone_lr")}
        factors = {id(p): settings.backbone_lr for p in student.parameters() if id(p) not in new}
    if settings.token_lr != 1.0:
        for token in token_parameters(student):
            factors[id(token)] = settings.token_lr * factors.get(id(token), 1.0)
    return factors


def _split(optimizer: torch.optim.Optimizer, group: dict[str, Any], factors: Mapping[int, float]) -> None:
    """Move parameters with a factor into groups of their own, by whose `lr_scale` timm's schedulers multiply."""
    parts: dict[float, list[nn.Parameter]] = {}
    for parameter in group["params"]:
        parts.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
    group["params"] = parts.pop(1.0, [])
    for factor, parameters in parts.items():
        optimizer.add_param_group({**group, "params": parameters, "lr_scale": factor * group.get("lr_scale", 1.0)})


def token_parameters(student: nn.Module) -> list[nn.Parameter]:
    """Trainable tokens: class token, advised tokens and the offsets of aligned ones."""
    found = [p for name, p in student.named_parameters() if name.rpartition(".")[2] in ("cls_token", "dist_token")]
    return [token for token in found + advised_tokens(student) if token.requires_grad]


def peak_lr(settings: Optim) -> float:
    """Learning rate after the warm-up, scaled to the batch size."""
    return settings.lr * (settings.batch_size / settings.lr_batch if settings.lr_batch else 1.0)


def make_scheduler(
    optimizer: torch.optim.Optimizer, schedule: Schedule, steps_per_epoch: int, peak: float
) -> CosineLRScheduler:
    """Cosine by update: linear warm-up from `warmup_lr` to `peak`, then down to `min_lr` (never above the peak)."""
    return CosineLRScheduler(
        optimizer,
        t_initial=max(schedule.epochs * steps_per_epoch, 2),  # timm warns of 1, which is the same
        lr_min=min(schedule.min_lr, peak),
        warmup_t=round(schedule.warmup_epochs * steps_per_epoch),
        warmup_lr_init=min(schedule.warmup_lr, peak),
        t_in_epochs=False,
    )
