"""Blocks of code and commands in pages, and the commands in them.

A comment above a block says what its test needs, where anybody sees it:

    <!-- test: given x, y -->          names of `helpers.desk.GIVEN` that Python finds (a batch, …)
    <!-- test: in test_add_a_kind -->  the test file of that name reads this page and runs the block
    <!-- test: slow -->                a block of Python that takes longer than two seconds
    <!-- test: shown in test_x -->     anywhere in a page: so it is with all blocks that show what is printed
    <!-- test: none, REASON -->        a drawing or a listing, in which nothing can be run

Files that commands and Python may name are those of `helpers.desk`.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

_BLOCK = re.compile(
    r"^(?P<indent>[ \t>]*)(?P<fence>`{3,}|~{3,})(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)(?P=fence)[ \t]*$",
    re.M | re.S,
)
_SAID = re.compile(r"<!-- test: ((?:(?!-->).)*) -->\s*\Z", re.S)
_WHOLE = re.compile(r"<!-- test: shown (in \w+) -->")
_INLINE = re.compile(r"(?<![`\\])(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.S)
_JOINS = {"|", "||", "&&", ";", "&", "(", ")", "|&"}
_INTO = {">", ">>", "<", "2>", "&>"}
_WORDS_OF_SHELL = {"do", "done", "then", "fi", "else", "if", "while", "!", "time"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    said: str
    """What a comment above it says about its test."""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def given(self) -> list[str]:
        """Names that the comment gives it."""
        return self.said.removeprefix("given ").replace(",", " ").split() if self.said.startswith("given ") else []


@dataclass(frozen=True)
class Command:
    """A command with its words, as a shell gives them to a program."""

    place: str
    words: tuple[str, ...]
    to_file: bool = False


def blocks(page: str, text: str) -> list[Block]:
    """Fenced blocks of a page in Markdown, also those inside of lists, notes and tabs."""
    found = []
    whole = _WHOLE.search(text)
    for match in _BLOCK.finditer(text):
        info = match["info"].strip().lstrip("{").strip().lstrip(".").split()
        said = _SAID.search(text[: match.start()])
        inside = re.sub(rf"^{re.escape(match['indent'])}", "", match["text"], flags=re.M)
        line = text.count("\n", 0, match.start()) + 1
        language = info[0].rstrip("}") if info else ""
        words = said[1].strip() if said else whole[1] if whole and language in ("", "text") else ""
        found.append(Block(page, line, language, textwrap.dedent(inside), words))
    return found


def inline(page: str, text: str) -> list[Block]:
    """Code inside of lines."""
    prose = _BLOCK.sub(lambda block: "\n" * block[0].count("\n"), text)
    return [
        Block(page, prose.count("\n", 0, match.start()) + 1, "", " ".join(match[2].split()), "")
        for match in _INLINE.finditer(prose)
    ]


def commands(block: Block) -> Iterator[Command]:
    """The commands of a block of shell. Variables of `for` have their first value, those of `$(…)` none.

    Raises:
        ValueError: a quote that is not closed.
    """
    values: dict[str, str] = {}
    lines = block.text.replace("\\\n", " " * 2).splitlines()
    for number, line in enumerate(lines, 1):
        for name, value in values.items():
            line = re.sub(rf"\${name}\b|\${{{name}}}", value, line)
        if match := re.fullmatch(r"(\w+)=\$\((.*)\)", line.strip()):  # what a command prints is not known here
            values[match[1]], line = "", match[2]
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()<>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        for words, to_file in _simple(list(lexer)):
            if words[0] == "for":
                values[words[1]] = words[3] if len(words) > 3 else ""
            else:
                yield Command(f"{block.page}:{block.line + number}", tuple(words), to_file)


def _simple(tokens: list[str]) -> Iterator[tuple[list[str], bool]]:
    """Simple commands of a line, without redirections and `NAME=value` in front, and whether its output is a file's."""
    words: list[str] = []
    to_file, skip = False, False
    for token in [*tokens, ";"]:
        if skip:
            skip = False
        elif token in _INTO:
            to_file, skip = to_file or ">" in token, True
        elif token in _JOINS:
            while words and (re.fullmatch(r"[A-Z_]+=.*", words[0]) or words[0] in _WORDS_OF_SHELL):
                words = words[1:]
            if words:
                yield words, to_file
            words, to_file = [], False
        else:
            words.append(token)
