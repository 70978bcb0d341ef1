"""What stands between quotation marks in CSV and TSV: line breaks, and whole rows where a mark is stray.

A value that begins with a quotation mark goes on to the next one, over any number of lines. So a single stray mark
makes one value of all rows up to the next mark, and no reader of such tables sees anything wrong in that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from .listing import is_image

# The rest of a quoted value: two marks in it stand for one. Here and below, nothing that has matched is given back.
_REST = r'[^"]*+(?:""[^"]*+)*+"'


class Quoted(NamedTuple):
    """Lines of a table that begin between quotation marks.

    Attributes:
        rows: number of those that look like rows of their own.
        opens: line in which the quotation mark stands that the first of them lies behind; 0 where there is none.
        open_at_end: line of a quotation mark that is never closed; 0 where there is none.
    """

    rows: int
    opens: int
    open_at_end: int


def look_at_quotes(lines: Iterable[str], delimiter: str, columns: int) -> Quoted:
    """Follow the quotation marks of a table, as its readers do: one that begins a value opens it.

    Args:
        lines: those of the file, empty ones too.
        columns: number of the table's columns.
    """
    mark = re.escape(delimiter)
    others = rf"[^{mark}\n]*+"  # letters, of which a quotation mark is one where a value has begun
    value = rf'(?>"{_REST}{others}|(?!"){others}|)'  # nothing, where a quotation mark is not closed in the line
    rest, whole = re.compile(_REST), re.compile(rf"{value}(?:{mark}{value})*+\n?")
    behind = re.compile(rf"{others}(?:{mark}{value})*+\n?")
    rows = opens = open_now = 0
    for number, line in enumerate(lines, start=1):
        if not open_now and '"' not in line:
            continue
        if not open_now:
            read = whole.match(line)
        else:
            closed = rest.match(line)
            if _like_a_row(line if closed is None else closed[0], delimiter, columns):
                rows, opens = rows + 1, opens or open_now
            if closed is None:
                continue
            read = behind.match(line, closed.end())
        assert read is not None  # either matches nothing, too
        open_now = 0 if read.end() == len(line) else number
    return Quoted(rows, opens, open_now)


def _like_a_row(text: str, delimiter: str, columns: int) -> bool:
    """Whether what a line has between quotation marks looks like a row: as many values, or an image beside others."""
    values = text.split(delimiter)
    return len(values) > 1 and (len(values) >= columns or any(is_image(value.strip(' "\n')) for value in values))
