"""The optimizer, its parameter groups and the learning-rate schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, StepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn

from ..models.students import classifier_of
from ..recipe.schema import Optim, Schedule
from .parts import advised_tokens, layers_of, new_parts


def make_optimizer(student: nn.Module, settings: Optim) -> torch.optim.Optimizer:
    """AdamW, SGD with Nesterov's momentum or LAMB; no decay on norms, biases, tokens and position embeddings.

    AdamW decays weights beside the gradient (Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019),
    SGD as part of it. LAMB (You et al., Large Batch Optimization for Deep Learning, ICLR 2020) is timm's, which has one
    step length for each weight that decays; its own clipping is off, so that `clip` has one meaning.

    Raises:
        ModelError: a student that does not say what the settings need to know of it.
    """
    by_layer = settings.layer_decay is not None
    if by_layer:
        layers_of(student, "optim.layer_decay")  # timm would give one rate to a model that knows no layers
    moments = {"betas": settings.betas, "eps": settings.eps}
    by_name: dict[str, dict[str, Any]] = {
        "adamw": moments | {"fused": True},  # in one pass over the weights
        "sgd": {"momentum": settings.momentum, "fused": True},
        "lamb": moments | {"max_grad_norm": None},
    }
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        classifier_of(student) if by_layer else student, opt=settings.name, lr=peak_lr(settings),
        weight_decay=settings.weight_decay, layer_decay=settings.layer_decay, **by_name[settings.name],
    )  # fmt: skip
    factors = _rate_factors(student, settings)
    for group in list(optimizer.param_groups) if factors else ():
        _split(optimizer, group, factors)
    optimizer.param_groups = [group for group in optimizer.param_groups if group["params"]]
    if isinstance(optimizer, torch.optim.SGD):
        _begin_momentum(optimizer)
    return optimizer


def _begin_momentum(optimizer: torch.optim.SGD) -> None:
    """Momenta of zero from the start, which is the same: the fused form fails on weights that begin to learn later."""
    for parameter in (one for group in optimizer.param_groups for one in group["params"]):
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


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
) -> Scheduler:
    """Set by update: linear warm-up from `warmup_lr` to `peak`, then a cosine down to `min_lr` (never above the peak),
    or steps."""
    start: dict[str, Any] = {
        "warmup_t": round(schedule.warmup_epochs * steps_per_epoch),
        "warmup_lr_init": min(schedule.warmup_lr, peak),
        "warmup_prefix": False,  # the warm-up is a part of the epochs
        "t_in_epochs": False,
    }
    decay = schedule.decay_epochs if schedule.name == "step" else None
    if isinstance(decay, list):
        moments = [round(one * steps_per_epoch) + 1 for one in decay]  # timm's fall one update early
        return MultiStepLRScheduler(optimizer, moments, schedule.decay_rate, **start)
    if decay is not None:
        return StepLRScheduler(optimizer, decay * steps_per_epoch, schedule.decay_rate, **start)
    # timm warns of one update in all, which is the same as two.
    total = max(schedule.epochs * steps_per_epoch, 2)
    return CosineLRScheduler(optimizer, t_initial=total, lr_min=min(schedule.min_lr, peak), **start)
