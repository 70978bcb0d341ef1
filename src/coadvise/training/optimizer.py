"""AdamW, its parameter groups and the learning-rate schedule."""

from __future__ import annotations

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn

from ..recipe.schema import Optim, Schedule


def make_optimizer(student: nn.Module, settings: Optim) -> torch.optim.Optimizer:
    """AdamW in one fused pass over the weights; no decay on norms, biases, tokens and position embeddings."""
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        student, opt="adamw", lr=peak_lr(settings), weight_decay=settings.weight_decay, betas=settings.betas,
        eps=settings.eps, fused=True,
    )  # fmt: skip
    if settings.token_lr != 1.0:
        # Groups of their own, whose `lr_scale` timm's schedulers multiply the learning rate by.
        ids = {id(token) for token in token_parameters(student)}
        for group in list(optimizer.param_groups):
            tokens = [p for p in group["params"] if id(p) in ids]
            if tokens:
                group["params"] = [p for p in group["params"] if id(p) not in ids]
                optimizer.add_param_group({**group, "params": tokens, "lr_scale": settings.token_lr})
    return optimizer


def token_parameters(student: nn.Module) -> list[nn.Parameter]:
    """Trainable tokens: class token, advised tokens and the offsets of aligned ones."""
    found = [p for name, p in student.named_parameters() if name.rpartition(".")[2] in ("cls_token", "dist_token")]
    for name, module in student.named_modules():
        if isinstance(module, nn.ParameterDict) and name.rpartition(".")[2] in ("tokens", "offsets"):
            found += module.values()
    return [token for token in found if token.requires_grad]


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
