"""What is printed: every character that a terminal would act upon, beside the list of Unicode's categories."""

import io
import re
import sys
import unicodedata

from rich.console import Console

from coadvise.system.progress import Display
from coadvise.system.screen import Screen, Table, printable

HOSTILE = "a\x1b[31m\x07\b\r\x85\u2028\u202e[red]b[/red] [/] :cat: \\ \x7f\x9b2J"


def test_what_steers_a_terminal_is_escaped_and_everything_else_stays() -> None:
    for code in (*range(0x11000), *range(sys.maxunicode - 9, sys.maxunicode + 1)):
        letter = chr(code)
        steers = unicodedata.category(letter) in {"Cc", "Cs", "Zl", "Zp"} or 0x202A <= code <= 0x202E
        steers |= 0x2066 <= code <= 0x2069  # isolates of a direction of writing
        assert printable(letter) == (ascii(letter)[1:-1] if steers else letter), hex(code)
    assert printable("a\nb") == "a\\nb" and printable("a\nb\x1b", lines=True) == "a\nb\\x1b"
    assert printable("Schäferhund 犬 👩‍🚀 می‌خواهم") == "Schäferhund 犬 👩‍🚀 می‌خواهم"


def test_texts_are_printed_as_they_are_in_lines_titles_headers_and_cells() -> None:
    stream = io.StringIO()
    screen = Screen(file=stream, width=300, force_terminal=True, color_system=None)
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE)
    screen.print(HOSTILE, style="bold")
    screen.print(table)
    shown = stream.getvalue()
    assert shown.count(printable(HOSTILE)) == 4 and "[red]b[/red] [/] :cat:" in shown
    assert set(re.findall(r"[\x00-\x1f\x7f-\x9f\u202e\u2028]", shown)) == {"\n"}


def test_titles_and_notes_of_progress_are_printed_as_they_are(monkeypatch) -> None:
    stream = io.StringIO()
    for terminal in (True, False):
        console = Screen(file=stream, width=300, force_terminal=terminal, color_system=None)
        monkeypatch.setattr("coadvise.system.progress.console", console)
        display = Display(every=0)
        with display.bar(HOSTILE, 2) as bar:
            bar.note(HOSTILE)
            bar.advance()
        display.say(f"{HOSTILE}\nno second line")
    shown = re.sub(r"\x1b\[(\?25[hl]|1A|2K)", "", stream.getvalue())  # what moves the bar itself
    assert shown.count(printable(HOSTILE)) >= 6 and "\\nno second line" in shown
    assert set(re.findall(r"[\x00-\x1f\x7f-\x9f\u202e\u2028]", shown)) <= {"\n", "\r"}
    assert isinstance(console, Console)


def test_the_time_that_is_left_is_never_negative(monkeypatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("coadvise.system.progress.console", Screen(file=stream, width=100))
    with Display(every=0).bar("steps", 3) as bar:
        for _ in range(5):
            bar.advance()
    assert stream.getvalue().count("eta 0:00:0") == 5 and "eta -" not in stream.getvalue()
