"""Columns of text files: CSV, TSV and JSON lines, plain or compressed by gzip.

They are read in blocks, of which only the wanted columns are kept, those of few different values as numbers: a file may
be larger than the memory. Texts are taken without blanks around them.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from ...errors import DataError, one_line, shortened
from ...shapes import Int64
from .listing import is_image
from .quotes import Quoted, look_at_quotes

ENDINGS = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson")
_BLOCK = 1 << 20  # bytes of a table that are read at once
_JSON_ROWS = 1 << 14
_UNREADABLE = (OSError, EOFError, zlib.error)  # what a file raises, or one that gzip has packed


def is_text_table(path: str) -> bool:
    """Whether a file is such a table by its name."""
    return path.lower().removesuffix(".gz").endswith(ENDINGS)


class Coded(NamedTuple):
    """A column of few different texts: row i has `values[codes[i]]`, and none where the code is −1."""

    codes: Int64[np.ndarray, " n"]
    values: tuple[str, ...]


def is_json(file: Path) -> bool:
    """Whether a table has JSON lines, in which quotation marks are written otherwise."""
    return file.name.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson"))


def header_of(file: Path) -> list[str]:
    """Names of the columns.

    Raises:
        DataError: no readable table, or one without a line of names.
    """
    if is_json(file):
        names = list(dict.fromkeys(name for row in _first_rows(file) for name in row))
        if not names:
            raise DataError(f'{file} is empty; give a line {{"image": "a.jpg", "label": "cat"}} for each image')
        for name in names:
            if not _is_utf8(name):
                raise DataError(f"{file}: the name of the column {name!a} is not UTF-8; write it in UTF-8")
    else:
        names = [name.strip() for name in _names(file)]
        if any(map(is_image, names)):
            raise DataError(
                f"{file} has no names of columns: its first line is that of an image ({shortened(', '.join(names))}); "
                "put a line before it such as image,label"
            )
    return names


def _names(file: Path) -> list[str]:
    """The first line of a file, in its parts as they are."""
    line, delimiter = _first_line(file), _delimiter(file)
    if look_at_quotes([line], delimiter, 1).open_at_end:
        raise DataError(
            f"{file}: a quotation mark in its first line, that of the names of the columns, is not closed there; "
            "remove it, or close it behind the name"
        )
    try:
        return next(csv.reader([line], delimiter=delimiter))
    except csv.Error as error:  # a name of more letters than Python's csv takes
        raise DataError(
            f"{file}: its first line, that of the names of the columns, cannot be read ({one_line(error)}); give one "
            "such as image,label"
        ) from error


def _first_rows(file: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for row in _json_rows(file):
        rows.append(row)
        if len(rows) == 100:
            break
    return rows


def _first_line(file: Path) -> str:
    try:
        with _opened(file) as lines:
            for raw in iter(lambda: lines.readline(_BLOCK), b""):
                for part in raw.splitlines():  # lines of an old Mac end in a carriage return
                    line = part.decode("utf-8-sig")
                    if line.strip():
                        return line
    except _UNREADABLE as error:
        raise DataError(f"{file} cannot be read: {one_line(error)}") from error
    except UnicodeDecodeError as error:
        raise _not_text(file) from error
    raise DataError(f"{file} is empty; give a line of names such as image,label, and then one for each image")


def _opened(file: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(file, "rb") if file.name.lower().endswith(".gz") else file.open("rb")


def _not_text(file: Path) -> DataError:
    wide = False
    with suppress(OSError, EOFError), _opened(file) as raw:
        wide = raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    coding = "utf-16" if wide else "latin1"
    return DataError(f"{file} is not in UTF-8; save it as CSV UTF-8 (or: iconv -f {coding} -t utf8 OLD > NEW)")


def _delimiter(file: Path) -> str:
    """What separates the columns: tabs in a file named so, else what is most frequent in the first line."""
    if file.name.lower().removesuffix(".gz").endswith((".tsv", ".tab")):
        return "\t"
    line = _first_line(file)
    return max(",\t;|", key=line.count)


def quoted(file: Path, columns: int) -> Quoted:
    """What stands between quotation marks in a file with so many columns; JSON lines have no such marks.

    Raises:
        DataError: a quotation mark is never closed, or the file cannot be read.
    """
    if is_json(file):
        return Quoted(0, 0, 0)
    try:
        found = look_at_quotes(_lines(file), _delimiter(file), columns)
    except _UNREADABLE as error:
        raise DataError(f"{file} cannot be read: {one_line(error)}") from error
    if found.open_at_end:
        raise DataError(
            f"{file} line {found.open_at_end}: a quotation mark begins a value there and is never closed, so that all "
            "rows behind it would be part of that value; remove it, or close it behind the value"
        )
    return found


def _lines(file: Path) -> Iterator[str]:
    """Lines of a file, whatever ends them, one at a time; what is not UTF-8 is replaced."""
    longest = 2 * _BLOCK  # more than pyarrow takes for a row
    with _opened(file) as raw, io.TextIOWrapper(raw, "utf-8-sig", "replace") as text:
        for number, line in enumerate(iter(lambda: text.readline(longest), ""), start=1):
            if len(line) == longest:
                raise DataError(f"{file} line {number} is longer than {longest:,} letters; give a line to each image")
            yield line


def read_columns(file: Path, columns: Sequence[str | None], *, lists: bool = False) -> tuple[pa.Array, list[Coded]]:
    """The first column as texts (none where it is None), and the others in numbers.

    Args:
        lists: whether a value of JSON lines may be a list, which is then the text that JSON has for it.
    """
    paths: list[pa.Array] = []
    coded: list[list[pa.Array]] = [[] for _ in columns[1:]]
    blocks = _json_blocks(file, columns, lists) if is_json(file) else _csv_blocks(file, columns)
    for path, *others in blocks:
        if path is not None:
            paths.append(_trimmed(path))
        for parts, column in zip(coded, others, strict=True):
            assert column is not None
            parts.append(_trimmed(column).dictionary_encode())
    kind = pa.dictionary(pa.int32(), pa.string())
    whole = [pa.chunked_array(parts, kind).unify_dictionaries().combine_chunks() for parts in coded]
    # Offsets of 64 bits: the paths of a large table are more than 2 GB of text.
    first = pa.chunked_array(paths, pa.large_string()).combine_chunks()
    return first, [_coded(column) for column in whole]


def _coded(column: pa.DictionaryArray | pa.ChunkedArray) -> Coded:
    if isinstance(column, pa.ChunkedArray):  # of a table without rows
        return Coded(np.zeros(0, dtype=np.int64), ())
    codes = column.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return Coded(codes, tuple(column.dictionary.to_pylist()))


def _trimmed(column: pa.Array) -> pa.Array:
    """Texts without blanks around them; nothing where there is none."""
    text = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, text.type), text)


def _csv_blocks(file: Path, columns: Sequence[str | None]) -> Iterator[list[pa.Array | None]]:
    raw = _names(file)
    header = [name.strip() for name in raw]
    named = [None if name is None else raw[header.index(name)] for name in columns]
    kinds = {
        name: pa.large_string() if place == 0 else pa.string() for place, name in enumerate(named) if name is not None
    }
    try:
        reader = pyarrow.csv.open_csv(
            file,
            pyarrow.csv.ReadOptions(block_size=_BLOCK, use_threads=False),
            pyarrow.csv.ParseOptions(delimiter=_delimiter(file), newlines_in_values=True),
            pyarrow.csv.ConvertOptions(column_types=kinds, include_columns=list(kinds), strings_can_be_null=False),
        )
        with reader:
            for batch in reader:
                yield [None if name is None else batch.column(name) for name in named]
    except (OSError, pa.ArrowException) as error:
        if "UTF8" in str(error):
            raise _not_text(file) from error
        hint = ""
        if "straddling" in str(error):  # Arrow's word for a row that is longer than a block
            line = quoted(file, len(header)).opens
            where = f"; a quotation mark in line {line} is closed much later" if line else ""
            hint = f": a row is longer than {_BLOCK:,} bytes{where}"
        raise DataError(f"{file} is no readable table{hint or ': ' + one_line(error)}") from error


def _json_rows(file: Path) -> Iterator[dict[str, object]]:
    number = 0
    try:
        with _opened(file) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise DataError(f'{file} line {number} is no object; write {{"image": "a.jpg", "label": "cat"}}')
                yield row
    except UnicodeDecodeError as error:
        raise _not_text(file) from error
    except (*_UNREADABLE, ValueError, RecursionError) as error:
        raise DataError(f"{file} line {number} cannot be read: {one_line(error)}") from error


def _json_blocks(file: Path, columns: Sequence[str | None], lists: bool) -> Iterator[list[pa.Array | None]]:
    block: list[list[str | None]] = []
    number = 0
    for number, row in enumerate(_json_rows(file), start=1):
        where, first = f"{file} row {number}", columns[0]
        block.append(
            [None if name is None else _text(row.get(name), where, name, lists and name != first) for name in columns]
        )
        if len(block) == _JSON_ROWS:
            yield _as_arrays(block, columns, file, number)
            block = []
    if block:
        yield _as_arrays(block, columns, file, number)


def _as_arrays(
    block: list[list[str | None]], columns: Sequence[str | None], file: Path, last: int
) -> list[pa.Array | None]:
    """Columns of some rows of JSON lines, of which `last` is the number of the last one."""
    kinds = [pa.large_string(), *[pa.string()] * (len(columns) - 1)]
    arrays: list[pa.Array | None] = []
    for name, values, kind in zip(columns, zip(*block, strict=True), kinds, strict=True):
        try:
            arrays.append(None if name is None else pa.array(values, kind))
        except UnicodeEncodeError as error:  # "\udce9" in JSON, which programs write for a byte that is not UTF-8
            place, text = next((i, text) for i, text in enumerate(values) if text is not None and not _is_utf8(text))
            raise DataError(
                f"{file} row {last - len(block) + 1 + place}: {shortened(ascii(text), 200)} in the column '{name}' is "
                "not UTF-8; rename the file or the class, and write the new name into the table"
            ) from error
    return arrays


def _is_utf8(text: str) -> bool:
    """Whether a text can be written in UTF-8; one in JSON may hold what only half is a letter."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(value: object, where: str, column: str, lists: bool) -> str | None:
    if isinstance(value, dict) or (isinstance(value, list) and not lists):
        raise DataError(
            f"{where}: the column '{column}' holds several values; give one path and one label a row, or say that "
            "images have several classes: data.labels=several"
        )
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    return None if value is None else str(value)
