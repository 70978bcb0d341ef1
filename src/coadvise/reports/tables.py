"""Tables that are made once and shown twice: in Markdown for terminals and git, in HTML for the report.

The formatters give every number the precision it has: a tenth of a per cent for accuracies, three decimals
for KL in nats. A value that is missing is an en dash, never a zero.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..significance import Summary

ABSENT = "–"


@dataclass(frozen=True)
class Cell:
    """A text with a meaning that the page may colour, `good`, `bad` or `open`, or the id of the section it leads to."""

    text: str
    kind: str = ""
    link: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Table:
    """Header, rows and alignment (one letter a column: l, r or c); the first column names the row.

    Attributes:
        below: columns that a page shows in small on a second line of the column before them.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    align: str = ""
    below: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        assert 0 not in self.below and not any(i - 1 in self.below for i in self.below), self.below
        assert all(len(row) == len(self.columns) for row in self.rows), (self.columns, self.rows)
        assert not self.align or len(self.align) == len(self.columns), (self.align, self.columns)

    @property
    def alignment(self) -> str:
        """One letter a column; by default the names left and all else right."""
        return self.align or "l" + "r" * (len(self.columns) - 1)


def markdown_text(text: object) -> str:
    """`text` on one line with the signs that Markdown or a table would act on made inert."""
    return _inert(" ".join(str(text).split()))


def markdown_prose(text: str) -> str:
    """The same, but what stands between two backticks stays a command, as it does in a page."""
    pieces = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(piece if i % 2 else _inert(piece) for i, piece in enumerate(pieces))


def _inert(line: str) -> str:
    return re.sub(r"([\\|`*\[\]])", r"\\\1", line).replace("<", "&lt;")


def markdown_table(table: Table) -> str:
    """A GitHub table, padded so that it reads in a terminal, under its caption."""
    rows = [[markdown_text(cell) for cell in row] for row in [table.columns, *table.rows]]
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(table.columns))]
    rule = {"l": ":{}-", "r": "-{}:", "c": ":{}:"}
    marks = [rule[a].format("-" * (w - 2)) for a, w in zip(table.alignment, widths, strict=True)]
    pad = {"l": str.ljust, "r": str.rjust, "c": str.center}
    lines = []
    for row in [rows[0], marks, *rows[1:]]:
        cells = [pad[a](c, w) for a, c, w in zip(table.alignment, row, widths, strict=True)]
        lines.append("| " + " | ".join(cells) + " |")
    caption = [f"*{markdown_text(table.caption)}*", ""] if table.caption else []
    return "\n".join([*caption, *lines])


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "✓": r"\checkmark{}", "±": r"$\pm$", "−": "$-$",
    "–": "--", "‖": r"$\Vert$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "×": r"$\times$", "λ": r"$\lambda$",
    "τ": r"$\tau$", "κ": r"$\kappa$",
}  # fmt: skip


def latex_text(text: object) -> str:
    """`text` with the signs that LaTeX would act on made inert; needs the packages amssymb and booktabs."""
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(str(text).split()))


def latex_table(table: Table) -> str:
    """The table for a paper: a `tabular` with booktabs' rules, under its caption."""
    head, *rows = [" & ".join(map(latex_text, row)) + r" \\" for row in [table.columns, *table.rows]]
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{latex_text(table.caption)}}}"]
    lines += [rf"\begin{{tabular}}{{{table.alignment}}}", r"\toprule", head, r"\midrule", *rows, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}", r"\end{table}", ""])


def number(value: float | None, decimals: int = 3) -> str:
    """A fixed number of decimals, with a real minus sign."""
    if value is None or not math.isfinite(value):
        return ABSENT if value is None else "not finite"
    text = f"{value:.{decimals}f}"
    # −0.0 says that there is a sign where there is none.
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def percent(share: float | None) -> str:
    """A share of 1 as per cent with one decimal, without the sign: `0.9472` → `94.7`."""
    return number(None if share is None else 100 * share, 1)


def points(difference: float | None) -> str:
    """A difference of shares in percentage points, always with its sign: `0.107` → `+10.7`."""
    text = percent(difference)
    return text if text[0] in "−–n" or text == "0.0" else f"+{text}"


def mean_sd(summary: Summary | None) -> str:
    """Mean ± sample standard deviation of shares, in per cent; the mean alone for a single run."""
    if summary is None:
        return ABSENT
    return percent(summary.mean) + (f" ± {percent(summary.sd)}" if summary.sd is not None else "")


def p_value(p: float | None) -> str:
    """Three decimals, or `< 0.001`; four where three would not tell which side of 0.05 it is on."""
    if p is None:
        return ABSENT
    return "< 0.001" if p < 0.001 else f"{p:.4f}" if f"{p:.3f}" == "0.050" else f"{p:.3f}"


def count(value: float | None) -> str:
    """A whole number with thousands separated."""
    return ABSENT if value is None else f"{value:,.0f}"


def parameters(value: float | None) -> str:
    """Number of parameters in millions (three significant digits) or thousands."""
    if value is None:
        return ABSENT
    return f"{value / 1e6:.3g} M" if value >= 999_500 else f"{value / 1e3:.3g} k"


def shown(value: float, unit: str, signed: bool = False) -> str:
    """A number with the precision of its unit (see `paper.declared.Column`); with its sign, also the unit's name."""
    value *= {"%": 100.0, "M": 1e-6}.get(unit, 1.0)
    if unit in ("%", "nat"):
        text = number(value, 1 if unit == "%" else 3)
    elif unit == "images/s":
        text = f"{value:,.0f}"
    else:
        text = f"{value:.3g}".replace("-", "−")
    if not signed:
        return text
    return (f"+{text}" if value > 0 and text.strip("0.") else text) + {"%": ""}.get(unit, f" {unit}")


def title_of(name: str) -> str:
    """Name of an experiment as a title: `Table 4` for `table4`."""
    return re.sub(r"(?=\d)", " ", name, count=1).capitalize()


def duration(seconds: float | None) -> str:
    """Seconds in words: `8.4 s`, `2 min 05 s`, `3 h 20 min`."""
    if seconds is None:
        return ABSENT
    if seconds < 59.5:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def with_interval(share: float | None, interval: tuple[float, float]) -> str:
    """A share in per cent with the ends of its interval."""
    return ABSENT if share is None else f"{percent(share)} [{percent(interval[0])}, {percent(interval[1])}]"
