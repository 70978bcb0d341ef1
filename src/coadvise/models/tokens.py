"""Declared tokens of a student: name → bias."""

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
