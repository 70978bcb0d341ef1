"""What a person sees while a run works: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .screen import Screen, printable

console = Screen(stderr=True)


class Display:
    """Progress of one run. `quiet` shows nothing, as on all processes but the main one.

    Args:
        every: seconds between lines where there is no terminal.
    """

    def __init__(self, quiet: bool = False, every: float = 10.0) -> None:
        self.quiet = quiet
        self._every = every
        self._spoken = 0.0
        self._said: set[str] = set()

    def say(self, message: str) -> None:
        """One line of text; a new line in a name does not begin another."""
        if not self.quiet:
            with suppress(OSError):  # a full disk or a closed terminal is no reason to stop the work
                console.print(message, soft_wrap=True)

    def say_once(self, message: str) -> None:
        """One line of text, unless it has been said: the runs of one command often share their data."""
        if message not in self._said:
            self._said.add(message)
            self.say(message)

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        """A progress bar with ETA; on a terminal it is redrawn, elsewhere it prints a line now and then."""
        if self.quiet or not (console.is_terminal and console.file.isatty()):
            yield Bar(self, title, total, done, None)
            return
        columns = (
            TextColumn("{task.description}", style="bold", markup=False), BarColumn(bar_width=24), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )  # fmt: skip
        with Progress(*columns, console=console) as progress:
            yield Bar(self, title, total, done, progress)

    def due(self) -> bool:
        """Whether it is time for another plain line."""
        now = time.monotonic()
        if now - self._spoken < self._every:
            return False
        self._spoken = now
        return True


QUIET = Display(quiet=True)


class Bar:
    """One bar of a `Display`."""

    def __init__(self, display: Display, title: str, total: int, done: int, progress: Progress | None) -> None:
        self._display, self._title, self._total, self._done = display, printable(title), total, done
        self._progress, self._note, self._first = progress, "", done
        self._start = time.monotonic()
        self._task = progress.add_task(self._title, total=total, completed=done, note="") if progress else None

    def note(self, text: str) -> None:
        """Text that is shown behind the bar until the next one."""
        self._note = printable(text)

    def advance(self, count: int = 1) -> None:
        """Go on by `count`."""
        self._done += count
        self._total = max(self._total, self._done)  # a bar that runs past its end was told too small a number
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=count, total=self._total, note=self._note)
        elif not self._display.quiet and self._display.due():
            self._display.say(f"{self._title}  {self._done}/{self._total}  eta {self._eta()}  {self._note}")

    def _eta(self) -> str:
        done = self._done - self._first
        if done <= 0:
            return "?"
        seconds = (time.monotonic() - self._start) / done * (self._total - self._done)
        return f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02d}:{int(seconds % 60):02d}"
