"""What a model file may ask for when its model is built: no more than it has weights for, nothing from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from timm.models import is_model
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import CheckpointError, ModelError
from ..models.hub import without_sources
from ..recipe.schema import Student
from .model_file import BuiltAs

# Arguments of timm's factory that make something else of a model.
_OTHERWISE = ("scriptable", "exportable", "no_jit", "features_only")
_LARGEST = 2**14
# A model under construction has parts that are replaced, and buffers that are not stored.
_SLACK_NUMBERS, _SLACK_TENSORS = 2**24, 1000
_LARGER = "it is far larger than the weights in the file, which is damaged; get it again"


def local(student: Student, built_as: BuiltAs | None, path: Path) -> Student:
    """Settings by which a file's model is made from what is here: nothing says where weights come from any more.

    Args:
        built_as: what the file says a model of another place was.

    Raises:
        CheckpointError: nothing says what the model was, or settings that a file may not have; names the setting.
    """
    model, options = student.model, dict(student.options)
    if ":" in model and (known := built_as or _of_timm(model)) is not None:
        model, options = known.model, {**known.options, **options}
    if ":" in model:
        raise CheckpointError(
            f"{path} names the model {model!r}, which is elsewhere; make it yourself, and load the weights "
            "with coadvise.load_checkpoint(model, path)"
        )
    options = without_sources(options)
    for name, value in options.items():
        if name in _OTHERWISE or _too_large(value):
            raise CheckpointError(
                f"{path} asks for {name}={str(value)[:40]}, which a file may not; make the model yourself, and load "
                "the weights with coadvise.load_checkpoint(model, path)"
            )
    return student.model_copy(update={"model": model, "options": options})


def _of_timm(model: str) -> BuiltAs | None:
    """A model of timm's own place on the Hub, where files are called as the model and its weights are."""
    prefix, _, address = model.partition(":")
    owner, _, name = address.partition("@")[0].partition("/")
    return BuiltAs(name, {}) if prefix in ("hf-hub", "hf_hub") and owner == "timm" and is_model(name) else None


def _too_large(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_too_large(one) for one in value.values())
    if isinstance(value, (list, tuple)):
        return len(value) > 256 or any(_too_large(one) for one in value)
    return isinstance(value, (int, float)) and not abs(value) <= _LARGEST


class _Small(TorchDispatchMode):
    """Nothing that PyTorch computes has more than so many numbers: asked on its meta device, before memory is taken.

    A parameter is registered only when it has been filled.
    """

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers = numbers

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not func._schema.is_mutable:
            sizes = [one.numel() for one in tree_leaves(_on_meta(func, args, kwargs)) if isinstance(one, Tensor)]
            if max(sizes, default=0) > self.numbers:
                raise ModelError(_LARGER)
        return func(*args, **kwargs)


def _on_meta(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operation would give, without its numbers; None where that depends on the numbers."""
    bare = {name: value for name, value in kwargs.items() if name != "generator"}
    if any(one.name == "device" for one in func._schema.arguments):
        bare["device"] = "meta"
    args, bare = tree_map_only(Tensor, lambda one: one.to("meta"), (args, bare))
    try:
        return func(*args, **bare)
    except (RuntimeError, NotImplementedError, TypeError, IndexError, ValueError):  # the real one says what is wrong
        return None


@contextmanager
def within(path: Path) -> Iterator[None]:
    """Stop the making of a model that outgrows its file, before memory is used for it.

    Raises:
        ModelError: the model has far more numbers or tensors than the file.
    """
    with safe_open(str(path), framework="pt") as file:
        shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118 (no mapping)
    numbers, tensors = 4 * sum(map(math.prod, shapes)) + _SLACK_NUMBERS, 4 * len(shapes) + _SLACK_TENSORS
    small = _Small(numbers)

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal numbers, tensors
        tensors -= 1
        numbers -= tensor.numel() if isinstance(tensor, Tensor) else 0
        if numbers < 0 or tensors < 0:
            raise ModelError(_LARGER)

    hooks = (
        register_module_parameter_registration_hook(count),
        register_module_buffer_registration_hook(count),
    )
    try:
        with small:
            yield
    finally:
        for hook in hooks:
            hook.remove()
