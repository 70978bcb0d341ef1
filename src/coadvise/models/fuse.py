"""Faster frozen networks: BatchNorm is folded into the convolution before it, memory is channels-last.

This saves one pass over the feature map for each BatchNorm.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from ..shapes import Float
from .deviation import deviation
from .frozen_rednet import choose_kernels, freeze_blocks

# Largest difference of logits that counts as rounding, relative to the largest logit.
TOLERANCE = 1e-4


@torch.no_grad()
def fused(model: nn.Module, example: Float[Tensor, "b 3 h w"], dtype: torch.dtype | None = None) -> nn.Module | None:
    """A copy of a classifier that computes the same faster, or None where nothing can be gained safely.

    The copy is compared with the model on `example`, and not returned where it differs: something else may read the
    feature map between a convolution and its BatchNorm.

    Args:
        model: in evaluation mode; it is left as it is.
        example: images, normalised for this model.
        dtype: type of the copy's convolutions and matrices, for use under autocast in that type: autocast would
            convert frozen weights again at every step. The comparison is made before, in the model's own type.
    """
    if not any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        return None
    # TensorFloat-32 would hide in its own rounding what is to be compared.
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    try:
        with torch.autocast(example.device.type, enabled=False), exact:
            expected = model(example)
            copied = copy.deepcopy(model)
            for name, conv in _pairs(copied, example):
                _fold(copied, name, conv)
            freeze_blocks(copied)
            copied = copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            found = copied(example)
    # Some modules (weight normalisation, parametrisations) cannot be changed like this, and raise in many ways.
    except (RuntimeError, TypeError, AttributeError, ValueError, KeyError, AssertionError):
        return None
    if not isinstance(expected, Tensor) or expected.shape != found.shape:
        return None
    if not deviation(found, expected) <= TOLERANCE:
        return None
    for module in copied.modules():
        if dtype is not None and isinstance(module, (nn.Conv2d, nn.Linear)):
            module.to(dtype)
    if example.device.type == "cuda" and dtype is not None:
        choose_kernels(copied, example, dtype)
    return copied


def _pairs(model: nn.Module, example: Tensor) -> list[tuple[str, nn.Conv2d]]:
    """BatchNorms, by name, with the convolution whose output they read, each called once for an image.

    Found by watching a forward pass, so that it does not matter how a model is written.
    """
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # holds the tensors, so that no id comes twice
    calls: dict[nn.Module, int] = {}
    read_by: dict[nn.Conv2d, list[str]] = {}

    def after_conv(conv: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        calls[conv] = calls.get(conv, 0) + 1
        made[id(output)] = (conv, output)

    def before_norm(name: str, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[norm] = calls.get(norm, 0) + 1
        if id(inputs[0]) in made:
            read_by.setdefault(made[id(inputs[0])][0], []).append(name)

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(after_conv))
        elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            handles.append(
                module.register_forward_pre_hook(lambda norm, inputs, name=name: before_norm(name, norm, inputs))
            )
    model(example[:1])
    for handle in handles:
        handle.remove()
    return [
        (names[0], conv)
        for conv, names in read_by.items()
        if len(names) == 1 and calls[conv] == 1 and calls[model.get_submodule(names[0])] == 1
    ]


def _fold(model: nn.Module, name: str, conv: nn.Conv2d) -> None:
    """Move a BatchNorm into the convolution before it; what is left in its place is its activation, if it has one."""
    norm = model.get_submodule(name)
    assert isinstance(norm, nn.BatchNorm2d)
    # In float64, so that weights are rounded once.
    folded = fuse_conv_bn_eval(copy.deepcopy(conv).double(), copy.deepcopy(norm).double()).to(conv.weight.dtype)
    conv.weight, conv.bias = folded.requires_grad_(False).weight, folded.bias
    parent, _, last = name.rpartition(".")
    activation = getattr(norm, "act", None)  # timm's BatchNormAct2d carries it
    setattr(model.get_submodule(parent), last, activation if isinstance(activation, nn.Module) else nn.Identity())
