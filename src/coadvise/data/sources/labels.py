"""Labels as a file has them → class indices and class names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...errors import DataError, NoLabels


def labels_from_values(values: Sequence[str] | NDArray) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels and class names where a source declares no names: the distinct values, in order.

    Numbers are ordered as numbers, and so are texts if each of them is a number as it is written by default: '10' is,
    '010', '1_0' and ' 10' are not. Other texts are ordered as texts. A value keeps its own text as its name, so
    different texts are different classes. Where −1 is the only negative number it marks images without a label, as in
    many data sets: it is label −1 and no class.
    """
    given = np.asarray(values).tolist()
    distinct = sorted(set(given))
    numbers = [number for value in distinct if (number := number_of(str(value))) is not None]
    first = 0
    if len(numbers) == len(distinct):
        distinct = [value for _, value in sorted(zip(numbers, distinct, strict=True))]
        first = 1 if [number for number in numbers if number < 0] == [-1] else 0
    place = {value: number - first for number, value in enumerate(distinct)}
    labels = np.array([place[value] for value in given], dtype=np.int64)
    return labels, tuple(str(value) for value in distinct[first:])


def labels_and_names(values: NDArray, names: Sequence[str] | None) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels and class names by the names that a source declares for the numbers 0, 1, …; without, by the values."""
    if names is not None and values.dtype.kind in "iu":
        return values.astype(np.int64), tuple(names)
    return labels_from_values(values)


def number_of(text: str) -> int | float | None:
    """The finite number that is written like this by default, else None."""
    for kind in (int, float):
        try:
            number = kind(text)
        except (ValueError, OverflowError):
            continue
        if str(number) == text and math.isfinite(number):
            return number
    return None


def require_some(columns: Iterable[pa.ChunkedArray], name: str, rows: str) -> None:
    """Refuse a label column in which no row has a label.

    Args:
        columns: its parts, of which no more are taken than it needs to find a label.

    Raises:
        NoLabels: so it is.
    """
    count = 0
    for column in columns:
        if not pa.compute.all(_missing(column), min_count=0).as_py():
            return
        count += len(column)
    if count:
        raise NoLabels(f"{rows} row 0 has no label in column '{name}' ({count} in all); leave such rows out")


def _missing(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Which rows of a column hold nothing."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return column.is_null(nan_is_null=pa.types.is_floating(kind))


def label_column(column: pa.ChunkedArray, name: str, rows: str) -> NDArray:
    """Values of a table's label column: integers, or what `labels_from_values` takes.

    Args:
        rows: what the rows belong to, for messages.

    Raises:
        DataError: a row has no label, or the column holds something else than one label a row.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_nested(kind):
        raise DataError(
            f"the column '{name}' of {rows} holds {kind}, and not one label a row; say which column has the labels: "
            "data.source=…:label=NAME"
        )
    missing = _missing(column)
    if pa.compute.any(missing).as_py():
        row = pa.compute.index(missing, True).as_py()
        count = pa.compute.sum(missing).as_py()
        raise DataError(f"{rows} row {row} has no label in column '{name}' ({count} in all); leave such rows out")
    column = column.cast(kind)
    if pa.types.is_integer(kind) and kind != pa.uint64():
        return column.to_numpy().astype(np.int64)
    if pa.types.is_floating(kind):
        return column.to_numpy().astype(np.float64)
    # Objects: an array of text would give every row the length of the longest one.
    return np.array([_text(value, name, rows) for value in column.to_pylist()], dtype=object)


def _text(value: Any, name: str, rows: str) -> str:
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"the column '{name}' of {rows} holds bytes that are no text; give labels as text") from error
