"""What a loss is refused for: arguments that are no tensors or numbers, and names, shapes and settings that do not fit.

Python's own errors would not say which argument is meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import SupportsFloat

import torch
from torch import Tensor

from ..errors import ModelError, did_you_mean, require
from ..names import CLASS

KINDS = ("soft", "hard", "standardised", "dist", "decoupled")
GATES = ("none", "right", "harder")


def check_kinds(logits: object, advice: object, target: object, weights: object, temperatures: object) -> None:
    """Refuse what is no mapping of tensors or numbers: Python's own errors would not say which argument is meant."""
    groups = {"logits": logits, "advice": advice, "weights": weights, "temperatures": temperatures}
    for what, group in groups.items():
        kind, example = ("tensors", "{'class': z, …}") if what in ("logits", "advice") else ("numbers", "{'conv': 2.0}")
        require(
            group, Mapping, f"co_advise_loss: {what}", f"give a mapping from names to {kind}, {example}", ModelError
        )
        for name, value in group.items() if isinstance(group, Mapping) else ():
            wanted = Tensor if kind == "tensors" else SupportsFloat
            require(value, wanted, f"co_advise_loss: {what} of '{name}'", f"give {kind}", ModelError)
    how = "give a tensor of class indices (b,) or of soft targets (b, k)"
    require(target, Tensor, "co_advise_loss: target", how, ModelError)
    if isinstance(target, Tensor) and target.ndim == 1 and target.dtype not in (torch.int64, torch.uint8):
        raise ModelError(f"co_advise_loss: target is of {target.dtype}; class indices are int64: target.long()")


def check_fits(
    logits: Mapping[str, Tensor],
    advice: Mapping[str, Tensor],
    target: Tensor,
    weights: Mapping[str, float],
    temperatures: Mapping[str, float],
    tokens: str,
) -> None:
    if CLASS not in logits:
        raise ModelError(f"logits have no '{CLASS}' token (they have: {', '.join(logits) or 'none'})")
    shape = tuple(logits[CLASS].shape)
    for what, group in (("student token", logits), ("teacher", advice)):
        for name, z in group.items():
            if tuple(z.shape) != shape:
                raise ModelError(
                    f"{what} '{name}' gives logits of shape {tuple(z.shape)}, expected {shape} like 'class'"
                )
    if (
        target.ndim == 0
        or target.shape[0] != shape[0]
        or (target.ndim == 2 and tuple(target.shape) != shape)
        or target.ndim > 2
    ):
        raise ModelError(f"target has shape {tuple(target.shape)}, expected ({shape[0]},) or {shape}")
    if tokens == "own":
        for name in advice:
            if name not in logits:
                raise ModelError(
                    f"teacher '{name}' has no token of its own{did_you_mean(name, logits)}; "
                    "give the student a token of that name, or use tokens='single'"
                )
    for name, weight in weights.items():
        if name not in logits and name not in advice:
            raise ModelError(f"weights: there is no '{name}'{did_you_mean(name, [*logits, *advice])}")
        if weight < 0:
            raise ModelError(f"weight of '{name}' is {weight}, must be ≥ 0")
    for name, temperature in temperatures.items():
        if name not in advice:
            raise ModelError(f"temperatures: there is no teacher '{name}'{did_you_mean(name, advice)}")
        if not temperature > 0:
            raise ModelError(f"temperature of '{name}' is {temperature}, must be > 0")


def check_settings(kind: str, parts: tuple[float, float], gate: str, labels: str, labelled: float) -> None:
    """Refuse comparisons and gates that there are not, or not for such labels."""
    for what, word, words in (("kind", kind, KINDS), ("gate", gate, GATES)):
        if word not in words:
            raise ModelError(f"co_advise_loss: {what} is {word!r}{did_you_mean(str(word), words)}")
    if min(parts) < 0:
        raise ModelError(f"co_advise_loss: parts are {parts}, must be ≥ 0")
    if labels == "several" and labelled != 1:
        raise ModelError("labels='several' takes labelled images alone: a target of zeros says that there is no class")
    if labels == "several" and (kind not in ("soft", "hard") or gate == "right"):
        word = f"gate='{gate}'" if kind in ("soft", "hard") else f"kind='{kind}'"
        raise ModelError(f"{word} is for images of one class each; with labels='several' it is soft or hard advice")
    if labelled != 1 and (kind == "decoupled" or gate == "right"):
        word = "kind='decoupled'" if kind == "decoupled" else "gate='right'"
        raise ModelError(f"{word} needs the class of every image; labelled is {labelled}")
    if kind == "dist" and gate != "none" and parts[1]:
        raise ModelError(_NO_IMAGE.format(f"gate='{gate}'"))


def check_kept(kept: Mapping[str, Tensor], advice: Mapping[str, Tensor], kind: str, parts: tuple[float, float]) -> None:
    """Refuse choices of images that are not one for each teacher and image."""
    require(kept, Mapping, "co_advise_loss: kept", "give a mapping from teachers' names to bool tensors", ModelError)
    for name, one in kept.items():
        if name not in advice:
            raise ModelError(f"kept: there is no teacher '{name}'{did_you_mean(name, advice)}")
        size = len(advice[name])
        if not isinstance(one, Tensor) or one.dtype != torch.bool or tuple(one.shape) != (size,):
            raise ModelError(f"kept of '{name}' is to be a bool tensor ({size},), one for each image")
    if kept and kind == "dist" and parts[1]:
        raise ModelError(_NO_IMAGE.format("kept"))


_NO_IMAGE = "{} chooses images, and the second part of kind='dist' belongs to none; set it to 0: parts=(1, 0)"
