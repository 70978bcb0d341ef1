"""A function with code of its own: the same function otherwise, and one code object for each kind."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from coadvise.system.own_code import with_own_code


def summed(a: int, b: int = 2, *, c: int = 3) -> tuple[int, int, int]:
    return a, b, c


class Counter:
    def __init__(self, count: int) -> None:
        self.count = count

    def more(self, by: int) -> int:
        return self.count + by


def closed(over: int) -> Callable[[], int]:
    return lambda: over


def test_it_does_the_same() -> None:
    own = with_own_code(summed)
    assert own is not summed and inspect.signature(own) == inspect.signature(summed)
    assert own(1) == (1, 2, 3) and own(1, b=5, c=6) == (1, 5, 6)
    assert with_own_code(Counter(5).more)(2) == 7 and with_own_code(closed(9))() == 9
    assert with_own_code(len) is len


def test_those_of_one_kind_share_their_code() -> None:
    first, same, other = (with_own_code(Counter(n).more, kind) for n, kind in ((1, "a"), (2, "a"), (3, "b")))
    assert first.__code__ is same.__code__ and first(0) == 1 and same(0) == 2
    codes = [first.__code__, other.__code__, Counter.more.__code__, with_own_code(summed).__code__, summed.__code__]
    assert len({id(code) for code in codes}) == 5
    assert with_own_code(summed).__code__ is not with_own_code(summed).__code__
    assert with_own_code(summed, "a").__code__ is not first.__code__
