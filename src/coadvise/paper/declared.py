"""The form in which a table or figure of the paper is declared: rows, columns, the paper's numbers, its claims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..names import TOP1
from .arms import Arm


@dataclass(frozen=True)
class Value:
    """A measured number of an arm's run, by the dotted path of `measured` in its result file.

    Attributes:
        metric: such as `accuracy/class` or `corruptions/class`; see `measure.run_metrics`.
        seed: of one fixed run; None takes every seed.
    """

    arm: Arm
    metric: str = TOP1
    seed: int | None = None


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        key: by which rows name its values.
        unit: `%` for shares (shown times 100), `nat`, `M` for millions, or a word.
    """

    key: str
    title: str
    unit: str = "%"


@dataclass(frozen=True)
class Row:
    """A row of a table: what it is called, the paper's numbers, ours.

    Attributes:
        labels: one text for each of the table's heading columns.
        paper: column key → the paper's number, in the column's unit; what the paper leaves out is absent.
        ours: column key → where our number comes from; absent where nothing is measured.
    """

    labels: tuple[str, ...]
    paper: Mapping[str, float] = field(default_factory=dict)
    ours: Mapping[str, Value] = field(default_factory=dict)


BEST = {"throughput": max, "training_ms": min}
"""Speeds, of which the best run counts: other work on the machine can only make the others worse."""

MARGIN = 0.015
"""Of top-1: what the paper calls similar differs by up to 1.3 points (Table 4, Mixer-Ti and Transformer-Ti)."""
SIMILAR = 0.02
"""Largest difference in top-1 at which two networks count as equally good. The paper's pairs in Table 1 differ by 0.4
and 0.1 points; small validation sets need more room."""


@dataclass(frozen=True)
class Condition:
    """What must be so of two models for a claim to mean anything.

    Attributes:
        kind: `similar` in top-1 (to `SIMILAR`); the first `better` than the second by more than `by`; both seeing the
            same `images`, in size.
        text: the same in words, shown beside the verdict where it is not so.
    """

    kind: Literal["similar", "better", "images"]
    first: Value
    second: Value
    text: str
    by: float = 0.0


@dataclass(frozen=True)
class Claim:
    """A statement of the paper as a number that must be above zero: the sum of `plus` less the sum of `minus`.

    Attributes:
        text: the claim in one sentence.
        place: where the paper makes it.
        unit: as in `Column`.
        conditions: without which it means nothing.
        within: if given, the claim is that the number is near zero, by less than this either way.
        below: if given, the claim is that the number is less than this.
        either: the claim is that the number is not zero, be it above or below.
    """

    text: str
    place: str
    plus: tuple[Value, ...]
    minus: tuple[Value, ...]
    unit: str = "%"
    conditions: tuple[Condition, ...] = ()
    within: float | None = None
    below: float | None = None
    either: bool = False

    @property
    def values(self) -> tuple[Value, ...]:
        """Everything that it needs."""
        return (*self.plus, *self.minus)

    @property
    def margin(self) -> float | None:
        """Which the number must not reach."""
        return self.within if self.below is None else self.below

    @property
    def compared(self) -> bool:
        """Whether it is about sizes and speeds, which are compared and not tested."""
        return all(value.metric == "parameters" or value.metric in BEST for value in self.values)


@dataclass(frozen=True)
class Experiment:
    """A table or figure of the paper.

    Attributes:
        name: `table4` or `figure4`.
        heads: titles of the columns that name a row.
        data: the data set it was made on in the paper; empty for what the paper does not have.
        notes: what the paper leaves open or says in two ways, and how it is read here.
    """

    name: str
    title: str
    data: str
    heads: Sequence[str]
    columns: Sequence[Column]
    rows: Sequence[Row]
    claims: Sequence[Claim] = ()
    notes: Sequence[str] = ()

    @property
    def of_paper(self) -> bool:
        """Whether the paper has it."""
        return bool(self.data)

    def values(self) -> Iterator[Value]:
        """Every number of ours that it shows or tests."""
        for row in self.rows:
            yield from row.ours.values()
        for claim in self.claims:
            yield from claim.values

    def arms(self) -> list[Arm]:
        """Every arm it needs, each once; advisers are found through them."""
        return list(dict.fromkeys(value.arm for value in self.values()))
