"""Inductive bias of a model, by what it does: how it brings the places of an image together."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .. import ops  # noqa: F401 - registers the operator
from ..recipe.address import address, guess_bias

_aten = torch.ops.aten
_ATTENTION = (
    _aten._scaled_dot_product_flash_attention, _aten._scaled_dot_product_flash_attention_for_cpu,
    _aten._scaled_dot_product_efficient_attention, _aten._scaled_dot_product_cudnn_attention,
    _aten._scaled_dot_product_attention_math, _aten._scaled_dot_product_fused_attention_overrideable,
)  # fmt: skip


class _Seen(TorchDispatchMode):
    """Counts the operations that bring places together."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = self.attentions = self.involutions = self.pools = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        if packet is _aten.convolution:
            # Patches that do not overlap, and single pixels, meet in no convolution.
            self.convolutions += any(
                side > step for side, step in zip(args[1].shape[2:], [*args[3]] * 2, strict=False) if args[1].ndim == 4
            )
        elif packet is torch.ops.coadvise.involution:
            self.involutions += 1
        elif packet is _aten.avg_pool2d:
            self.pools += len(args) > 2 and max(args[1]) > 1 and max([*args[2], 1]) == 1
        elif packet in _ATTENTION:
            self.attentions += args[0].shape[-2] > 1  # a single query pools
        elif packet in (_aten.bmm, _aten.baddbmm):
            first, second = args[-2:] if packet is _aten.baddbmm else args[:2]
            self.attentions += _varies(first) and _varies(second)
        return func(*args, **(kwargs or {}))


def _varies(x: Tensor) -> bool:
    """Whether the matrices of a batch differ and have several rows and columns: none is a weight for all of them."""
    return x.shape[0] > 1 and x.stride(0) > 0 and min(x.shape[1:]) > 1


def bias_of(model: str) -> str | None:
    """Bias of a model by its name: `conv`, `inv`, `attn` or `mlp`; None where several come together, or it cannot be
    told.

    The names that recipes know come first; any other model of timm's is made without weights and looked at.
    """
    if (known := guess_bias(model)) is not None or address(model) or not timm.is_model(model):
        return known
    try:
        with torch.device("meta"):
            network = timm.create_model(model).eval()
            cfg: Any = getattr(network, "pretrained_cfg", None) or {}
            return bias_in(network, torch.empty(2, *cfg.get("input_size", (3, 224, 224))))
    except Exception:  # third-party code, some of which needs data to answer
        return None


@torch.no_grad()
def bias_in(model: nn.Module, images: Tensor) -> str | None:
    """The same of a network, by the operations with which it answers for images (2, 3, h, w), which may be on `meta`.

    Attention counts where each place asks for others by products of matrices; gates and sums over all places do not.
    """
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        return None
    with _Seen() as seen:
        model(images)
    convolves = seen.convolutions > 1  # more than a stem
    if seen.attentions:
        return None if convolves or seen.involutions else "attn"
    if seen.involutions:
        return "inv"
    if seen.pools > seen.convolutions:
        return None
    return "conv" if convolves else "mlp"
