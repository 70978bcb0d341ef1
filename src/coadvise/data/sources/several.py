"""Images of any number of classes, as tables have them: columns of 0 and 1, lists, or texts such as `dog|outdoor`.

The label of such an image is the number of its set of classes, and the rows of `sets` say which classes these are. So
one whole number stands for an image's label here as everywhere, and only where a target is made of it, and where
images are counted, does it matter how many classes that means.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ...errors import DataError, few, shortened
from ...shapes import Bool, Int64
from .columns import is_list, is_number
from .labels import labels_from_values

SEPARATORS = "|;,"
"""What separates names in a text: the first of these that is in any of a column's texts."""
_SINGLE = (str, int, float, type(None))
_ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\w[\w.]*)\s*"""
# With all commas: what NumPy writes, ['dog' 'cat'], is to Python the one text dogcat.
_PYTHON = re.compile(rf"[\[({{]\s*(?:{_ITEM},\s*)*(?:{_ITEM})?[\])}}]")


class Sets(NamedTuple):
    """Labels of images that have any number of classes."""

    labels: Int64[np.ndarray, " n"]
    sets: Bool[np.ndarray, "m k"]
    class_names: tuple[str, ...]


def sets_of_marks(marks: Bool[np.ndarray, "n k"], names: Sequence[str]) -> Sets:
    """Labels of images from what each is marked with."""
    sets, labels = np.unique(marks, axis=0, return_inverse=True)
    return Sets(labels.reshape(-1).astype(np.int64), sets, tuple(names))


def sets_of_lists(codes: Int64[np.ndarray, " n"], lists: Sequence[Sequence[Any]], names: Sequence[str] | None) -> Sets:
    """Labels of images by lists of classes.

    Args:
        codes: which of the different lists each image has, −1 for none.
        lists: of names; of numbers, where `names` are those of the classes 0, 1, …

    Returns:
        An empty list is an image of none of the classes. One with nothing but −1, where that is no class (see
        `labels_from_values`), is an image without a label, −1; beside classes, −1 only fills the list up.
    """
    values = [value for one in lists for value in one]
    if names is None:
        found, names = labels_from_values(values) if values else (np.zeros(0, dtype=np.int64), ())
    else:
        found = np.asarray(values, dtype=np.int64)
    table = np.zeros((len(lists) + 1, len(names)), dtype=bool)  # the last is of images without a list
    row, there = np.repeat(np.arange(len(lists)), [len(one) for one in lists]), found >= 0
    table[row[there], found[there]] = True
    unknown = np.isin(np.arange(len(table)), row[~there]) & ~table.any(axis=1)
    made = sets_of_marks(table[codes], names)
    return made._replace(labels=np.where(unknown[codes], -1, made.labels))


def separated(
    texts: Sequence[str], where: Callable[[int], str], known: str | None
) -> tuple[list[list[str]], str | None]:
    """The names in each text: a list in JSON or in Python, or what `SEPARATORS` separate; without blanks around them,
    each once.

    Args:
        where: the place of a text by its number, for messages.
        known: what separates names in other images of the data set.

    Returns:
        The names, and what separates them; None where nothing does.

    Raises:
        DataError: a text in square brackets that is no list.
    """
    lists = [_list_in(text.strip()) for text in texts]
    plain = [text for text, values in zip(texts, lists, strict=True) if values is None]
    mark = next((mark for mark in SEPARATORS if mark == known or any(mark in text for text in plain)), None)
    found = []
    for number, (text, values) in enumerate(zip(texts, lists, strict=True)):
        if values is None and _in_brackets(text):
            raise DataError(
                f"{where(number)} has the label {shortened(text.strip())}, which is no list of names or numbers; write "
                '["dog", "cat"], or dog|cat'
            )
        parts = values if values is not None else [text] if mark is None else text.split(mark)
        found.append(list(dict.fromkeys(name for part in parts if (name := part.strip()))))
    return found, mark


def _in_brackets(text: str) -> bool:
    return text.strip()[:1] + text.strip()[-1:] == "[]"


def _list_in(text: str) -> list[str] | None:
    """What is in a list as JSON has it, or in a list, tuple or set as Python writes it: so pandas fills a cell."""
    if text == "set()":
        return []
    ways: list[Callable[[str], Any]] = [json.loads] if text.startswith("[") else []
    for read in ways + ([ast.literal_eval] if _PYTHON.fullmatch(text) else []):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError):
            values = read(text)
            if isinstance(values, (list, tuple, set)) and all(isinstance(one, _SINGLE) for one in values):
                return [str(one) for one in values if one is not None]
    return None


def notes_on_names(names: Sequence[str]) -> tuple[str, ...]:
    """What is to be said of the names of classes where each image has one."""
    odd = [name for name in names if "|" in name or ";" in name or _in_brackets(name) or _list_in(name) is not None]
    how = "data.labels=several takes them apart"
    said = f"an image has one class here, also where its label looks like several: {few(odd)}; {how}"
    return (said,) if odd else ()


def holds_marks(column: pa.ChunkedArray) -> bool:
    """Whether a column of numbers holds 0 and 1 alone."""
    return set(column.unique().to_pylist()) <= {0, 1}


def marks_in(column: pa.ChunkedArray, name: str, rows: str) -> Bool[np.ndarray, " n"]:
    """Which rows a column of 0 and 1 marks.

    Args:
        rows: what the rows belong to, for messages.

    Raises:
        DataError: a row with something else.
    """
    values = column.to_pylist()
    other = next((row for row, value in enumerate(values) if value not in (0, 1)), None)
    if other is not None:
        raise DataError(f"{rows} row {other} has {values[other]!r} in column '{name}', must be 0 or 1")
    return np.array(values, dtype=bool)


def lists_in(column: pa.ChunkedArray, name: str, rows: str, names: Sequence[str] | None) -> list[list[Any]] | list[str]:
    """The classes of each row as they stand, from a column of lists or of texts; none where there is nothing.

    Args:
        names: of the classes 0, 1, … where the file declares them.

    Raises:
        DataError: numbers that are neither of these classes nor −1, or a column of something else.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    values = column.to_pylist()
    if not is_list(kind):
        if is_number(kind):
            raise DataError(
                f"the column '{name}' of {rows} holds {kind}; columns of 0 and 1 are named together, two at least: "
                ":label=dog,cat"
            )
        if names is not None or pa.types.is_nested(kind):
            raise DataError(f"the column '{name}' of {rows} holds {kind}, and not a list or a text of classes a row")
        return ["" if value is None else str(value) for value in values]
    found = [[] if value is None else [one for one in value if one is not None] for value in values]
    if names is None:
        return [[str(one) for one in value] for value in found]
    for row, value in enumerate(found):
        for one in value:
            if not isinstance(one, int) or not -1 <= one < len(names):
                last = len(names) - 1
                raise DataError(f"{rows} row {row} has the label {one} in column '{name}', none of 0 to {last}")
    return found
