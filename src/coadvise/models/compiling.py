"""Faster students: compilation, and the form of attention that is fast on the CPU.

A student is best compiled as a whole, with its loss, as one graph (`compiled`): then the rate of drop path, which
differs from block to block, is a number in that graph. Where that fails, one of the repeated blocks is compiled and
used at every depth (`compile_blocks`). Attention and MLP of a transformer block are then compiled separately, since
whole blocks would be compiled anew for each rate. On the CPU compiling gains 5 % (docs/log.md), blocks as operations of
our own more (`whole_block`).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import MethodType
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import nn

from ..system.files import cache_folder
from ..system.own_code import with_own_code

Form = Literal["graphs", "whole", "blocks", "fused", "plain"]
FORMS: tuple[Form, ...] = get_args(Form)
"""Ways to run what is trained: compiled as one and replayed as CUDA graphs, compiled as one, compiled block by block,
each block as one operation of our own (`ops.block`), not compiled."""
SIMPLER: dict[Form, Form] = {"graphs": "whole", "whole": "blocks", "blocks": "plain", "fused": "plain"}
"""What is taken where a form fails."""
Function = TypeVar("Function", bound=Callable[..., Any])

# Where PyTorch keeps what it compiled.
_FOLDER = "TORCHINDUCTOR_CACHE_DIR"
# Up to this many, attention uses matrix products on the CPU: 256 px with patches of 16.
MOST_PATCHES = 256


def compiled(function: Function, form: Form, backend: str | Callable[..., Any] = "inductor") -> Function:
    """A function as one graph for each shape of its arguments; itself where the form is not of the whole.

    It fails when it is called, and not here. What is compiled is kept in the cache folder, for other processes and
    later runs: the temporary folder, PyTorch's choice, often does not outlive a session.
    """
    if form not in ("graphs", "whole"):
        return function
    _keep_code()
    options = {"triton.cudagraphs": True} if form == "graphs" else None
    found: Function = torch.compile(function, fullgraph=True, dynamic=False, backend=backend, options=options)  # type: ignore
    return found


def kind_of(module: nn.Module) -> tuple[str, str]:
    """By what modules differ for a compiler, for `with_own_code`: their layers, and the shapes of their weights."""
    return str(module), str({name: tuple(one.shape) for name, one in module.named_parameters()})


def _keep_code() -> None:
    # The variable says nothing of the user's wish: importing timm sets it, too, to the default.
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    if os.environ.get(_FOLDER) in (None, default_cache_dir()):
        with suppress(OSError):
            (cache_folder() / "inductor").mkdir(parents=True, exist_ok=True)
            os.environ[_FOLDER] = str(cache_folder() / "inductor")


def plain_again(module: nn.Module) -> None:
    """Undo what `compile_blocks` did."""
    for one in module.modules():
        one._compiled_call_impl = None


def compile_blocks(student: nn.Module) -> int:
    """Compile a student's repeated blocks in place.

    Returns:
        Number of compiled blocks; 0 where it has none.
    """
    blocks, kind = list(_repeated(student)), kind_of(student)
    for block in blocks:
        parts = [getattr(block, name, None) for name in ("attn", "mlp")]
        for part in [part for part in parts if isinstance(part, nn.Module)] or [block]:
            if isinstance(part.forward, MethodType) and "forward" not in vars(part):
                part.forward = with_own_code(part.forward, kind)  # what PyTorch compiles of a module
            part.compile()
    return len(blocks)


def plain_attention(student: nn.Module, device: torch.device, dtype: torch.dtype | None) -> int:
    """Use matrix products for attention where PyTorch's fused form is slow: in 16 bits on the CPU.

    There the fused form's backward pass takes over twice as long (docs/log.md). Long sequences keep it, since their
    attention matrices would fill the memory.

    Args:
        dtype: of autocast; None for float32.

    Returns:
        Number of layers that were switched.
    """
    patches = getattr(getattr(student, "patch_embed", None), "num_patches", None)
    if device.type != "cpu" or dtype is None or patches is None or patches > MOST_PATCHES:
        return 0
    layers = [module for module in student.modules() if getattr(module, "fused_attn", False) is True]
    for layer in layers:
        layer.fused_attn = False  # type: ignore[assignment]
    return len(layers)


def lacking(device: torch.device) -> str:
    """What `torch.compile` needs and this machine lacks; empty where it has all."""
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++", "gcc", "cc", "clang")):
        return "there is no C compiler; install one, or set run.compile=false"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "Triton is missing; `pip install triton`"
    return ""


def _repeated(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost lists of at least two blocks that are all alike."""
    for child in module.children():
        members = list(child.children()) if isinstance(child, (nn.Sequential, nn.ModuleList)) else []
        kinds = {(type(m), *(p.shape for p in m.parameters())) for m in members}
        if len(members) > 1 and len(kinds) == 1 and list(members[0].children()):
            yield from members
        else:
            yield from _repeated(child)
