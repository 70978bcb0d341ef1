"""Compiled forms of frozen networks, for batches of known sizes.

Where a network repeats a block, each form of block is compiled once and serves at every depth: the 33 bottlenecks of
RedNet-101 have eight forms. What lies outside of the blocks, stem and head, is compiled by itself. Batches of another
size, such as the last of an evaluation, take the network as it is: they never start a compilation.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from ..errors import ModelError
from .deviation import deviation
from .replay import Run, recorded

_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Linear)
# PyTorch's own containers stand for no block: two of one form may hold anything.
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# Forms of one class of block, at all sizes of batches: past PyTorch's own limit of 8 they would run as they are.
_FORMS = 128
# Largest difference of logits that counts as rounding, relative to the largest logit: TensorFloat-32's, and 16 bits'.
_ROUNDING, _HALF_ROUNDING = 1e-3, 5e-2


class Compiled:
    """A frozen network's compiled form beside it: the same weights, not a copy of them.

    Args:
        model: in evaluation mode, with its weights where they will be used; it is left as it is.
        backend: of `torch.compile`.
    """

    def __init__(self, model: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
        self._model = _same_weights(model)
        self._ready: dict[tuple[object, ...], Run] = {}
        self.regions = list(_regions(self._model, _block_types(self._model)))
        for region in self.regions:
            region.compile(backend=backend, dynamic=False)

    def takes(self, x: Tensor) -> bool:
        """Whether it was compiled for such a batch under such an autocast."""
        return _kind(x) in self._ready

    def __call__(self, x: Tensor) -> Tensor:
        run = self._ready[_kind(x)]
        # One layout of memory, whatever the images come in, and never tensors of inference mode: each other kind would
        # be compiled anew.
        if torch.is_inference_mode_enabled() or x.is_inference():
            with torch.inference_mode(False), torch.no_grad():
                return run(x.clone(memory_format=torch.channels_last))
        return run(x.contiguous(memory_format=torch.channels_last))

    def _run(self, x: Tensor) -> Tensor:
        return _logits(self._model(x))

    def prepare(self, model: nn.Module, x: Tensor) -> None:
        """Compile for batches like `x`, and compare with what the model says of them.

        Raises:
            ModelError: it says something else.
            Exception: whatever a compiler raises where it cannot do it.
        """
        x = x.contiguous(memory_format=torch.channels_last)
        expected = _logits(model(x))
        with torch._dynamo.config.patch(recompile_limit=_FORMS):
            found = self._run(x)
        limit = _ROUNDING if _autocast(x) is None and expected.dtype == torch.float32 else _HALF_ROUNDING
        if found.shape != expected.shape or not deviation(found, expected) <= limit:
            raise ModelError("its compiled form gives other logits")
        replay = recorded(self._run, x, limit) if x.device.type == "cuda" else None
        self._ready[_kind(x)] = replay or self._run


def compilable(model: nn.Module) -> bool:
    """Whether a network is of PyTorch's layers: functions, ONNX files and Transformers' classifiers are left alone."""
    kinds = [type(module) for module in model.modules()]
    foreign = any(kind.__module__.partition(".")[0] == "transformers" for kind in kinds)
    return not foreign and any(issubclass(kind, _WEIGHTED) for kind in kinds)


def _logits(z: Any) -> Tensor:
    found = getattr(z, "logits", z)
    if not isinstance(found, Tensor):
        raise ModelError(f"it gives {type(found).__name__}, not logits")
    return found


def _autocast(x: Tensor) -> torch.dtype | None:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _kind(x: Tensor) -> tuple[object, ...]:
    """All by which PyTorch would compile anew."""
    return (tuple(x.shape), x.dtype, x.device, _autocast(x), torch.is_grad_enabled())


def _same_weights(model: nn.Module) -> nn.Module:
    """A copy of a network's modules that has the very tensors; drop path, which does nothing here, is left out: its
    rate would make a form of its own of each block."""
    tensors = [*model.parameters(), *model.buffers()]
    copied = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for name, module in list(copied.named_modules()):
        if isinstance(module, DropPath) and name:
            copied.set_submodule(name, nn.Identity())
    return copied


def _block_types(model: nn.Module) -> frozenset[type[nn.Module]]:
    """Classes of blocks of at least two layers, of which there are two of one form; not what blocks are made of."""
    forms = Counter(
        (type(module), tuple((name, tuple(tensor.shape)) for name, tensor in module.named_parameters()))
        for module in model.modules()
        if not isinstance(module, _CONTAINERS) and sum(isinstance(part, _WEIGHTED) for part in module.modules()) > 1
    )
    found = {kind for (kind, _), count in forms.items() if count > 1}
    blocks = [module for module in model.modules() if type(module) in found]
    return frozenset(
        found - {type(part) for block in blocks for part in block.modules() if type(part) is not type(block)}
    )


def _regions(module: nn.Module, blocks: frozenset[type[nn.Module]]) -> Iterator[nn.Module]:
    """What is compiled by itself: blocks, the outermost first, and what holds weights and no block."""
    if type(module) in blocks or not any(type(part) in blocks for part in module.modules()):
        if next(module.parameters(), None) is not None:
            yield module
        return
    for child in module.children():
        yield from _regions(child, blocks)
