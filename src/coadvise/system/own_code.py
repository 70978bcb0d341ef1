"""Functions with code of their own: PyTorch counts what it compiles of a function by its code object.

After eight compilations it gives up, whichever objects they were for: all methods of a class, and all copies of a
function that a module defines, have one code object. A process with many students would compile the first eight alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache
from types import CodeType, FunctionType, MethodType
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])
# What was compiled of so many kinds is kept, for the next that is of one of them.
_KINDS = 32


def with_own_code(function: Function, kind: Hashable = None) -> Function:
    """The same function, or bound method, with a code object of its own; itself where it is not written in Python.

    Args:
        kind: what it will be compiled for. Those of one kind share the code object, and so what is compiled: a second
            student like the first need not be compiled again. None: shared with nothing.
    """
    if isinstance(function, MethodType):
        inner = with_own_code(function.__func__, kind)
        return cast(Function, MethodType(inner, function.__self__))
    if not isinstance(function, FunctionType):
        return function
    code = function.__code__.replace() if kind is None else _code(function.__code__, kind)
    own = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    own.__kwdefaults__, own.__annotations__ = function.__kwdefaults__, function.__annotations__
    return cast(Function, own)


@lru_cache(_KINDS)
def _code(code: CodeType, kind: Hashable) -> CodeType:
    return code.replace()
