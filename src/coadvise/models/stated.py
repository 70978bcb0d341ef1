"""What a classifier says of the images it wants: their normalisation, and by trial their size.

timm writes a model's normalisation beside it (`pretrained_cfg`), also where the model is inside of a wrapper. The size
stated there is that of the published weights; a model made with `img_size` wants another one. So the model is asked:
a copy without weights (PyTorch's meta device) is shown images of the sizes that come into question.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Size = tuple[int, int]
"""Height and width in pixels."""
# How many pixels of the image one step of a feature map or a table of positions may stand for.
_STRIDES = (4, 8, 16, 32)
_TRIALS = 40


@dataclass(frozen=True)
class Stated:
    """What a model says of its input.

    Attributes:
        mean, std: per channel; None where the model does not say.
        size: height and width of the images it is made for; None where it takes any, or does not say.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: Size | None = None


def stated(model: nn.Module, *, ask_size: bool = True) -> Stated:
    """What a classifier in evaluation mode says of its input, itself or inside of a wrapper.

    Models that state different normalisations, and a wrapper that normalises itself, are not guessed about.

    Args:
        ask_size: find the size, too; takes up to a second for a model of a fixed size, and nothing for others.
    """
    parts = list(_described(model))
    cfgs = [_cfg(part) for part in parts]
    norms = {(_numbers(cfg.get("mean")), _numbers(cfg.get("std"))) for cfg in cfgs}
    sizes = {_size_of(part, cfg) for part, cfg in zip(parts, cfgs, strict=True)} if ask_size else set()
    if not parts and ask_size:
        sizes = {_size_of(model, {})}
    size = sizes.pop() if len(sizes) == 1 else None
    mean, std = norms.pop() if len(norms) == 1 and not _normalises(model, parts) else (None, None)
    return Stated(mean, std, size)


def refusal(model: nn.Module, size: Size) -> Exception | None:
    """What a classifier in evaluation mode raises at images of a size; None where it takes them.

    Asked of a copy without weights first, so that it costs little where all is well.
    """
    first = next((p.shape[1] for p in model.parameters() if p.ndim == 4), 3)  # of a convolution, usually
    error: Exception | None = None
    for channels in dict.fromkeys((3, first)):
        trial = _Trial(model, channels)
        if trial(size):
            return None
        error = _raised(model, channels, size)
        if error is None:
            return None
    return error


def takes(model: nn.Module, size: Size) -> bool:
    """Whether a classifier takes images of a size, asked of a copy without weights; no where it cannot be copied."""
    bare = _without_weights(model)
    return bare is not None and _runs(bare.eval(), 3, size)


def sizes_named(model: nn.Module) -> list[Size]:
    """Sizes that a model names, which it may take: of itself, then those for which timm publishes its weights."""
    parts = list(_described(model)) or [model]
    published = [_pair(tuple(_cfg(part).get("input_size") or ())[-2:]) for part in parts]
    return [size for size in (*(one for part in parts for one in recorded_sizes(part)), *published) if size is not None]


def _described(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that timm's configuration is attached to."""
    if _cfg(model):
        yield model
    else:
        for child in model.children():
            yield from _described(child)


def _cfg(model: nn.Module) -> Mapping[str, Any]:
    """timm's configuration of this very module: wrappers may pass on attributes of what is in them."""
    for name in ("pretrained_cfg", "default_cfg"):
        cfg = vars(model).get(name, getattr(type(model), name, None))
        if isinstance(cfg, Mapping) and cfg:
            return cfg
    return {}


def _numbers(values: Any) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(value) for value in values)


def _normalises(model: nn.Module, parts: list[nn.Module]) -> bool:
    """Whether a wrapper has a mean and a standard deviation of its own, outside of the models in it."""
    inside = {id(module) for part in parts for module in part.modules()}
    outside = [module for module in model.modules() if id(module) not in inside]
    return any(hasattr(module, "mean") and hasattr(module, "std") for module in outside)


def _size_of(model: nn.Module, cfg: Mapping[str, Any]) -> Size | None:
    """The size that a model is made for, as far as it is made for one."""
    published = cfg.get("input_size")
    recorded = recorded_sizes(model)
    if published and not cfg.get("fixed_input_size"):
        return None
    if getattr(model, "dynamic_img_size", False):  # made to take any, says timm
        return None
    likely = recorded + ([(published[-2], published[-1])] if published else [])
    if not likely:
        return None
    trial = _Trial(model, published[0] if published else 3)
    # Where timm writes nothing down, a model that takes a second size, too, is not made for the published one.
    if not (published and recorded) and trial(_smaller(likely[0])) and trial(likely[0]):
        return None
    for taken, sizes in (trial, likely), (trial.really, likely), (trial, _hinted(model, likely[-1])[:_TRIALS]):
        for size in sizes:
            if taken(size):
                return size
    return likely[0]


def _smaller(size: Size) -> Size:
    """About half, which most networks can halve five times more."""
    height, width = (32 * math.ceil(side / 64) if side > 32 else side // 2 for side in size)
    return height, width


def recorded_sizes(model: nn.Module) -> list[Size]:
    """Image sizes that a model has written down: its own, then that of what first sees the image."""
    places = [model, *(child for child in model.children() if not isinstance(child, nn.ModuleList))]
    places += [child[0] for child in model.children() if isinstance(child, nn.ModuleList) and len(child)]
    found = [_pair(vars(place).get(name)) for place in places for name in ("img_size", "image_size")]
    return [size for size in found if size is not None]


def _pair(value: Any) -> Size | None:
    """A size of one number or two."""
    height, width = value if isinstance(value, (tuple, list)) and len(value) == 2 else (value, value)
    whole = all(type(side) is int and side > 0 for side in (height, width))
    return (height, width) if whole else None


def _hinted(model: nn.Module, published: Size) -> list[Size]:
    """Sizes by a model's feature maps, which many modules write down, and all squares of patches of 16 or 32 px."""
    maps: set[Size] = set()
    for module in model.modules():
        own = vars(module)
        pairs = [value for value in own.values() if isinstance(value, (tuple, list))]
        maps |= {pair for value in (*pairs, (own.get("height"), own.get("width"))) if (pair := _pair(value))}
    tables = [tensor.shape for name, tensor in model.named_parameters() if "pos" in name and tensor.ndim == 4]
    maps |= {(shape[i], shape[i + 1]) for shape in tables for i in (1, 2)}
    largest = 2 * max(published)
    sizes = {(height * s, width * s) for height, width in maps if min(height, width) > 1 for s in _STRIDES}
    sizes |= {(side, side) for side in range(16, largest + 1, 16)}
    # Several sizes may make feature maps of one size: most networks are made for multiples of 32. What is not square
    # is not met by chance.
    order = lambda size: (size[0] == size[1], -math.gcd(*size, 32), size)
    return sorted((size for size in sizes if 32 <= max(size) <= largest), key=order)


class _Trial:
    """Whether a model takes images of a size; asked of a copy without weights, whose forward pass computes nothing."""

    def __init__(self, model: nn.Module, channels: int) -> None:
        self.model, self.channels = model, channels
        # PyTorch unrolls recurrent layers on the meta device: the model itself is far quicker there.
        recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
        self.bare = None if recurrent else _without_weights(model)

    def __call__(self, size: Size) -> bool:
        return self.really(size) if self.bare is None else _runs(self.bare, self.channels, size)

    def really(self, size: Size) -> bool:
        """The same of the model itself."""
        return _runs(self.model, self.channels, size)


def _without_weights(model: nn.Module) -> nn.Module | None:
    """A copy on the meta device, made without a second set of weights; None where a model cannot be copied."""
    meta: dict[int, Any] = {id(t): torch.empty_like(t, device="meta") for t in model.buffers()}
    meta |= {id(p): nn.Parameter(torch.empty_like(p, device="meta"), False) for p in model.parameters()}
    try:
        bare = copy.deepcopy(model, meta)
    except Exception:  # a foreign module may hold anything
        return None
    for module in bare.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return bare


def _runs(model: nn.Module, channels: int, size: Size) -> bool:
    return _raised(model, channels, size) is None


@torch.no_grad()
def _raised(model: nn.Module, channels: int, size: Size) -> Exception | None:
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    try:
        model(torch.zeros(1, channels, *size, device=first.device, dtype=first.dtype))
    except Exception as error:  # models refuse a size in many ways
        return error
    return None
