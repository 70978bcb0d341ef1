"""Similarity of each token to each teacher (Table 5): mean divergences over runs, as heat maps and as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from ..run.result import Direction, tokens_of
from ..significance import Summary, summarise
from .page import Folded, Part, Section, Text
from .plots.similarity import KlMap, kl_maps
from .plots.style import draw
from .tables import ABSENT, Table, number


@dataclass(frozen=True)
class Outputs:
    """Names of a run's teachers, and its metrics on the validation set by name."""

    teachers: Sequence[str]
    metrics: Mapping[str, float]

    @property
    def tokens(self) -> list[str]:
        """Names of the outputs: `class` first, `average` of all heads last."""
        return tokens_of(self.metrics)

    @property
    def directions_named(self) -> bool:
        """Whether the metrics tell KL(teacher ‖ token) and KL(token ‖ teacher) apart by name."""
        return any(key.startswith("kl_reverse/") for key in self.metrics)

    def kl(self, teacher: str, token: str, direction: Direction) -> float | None:
        """KL divergence in nats; None where it is absent, not finite, or cannot be told apart.

        `kl/TEACHER|TOKEN` and `kl_reverse/TEACHER|TOKEN` say what they are. Early results write the reverse as
        `kl/TOKEN|TEACHER`, and with tokens named after teachers `kl/conv|inv` has two meanings.
        """
        forward = direction == "teacher‖token"
        if self.directions_named:
            key = f"{'kl' if forward else 'kl_reverse'}/{teacher}|{token}"
        elif teacher in self.tokens and token in self.teachers:
            return None
        else:
            key = f"kl/{teacher}|{token}" if forward else f"kl/{token}|{teacher}"
        value = self.metrics.get(key)
        return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class Divergence:
    """Mean KL in nats of one arm (or run) in one direction; rows are tokens, columns teachers."""

    label: str
    direction: Direction
    tokens: Sequence[str]
    teachers: Sequence[str]
    cells: Sequence[Sequence[Summary | None]]

    def nearest(self, teacher: int) -> str | None:
        """The token with the smallest mean KL to the teacher in that column; None unless all are known."""
        means = [(row[teacher], token) for token, row in zip(self.tokens, self.cells, strict=True)]
        known = [(cell.mean, token) for cell, token in means if cell is not None]
        return min(known)[1] if len(known) == len(means) else None


def divergence(label: str, runs: Sequence[Outputs], direction: Direction) -> Divergence | None:
    """Mean KL between the outputs and the teachers of `runs`; None where nothing was measured."""
    teachers = list(dict.fromkeys(name for run in runs for name in run.teachers))
    tokens = [t for t in dict.fromkeys(t for run in runs for t in run.tokens) if t != "average"]
    cells = []
    for token in tokens:
        values = [[v for run in runs if (v := run.kl(name, token, direction)) is not None] for name in teachers]
        cells.append([summarise(column) if column else None for column in values])
    if not any(cell for row in cells for cell in row):
        return None
    return Divergence(label, direction, tokens, teachers, cells)


def divergences_table(tables: Sequence[Divergence], label: dict[str, str], first: str) -> Table:
    """Both directions side by side, one row for each teacher and token."""
    backward = {table.label: table for table in tables if table.direction == "token‖teacher"}

    def cell(table: Divergence | None, row: int, column: int) -> str:
        value = table.cells[row][column] if table else None
        if value is None:
            return ABSENT
        return number(value.mean) + (f" ± {number(value.sd)}" if value.sd is not None else "")

    rows = [
        [f"{table.label}", label.get(teacher, teacher), token, cell(table, i, j), cell(backward.get(table.label), i, j)]
        for table in tables
        if table.direction == "teacher‖token"
        for j, teacher in enumerate(table.teachers)
        for i, token in enumerate(table.tokens)
    ]
    columns = [first, "Teacher", "Token", "KL(teacher ‖ token), nats", "KL(token ‖ teacher), nats"]
    spread = any(cell and cell.n > 1 for table in tables for row in table.cells for cell in row)
    over = "; mean ± sample standard deviation over seeds" if spread else ""
    return Table(f"Smaller is more similar{over}", columns, rows, "lllrr")


def nearest_sentences(tables: Sequence[Divergence], titles: dict[str, str]) -> list[str]:
    """Which token is nearest to which teacher, and whether it is the teacher's own (as in Table 5).

    One sentence for each arm where both directions agree, else one for each direction.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for table in tables:
        parts = []
        for j, teacher in enumerate(table.teachers):
            token = table.nearest(j)
            if token is not None and len(table.tokens) > 1:
                title = titles.get(teacher, teacher)
                own = ", its own teacher" if token == teacher else ""
                if token != teacher and teacher in table.tokens:
                    own = f", whose own token is {teacher}"
                parts.append(f"the {token} token is nearest to {title}{own}")
        if parts:
            found.setdefault((table.label, "; ".join(parts)), []).append(table.direction.replace("‖", " ‖ "))
    return [
        f"{label}: {text}; {'in both directions' if len(ways) > 1 else f'by KL({ways[0]})'}."
        for (label, text), ways in found.items()
    ]


_WHAT = (
    "KL divergence between the class probabilities of a token and of a teacher on the validation set, in nats, at "
    "temperature 1, in both directions."
)
_FRAME = "A frame marks the token that is nearest to the teacher, by its mean; no test was made."
_UNTOLD = (
    "Some results do not name the direction, so KL between an advised token and a teacher cannot be told apart from "
    "its reverse there and is left out; evaluate the runs again."
)


def similarity_section(
    name: str, groups: Sequence[tuple[str, Sequence[Outputs]]], label: dict[str, str], first: str
) -> Section | None:
    """KL of each token to each teacher (Table 5 of the paper, which leaves the direction open).

    Args:
        name: of the section and its figure.
        groups: what runs have in common → these runs.
        label: titles of teachers, by their names.
        first: title of the column that names the groups.
    """
    every = (divergence(title, runs, direction) for title, runs in groups for direction in get_args(Direction))
    found = [table for table in every if table is not None]
    if not found:
        return None
    maps = [
        KlMap(
            f"{table.label}: KL({table.direction.replace('‖', ' ‖ ')})",
            table.tokens,
            [label.get(teacher, teacher) for teacher in table.teachers],
            [[cell.mean if cell else None for cell in row] for row in table.cells],
        )
        for table in found
    ]
    nearest = nearest_sentences(found, label)
    alt = "Heat maps of the KL divergence between tokens and teachers. " + " ".join(nearest)
    parts: list[Part] = [Text(_WHAT, "note"), draw(name, alt, lambda: kl_maps(maps))]
    parts += [Text(_FRAME, "note")] if nearest else []
    parts += [Text(sentence) for sentence in nearest]
    parts.append(Folded("The same in numbers", [divergences_table(found, label, first)]))
    if any(not run.directions_named for _, runs in groups for run in runs if run.teachers):
        parts.append(Text(_UNTOLD, "warning"))
    return Section(name, "How near each token is to each teacher", parts)
