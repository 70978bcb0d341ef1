"""The parts of a student that fine-tuning treats differently: what is new, and what stays as it was loaded.

New are the advised tokens and all heads: nothing that was loaded has trained them for this data. The layers are timm's:
a stem, then the blocks in order; a norm behind the last block belongs to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from timm.models import group_parameters
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ModelError
from ..models.students import classifier_of

_TOKENS = ("tokens", "offsets")


def advised_tokens(student: nn.Module) -> list[nn.Parameter]:
    """Advised tokens and the offsets of aligned ones."""
    return [
        token
        for name, module in student.named_modules()
        if isinstance(module, nn.ParameterDict) and name.rpartition(".")[2] in _TOKENS
        for token in module.values()
    ]


def new_parts(student: nn.Module, setting: str) -> list[nn.Parameter]:
    """Advised tokens, and the weights of every head and of the norms before heads that read early.

    Args:
        setting: that needs to know them, for messages.

    Raises:
        ModelError: a student that does not say which is its head.
    """
    found = advised_tokens(student)
    inner: Any = classifier_of(student)
    if not hasattr(inner, "get_classifier"):
        raise ModelError(
            f"{setting}: {type(inner).__name__} has no get_classifier(), as timm's models have; add one that returns "
            "its last layer, or leave the setting out"
        )
    own = inner.get_classifier()
    added = [getattr(inner, name, None) for name in ("advised_heads", "advised_norms")]
    heads = [*(own if isinstance(own, (tuple, list)) else (own,)), *added]
    return found + [weight for head in heads if isinstance(head, nn.Module) for weight in head.parameters()]


def layers_of(student: nn.Module, setting: str) -> dict[str, int]:
    """The layer of every parameter, by its name in `classifier_of(student)`: 0 is the stem, 1 the first block, and the
    last one is the head's.

    Raises:
        ModelError: a student that does not say what its layers are.
    """
    inner: Any = classifier_of(student)
    if not hasattr(inner, "group_matcher"):
        raise ModelError(
            f"{setting}: {type(inner).__name__} does not say which layers it has (group_matcher, as most of timm's "
            "models have it); leave the setting out"
        )
    found: dict[str, int] = group_parameters(inner, inner.group_matcher(coarse=False), reverse=True)
    return found


def freeze(student: nn.Module, blocks: int) -> None:
    """Take the stem and the first blocks out of training; heads and advised tokens always learn.

    Raises:
        ModelError: the student has fewer blocks, or does not say which.
    """
    if not blocks:
        return
    setting, inner = "student.freeze_blocks", classifier_of(student)
    layers = layers_of(student, setting)
    most = max(layers.values()) - 1
    if blocks > most:
        raise ModelError(f"{setting} is {blocks}; the student has {most} blocks")
    new = {id(one) for one in new_parts(student, setting)}
    for name, parameter in inner.named_parameters():
        if layers[name] <= blocks and id(parameter) not in new:
            parameter.requires_grad_(False)


def still_norms(student: nn.Module, blocks: int) -> list[nn.Module]:
    """BatchNorm layers in what `freeze` takes out of training: their statistics stay, too."""
    layers = layers_of(student, "student.freeze_blocks") if blocks else {}
    inside = lambda name: layers.get(f"{name}.weight", blocks + 1) <= blocks
    return [module for name, module in _batch_norms(classifier_of(student)) if inside(name)]


def waiting_parts(student: nn.Module, head_epochs: int) -> tuple[list[nn.Parameter], list[nn.Module]]:
    """What waits while heads and advised tokens learn first: parameters, and the BatchNorm layers among them.

    Raises:
        ModelError: a student that does not say which is its head.
    """
    if not head_epochs:
        return [], []
    new = {id(one) for one in new_parts(student, "schedule.head_epochs")}
    norms = [norm for _, norm in _batch_norms(student) if not any(id(p) in new for p in norm.parameters())]
    return [p for p in student.parameters() if p.requires_grad and id(p) not in new], norms


def _batch_norms(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
