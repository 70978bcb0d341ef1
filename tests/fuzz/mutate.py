"""Random changes of inputs: of bytes, and of the trees that JSON and YAML hold."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

LARGEST = 1 << 20
"""Bytes of an input at most."""

_NUMBERS = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
_DIGITS = ("0", "-1", "1", "00", "65536", "2147483648", "4294967295", "9223372036854775808", "1e999", "9" * 40, "1_0")


def _flip(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 10, 34, rng.randrange(256)))


def _cut(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data)) :]


def _span(rng: Random, data: bytes | bytearray) -> slice:
    start = rng.randrange(len(data))
    return slice(start, start + min(rng.choice((1, 2, 4, 8, 64, 512, len(data))), len(data) - start))


def _remove(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    del data[_span(rng, data)]


def _repeat(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    part = _span(rng, data)
    data[part.start : part.start] = bytes(data[part]) * rng.choice((1, 1, 2, 30))


def _move(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    part = _span(rng, data)
    moved = bytes(data[part])
    del data[part]
    at = rng.randint(0, len(data))
    data[at:at] = moved


def _fill(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    part = _span(rng, data)
    count = part.stop - part.start
    data[part] = rng.choice((bytes(count), b"\xff" * count, rng.randbytes(count)))


def _splice(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    """The beginning of one and the end of another."""
    other = rng.choice(others) if others else bytes(data)
    if other:
        data[rng.randrange(len(data)) :] = other[rng.randrange(len(other)) :]


def _length(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    """A number in binary: the sizes, counts and offsets of most formats, in either order of bytes."""
    size = rng.choice((1, 2, 4, 4, 8))
    at = rng.randrange(len(data))
    value = rng.choice((*_NUMBERS, len(data), len(data) - 1, len(data) + 1, rng.getrandbits(8 * size)))
    order = rng.choice(("little", "big"))
    data[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, order)  # type: ignore[arg-type]


def _digits(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    """A number in text."""
    found = list(re.finditer(rb"\d+", data[: 1 << 14]))
    if found:
        data[slice(*rng.choice(found).span())] = rng.choice(_DIGITS).encode()


_CHANGES: tuple[Callable[[Random, bytearray, Sequence[bytes]], None], ...] = (
    _flip, _flip, _set, _set, _cut, _remove, _repeat, _move, _fill, _splice, _length, _length, _length, _digits,
)  # fmt: skip


def mutate_bytes(rng: Random, data: bytes, others: Sequence[bytes] = (), words: Sequence[bytes] = ()) -> bytes:
    """One to six changes.

    Args:
        others: other inputs of the format, to be joined with.
        words: what has a meaning in the format, to be put anywhere.
    """
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if not out:
            break
        if words and rng.random() < 0.25:
            at = rng.randint(0, len(out))
            out[at : at + rng.choice((0, 0, 1, 4))] = rng.choice(words)
        else:
            rng.choice(_CHANGES)(rng, out, others)
    return bytes(out[:LARGEST])


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if depth % 2 else {"a": value}
    return value


_STRANGE: tuple[Callable[[], Any], ...] = tuple(
    (lambda value=value: copy.deepcopy(value))
    for value in (
        None, True, False, 0, -1, 1, 255, 65536, 2**31, 2**53 + 1, 2**63, 2**64, 10**30, -(10**30), 0.5, -0.0, 1e308,
        float("nan"), float("inf"), -float("inf"), "", " ", "x", "0", "null", "1e-3", "a\nb", "\0", "\x1b[31m", "é",
        "\u202e", "..", "../x", "/", "a" * 5000, [], {}, [[]], [1], ["a", 1], {"a": 1}, {"": {}}, [0] * 1000,
        _nested(30), _nested(31),
    )
)  # fmt: skip


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every place of a tree, as a container and a key of it."""
    found: list[tuple[Any, Any]] = []
    open_ones = [tree]
    while open_ones:
        container = open_ones.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], (dict, list)):
                open_ones.append(container[key])
    return found


def _other_type(rng: Random, value: Any) -> Any:
    """The same said otherwise: a number as text, one as a list of one, …"""
    ways: list[Callable[[], Any]] = [lambda: [value], lambda: {"a": value}, lambda: json.dumps(value)]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        ways += [lambda: -value, lambda: value * 10 ** rng.randint(1, 30), lambda: value + 1, lambda: float(value)]
    if isinstance(value, str):
        ways += [lambda: value * 2, lambda: value[:-1], lambda: value.upper(), lambda: list(value), value.encode().hex]
    if isinstance(value, list):
        ways += [lambda: value[1:], lambda: value * 2, lambda: value[::-1], lambda: dict(enumerate(value))]
        ways += [lambda: {str(k): v for k, v in enumerate(value)}]
    if isinstance(value, dict):
        ways += [lambda: list(value), lambda: list(value.values())]
    return rng.choice(ways)()


def mutate_tree(rng: Random, tree: Any, words: Sequence[str] = ()) -> Any:
    """A copy of a dict or list (of dicts, lists and plain values) with one to four changes.

    Args:
        words: keys and texts that have a meaning in the format.
    """
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = _places(tree)
        if not places:
            return rng.choice(_STRANGE)()
        container, key = rng.choice(places)
        way = rng.randrange(8)
        if way < 3:
            container[key] = rng.choice(_STRANGE)()
        elif way == 3:
            container[key] = _other_type(rng, container[key])
        elif way == 4:
            del container[key]
        elif way == 5:  # exchanged with another place, which may lie inside
            other, name = rng.choice(places)
            container[key], value = copy.deepcopy(other[name]), copy.deepcopy(container[key])
            if name in other if isinstance(other, dict) else name < len(other):
                other[name] = value
        elif way == 6 and isinstance(container, dict):  # another name
            container[rng.choice((*words, *map(str, container), "", "x" * 300, "é", "\n"))] = container.pop(key)
        elif words:
            container[key] = rng.choice(words)
    return tree if rng.random() < 0.97 else rng.choice(_STRANGE)()


def json_bytes(rng: Random, tree: Any) -> bytes:
    """A tree as JSON; now and then with a key that is given twice, or nested too deeply."""
    text = json.dumps(tree)
    if rng.random() < 0.05:
        text = text.replace("{", '{"a": 1, "a": 2, ', 1)
    if rng.random() < 0.03:
        depth = rng.choice((500, 5_000, 50_000))
        text = text.replace(": ", ": " + "[" * depth + "]" * depth + ', "b": ', 1)
    return text.encode()
