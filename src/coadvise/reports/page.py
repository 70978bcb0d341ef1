"""A report as data: sections of text, tables and figures, written as one HTML page and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from ..system.files import write_atomic
from .alignment import Aligned, aligned
from .plots.style import Drawing
from .tables import ABSENT, Table, markdown_prose, markdown_table, markdown_text


@dataclass(frozen=True)
class Text:
    """A paragraph; `kind` is `note` for what a reader may skip, `warning` for what is missing, or `code`."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Photograph:
    """A JPEG in base64, what it shows, and what is said about it; `name` is that of its file."""

    jpeg: str
    title: str
    lines: Sequence[str]
    name: str


@dataclass(frozen=True)
class Gallery:
    """Photographs side by side, as many as there is room for, under a caption."""

    caption: str
    photographs: Sequence[Photograph]


@dataclass(frozen=True)
class Folded:
    """What most readers skip, behind a title that opens it; Markdown shows it like all else."""

    title: str
    parts: Sequence[Text | Table | Drawing | Gallery]


Part = Text | Table | Drawing | Gallery | Folded


@dataclass(frozen=True)
class Section:
    """A heading with what belongs under it, in reading order; `folded` sections open on a click."""

    id: str
    title: str
    parts: Sequence[Part]
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        headline: the result in one sentence.
        lead: how it was measured, in a few sentences.
        warnings: what is missing or does not belong together.
        summary: what was done, how good it is, against what, how sure that is, and what comes next: word and sentence.
    """

    title: str
    headline: str
    lead: Sequence[str]
    sections: Sequence[Section]
    warnings: Sequence[str] = field(default=())
    summary: Sequence[tuple[str, str]] = field(default=())

    @property
    def drawings(self) -> list[Drawing]:
        """All figures, in reading order."""
        parts = [part for section in self.sections for part in section.parts]
        shown = [one for part in parts for one in (part.parts if isinstance(part, Folded) else (part,))]
        return [one for one in shown if isinstance(one, Drawing)]


def html(page: Page) -> str:
    """The page as one HTML document that needs nothing else: no network; its own script only sorts tables."""
    loader = PackageLoader("coadvise", "reports")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    kinds = {"text": Text, "table": Table, "gallery": Gallery, "folded": Folded}
    environment.tests.update({name: lambda part, kind=kind: isinstance(part, kind) for name, kind in kinds.items()})
    environment.filters["grid"] = _grid
    # Our own SVG is the only text that reaches the page unescaped; what it quotes was escaped when drawn.
    environment.filters["inline"] = lambda drawing: Markup(drawing.svg)
    environment.filters["commands"] = _with_commands
    return environment.get_template("report.html.j2").render(page=page)


@dataclass(frozen=True)
class _Shown:
    """A cell as the template needs it."""

    text: str
    look: str
    link: str
    number: Aligned | None
    small: str | None


def _grid(table: Table) -> tuple[list[_Shown], list[list[_Shown]]]:
    """Header and rows of a table with what is shown on second lines, numbers aligned at their points."""
    shown = [i for i in range(len(table.columns)) if i not in table.below]
    texts = [[str(cell) for cell in row] for row in table.rows]
    numbers = {i: aligned([row[i] for row in texts]) if table.alignment[i] == "r" else None for i in shown}
    small = lambda row, i: row[i + 1] if i + 1 in table.below else None
    head = [_Shown(table.columns[i], table.alignment[i], "", None, small(table.columns, i)) for i in shown]
    rows = []
    for y, (row, words) in enumerate(zip(table.rows, texts, strict=True)):
        cells = []
        for i in shown:
            look = " ".join(filter(None, [table.alignment[i], getattr(row[i], "kind", "")]))
            column, below = numbers[i], small(words, i)
            below = "" if below == ABSENT else below
            cells.append(_Shown(words[i], look, getattr(row[i], "link", ""), column[y] if column else None, below))
        rows.append(cells)
    return head, rows


def _with_commands(text: str) -> Markup:
    """Text for a page, what stands between two backticks shown as a command."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def markdown(page: Page) -> str:
    """The same report for terminals and git; figures are linked as `figures/NAME.png`."""
    blocks = [f"# {markdown_text(page.title)}", f"**{markdown_text(page.headline)}**"]
    if page.summary:
        blocks.append("\n".join(f"- **{name}**: {markdown_prose(said)}" for name, said in page.summary))
    blocks += [markdown_prose(" ".join(page.lead))] if page.lead else []
    if page.warnings:
        blocks.append("\n".join(["Missing or left out:", "", *(f"- {markdown_prose(w)}" for w in page.warnings)]))
    blocks += [markdown_sections(page.sections)] if page.sections else []
    return "\n\n".join(blocks) + "\n"


def markdown_sections(sections: Sequence[Section]) -> str:
    """Sections alone, without a new line at the end; figures are linked as `figures/NAME.png`."""
    blocks = []
    for section in sections:
        blocks += [f"## {markdown_text(section.title)}", *map(_markdown, section.parts)]
    return "\n\n".join(blocks)


def _markdown(part: Part) -> str:
    if isinstance(part, Table):
        return markdown_table(part)
    if isinstance(part, Gallery):
        lines = [f"- {markdown_text('; '.join([one.title, *one.lines]))}" for one in part.photographs]
        return "\n".join([markdown_text(part.caption), "", *lines])
    if isinstance(part, Drawing):
        return f"![{markdown_text(part.alt)}](figures/{part.name}.png)"
    if isinstance(part, Folded):
        return "\n\n".join(map(_markdown, part.parts))
    return _fenced(part.text) if part.kind == "code" else markdown_prose(part.text)


def _fenced(text: str) -> str:
    # A fence must be longer than any run of backticks inside.
    fence = "`" * max(3, 1 + max((len(run) for run in text.split("\n") if set(run) == {"`"}), default=0))
    return f"{fence}\n{text.rstrip()}\n{fence}"


def write_page(page: Page, folder: Path, *, with_markdown: bool = True) -> Path:
    """Write `report.html`, the figures as PNG, and `report.md`; each file appears whole or not at all.

    Returns:
        The path of `report.html`.
    """
    for drawing in page.drawings:
        write_atomic(folder / "figures" / f"{drawing.name}.png", drawing.png)
    if with_markdown:
        write_atomic(folder / "report.md", markdown(page))
    write_atomic(folder / "report.html", html(page))
    return folder / "report.html"
