"""What a person reads: names that cannot steer a terminal, and streams that cannot be written to.

Names of classes and files, and whatever a recipe says, come from others. Every text on its way to a terminal passes
`printable`: by way of `Screen` and `Table`, which read no markup in it either.
"""

from __future__ import annotations

import contextlib
import os
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import rich.table
from rich.console import Console
from rich.text import Text

from ..errors import CoadviseError

_TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # marks that turn the direction of writing


class OutputError(CoadviseError):
    """Standard output that cannot be written to."""


class ReaderGone(Exception):
    """Nobody reads standard output any more, as behind `| head`."""


def printable(text: str, lines: bool = False) -> str:
    r"""A text in which everything that would steer a terminal is written as Python writes it: `\x1b`, `\n`, `\u202e`.

    Args:
        lines: new lines stay.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or (lines and c == "\n") or not _steers(c) else c.encode("unicode_escape").decode()
        for c in text
    )


def _steers(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(letter) in _TURNING


class Screen(Console):
    """A console that prints texts as they are: no markup, no emoji codes, nothing that steers a terminal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as `Console.print` does."""
        shown = (Text(printable(one)) if isinstance(one, str) else one for one in objects)
        super().print(*shown, **options)


class Table(rich.table.Table):
    """A table whose title, headers and cells are printed as they are."""

    def __init__(self, *headers: str, title: str | None = None, **options: Any) -> None:
        shown = None if title is None else Text(printable(title), style="table.title")
        super().__init__(title=shown, **options)
        for header in headers:
            self.add_column(header)

    def add_column(self, header: Any = "", *arguments: Any, **options: Any) -> None:
        """Add a column as `rich.table.Table` does."""
        super().add_column(_cell(header), *arguments, **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row as `rich.table.Table` does."""
        super().add_row(*map(_cell, cells), **options)


def _cell(content: Any) -> Any:
    return Text(printable(content)) if isinstance(content, str) else content


@contextlib.contextmanager
def guarded_streams() -> Iterator[None]:
    """Inside, what standard output cannot take is an error, and what standard error cannot take is lost.

    Letters that a stream's encoding does not have are escaped. What is buffered is written at the end.

    Raises:
        OutputError: standard output cannot be written to, for example because the disk is full.
        ReaderGone: it is a pipe that nobody reads.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Guarded(before[0], strict=True), _Guarded(before[1])  # type: ignore[assignment]
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


class _Guarded:
    """A stream that names its failures, or keeps them to itself: no run ends because its progress cannot be shown."""

    def __init__(self, stream: TextIO | None, strict: bool = False) -> None:
        if stream is None:  # Python was started without one
            stream = Path(os.devnull).open("w")  # noqa: SIM115
        self._stream: Any = stream
        self._strict = strict
        if hasattr(self._stream, "reconfigure"):
            self._stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write as the stream does."""
        try:
            return int(self._stream.write(text))
        except OSError as error:
            self._failed(error)
            return len(text)

    def flush(self) -> None:
        """Flush as the stream does."""
        try:
            self._stream.flush()
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        # What is left in the stream's buffer would fail again when Python ends.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        if self._strict and isinstance(error, BrokenPipeError):
            raise ReaderGone from error
        if self._strict:
            raise OutputError(
                f"standard output cannot be written to: {error.strerror or error}; send it to another place"
            ) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
