"""Declared tokens of a student: name → bias."""

import copy
import re
from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from ..errors import ModelError
from ..names import CLASS

DEFAULT_TEACHERS: Mapping[str, str | None] = MappingProxyType({"conv": "conv", "inv": "inv"})
TOKEN_STD = 0.02
"""Standard deviation of the truncated normal that tokens are drawn from (paper §3.2)."""


def check_tokens(teachers: Mapping[str, str | None]) -> None:
    """Raise ModelError for names and biases that a token cannot have."""
    if not isinstance(teachers, Mapping):
        raise ModelError(f"teachers must be a mapping name → bias, got {teachers!r}")
    # Modules and parameters are attributes, so names that PyTorch's containers use themselves cannot be taken.
    containers = (nn.ModuleDict(), nn.ParameterDict())
    for name, bias in teachers.items():
        if name == CLASS:
            raise ModelError(f"{CLASS!r} is the name of the class token: give the teacher another name")
        if not isinstance(name, str) or not re.fullmatch(r"[\w+-]+", name):
            raise ModelError(f"{name!r} cannot name a token: use letters, digits, '_', '-' or '+'")
        if any(hasattr(container, name) for container in containers):
            raise ModelError(f"{name!r} cannot name a token, PyTorch uses it itself: give the teacher another name")
        if bias is not None and not (isinstance(bias, str) and bias):
            raise ModelError(f"the bias of token {name!r} is {bias!r}: use 'conv', 'inv', another kind, or null")


def checked_read_at(
    read_at: Mapping[str, int] | None, teachers: Mapping[str, str | None], depth: int
) -> dict[str, int]:
    """Token → the block after which its head reads it, of those that are read before the last one.

    Args:
        read_at: block by the name of the token, counted from 1; the last one where a token is not named.
        teachers: advised tokens.
        depth: number of blocks.

    Raises:
        ModelError: a name that no advised token has, or a block that is not there.
    """
    if not isinstance(read_at or {}, Mapping):
        raise ModelError(f"read_at must be a mapping from tokens to blocks such as {{'conv': 8}}, got {read_at!r}")
    found = {}
    for name, block in (read_at or {}).items():
        if name not in teachers:
            tokens = f"they are {', '.join(teachers)}" if teachers else "there are none"
            raise ModelError(f"read_at names {name!r}, which is no advised token: {tokens}")
        if isinstance(block, bool) or not isinstance(block, int) or not 1 <= block <= depth:
            raise ModelError(f"read_at of {name!r} is {block!r}: give the number of a block, 1 to {depth}")
        if block < depth:
            found[name] = block
    return found


def norms_of(norm: nn.Module, read_at: Mapping[str, int]) -> nn.ModuleDict:
    """For each token that is read early a norm of its own, which starts as the last one."""
    return nn.ModuleDict({name: copy.deepcopy(norm) for name in read_at})
