"""The form in which a table or figure is declared: rows, columns, the paper's numbers, its claims, its figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..names import TOP1
from .arms import Arm, Teacher


@dataclass(frozen=True)
class Value:
    """A measured number of an arm's runs: of one seed or of all; `reproduce.measure` lists the metrics."""

    arm: Arm
    metric: str = TOP1
    seed: int | None = None

    def as_json(self) -> dict[str, str | int | None]:
        """Arm by its id, metric and seed."""
        return {"arm": self.arm.id, "metric": self.metric, "seed": self.seed}


@dataclass(frozen=True)
class Column:
    """A column of numbers; `unit` is `%` for shares (shown times 100), `nat`, `M` for millions, or a word."""

    key: str
    title: str
    unit: str = "%"


@dataclass(frozen=True)
class Row:
    """A row of a table: a text for each heading column, and by column key the paper's number in the column's unit and
    where ours comes from. What the paper leaves out is absent, and so is what is not measured.
    """

    labels: tuple[str, ...]
    paper: Mapping[str, float] = field(default_factory=dict)
    ours: Mapping[str, Value] = field(default_factory=dict)


BEST = {"throughput": max, "training_ms": min}
"""Speeds, of which the best run counts: other work on the machine can only make the others worse."""

MARGIN = 0.015
"""Difference in top-1 below which two models count as about equal: what the paper calls similar differs by up to 1.3
points (Table 4, Mixer-Ti and Transformer-Ti)."""
SIMILAR = 0.02
"""Largest difference in top-1 at which two networks count as equally good. The paper's pairs in Table 1 differ by 0.4
and 0.1 points; small validation sets need more room."""


@dataclass(frozen=True)
class Condition:
    """What two models must fulfil for a claim to mean anything.

    Attributes:
        kind: `similar`: their top-1 differs by `SIMILAR` at most; `better`: the first is better than the second by more
            than `by`; `images`: both see images of the same size.
        text: the same in words, shown beside the verdict where it is not fulfilled.
    """

    kind: Literal["similar", "better", "images"]
    first: Value
    second: Value
    text: str
    by: float = 0.0


@dataclass(frozen=True)
class Near:
    """The claim says that its number differs from zero by less than `margin`."""

    margin: float


@dataclass(frozen=True)
class Below:
    """The claim says that its number is less than `margin`."""

    margin: float


Statement = Literal["above", "differs"] | Near | Below
"""What a claim says of its number: that it is above zero, is not zero, or keeps to a margin."""


@dataclass(frozen=True)
class Claim:
    """A statement of the paper about one number: the sum of `plus` less `times` the sum of `minus`.

    Attributes:
        text: the claim in one sentence.
        place: where the paper makes it.
        conditions: without which the claim means nothing.
        times: of a claim about a ratio: that the first is more than so many times the second.
    """

    text: str
    place: str
    plus: tuple[Value, ...]
    minus: tuple[Value, ...]
    says: Statement = "above"
    unit: str = "%"
    conditions: tuple[Condition, ...] = ()
    times: float = 1.0

    @property
    def values(self) -> tuple[Value, ...]:
        """Every measured number that the claim needs."""
        return (*self.plus, *self.minus)

    @property
    def margin(self) -> float | None:
        """The limit that the number must not reach, if the claim has one."""
        return self.says.margin if isinstance(self.says, Near | Below) else None

    @property
    def compared(self) -> bool:
        """Whether the claim is about sizes and speeds, which are compared and not tested."""
        return self.counted or all(value.metric in BEST for value in self.values)

    @property
    def counted(self) -> bool:
        """Whether the claim is about sizes, which follow from the architectures that the paper names."""
        return all(value.metric == "parameters" for value in self.values)


@dataclass(frozen=True)
class Contrast:
    """A question about two ways of teaching, written down with its test and its size before any of its runs was made.

    Attributes:
        text: what is claimed: that the first is better.
        pairs: the two numbers for each set of teachers, the first better if the claim is true.
        seeds: students of each arm; there is no verdict before all sets have as many.
        margin: difference below which the two count as equal.
        primary: the one question of the experiment; several such contrasts are parts of one claim, which holds if all
            of them do (an intersection-union test: no correction, no choice of the comparison by its result).
    """

    text: str
    pairs: tuple[tuple[Value, Value], ...]
    seeds: int
    margin: float = 0.003
    primary: bool = False
    unit: str = "%"

    @property
    def values(self) -> tuple[Value, ...]:
        """Every measured number that it needs."""
        return tuple(value for pair in self.pairs for value in pair)

    @property
    def correlation(self) -> float:
        """By how much two sets correlate because teachers teach in both, were a student's number the mean of what each
        of its teachers does: 0 for both kinds against one, where each run is left in one set only.
        """
        effects = []
        for pair in self.pairs:
            effect: dict[Teacher, float] = {}
            for sign, value in zip((1, -1), pair, strict=True):
                for teacher in value.arm.teachers:
                    effect[teacher] = effect.get(teacher, 0.0) + sign / len(value.arm.teachers)
            effects.append(effect)
        products = [
            [sum(size * other.get(teacher, 0.0) for teacher, size in one.items()) for other in effects]
            for one in effects
        ]
        own = sum(row[i] for i, row in enumerate(products))
        shared = sum(map(sum, products)) - own
        return shared / (len(effects) - 1) / own if own and len(effects) > 1 else 0.0


@dataclass(frozen=True)
class Dots:
    """A figure of top-1: every run, the mean of an arm and its interval.

    Attributes:
        values: label in the figure → its number. The first arm is the one that others are compared with.
        title: of a section of its own before the tables, in which the arms are shown in detail: every seed, learning
            curves, their teachers and how similar each token is to each teacher. Empty: a figure beside the table.
        teachers: whether the figure shows the top-1 of the teachers, too.
        families: first words of labels; those of one family look the same. Empty: each label has its own look.
    """

    values: Mapping[str, Value]
    title: str = ""
    teachers: bool = False
    families: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gains:
    """A figure of the differences between column `of` and others, row by row; `over`: name of a difference → column."""

    of: str
    over: Mapping[str, str]


@dataclass(frozen=True)
class AgainstTeachers:
    """A figure of a student's top-1 against its teacher's (Figure 4): columns `teacher` and `student`.

    Attributes:
        panels: first label of a row → title of its panel.
        families: first words of the teachers' titles; each family looks the same in every panel.
        sizes: the panel whose families have a point for each size; in others a point is a part of the epochs.
        baseline: the student without a teacher.
    """

    panels: Mapping[str, str]
    families: tuple[str, ...]
    sizes: str
    baseline: Value


@dataclass(frozen=True)
class Help:
    """How much teachers help a student: the same student without and with them, by top-1."""

    student: str
    without: Value
    taught: Value


Figure = Dots | Gains | AgainstTeachers | Literal["sizes", "single images"]
"""`sizes`: top-1 against parameters, the paper's and ours (Figure 1), of columns `parameters` and `top1`.
`single images`: class probabilities of several models on single images (Figure 2)."""
Need = Literal["single images", "recurring views"]
"""What an experiment needs beside its runs: models compared on single images; views of an image that recur."""


@dataclass(frozen=True)
class Experiment:
    """A table or figure of the paper, or an experiment beyond it.

    Attributes:
        heads: titles of the columns that name a row.
        data: the data set that the paper used; empty for what the paper does not have.
        notes: what the paper leaves open or says in two ways, and how it is read here.
        main: the claim that the headline of a report on this experiment alone is about.
        help: students of different kinds, compared by how much the same teachers help each.
        contrasts: questions over several sets of teachers.
    """

    name: str
    title: str
    data: str
    heads: Sequence[str]
    columns: Sequence[Column]
    rows: Sequence[Row]
    claims: Sequence[Claim] = ()
    notes: Sequence[str] = ()
    figure: Figure | None = None
    needs: tuple[Need, ...] = ()
    main: Claim | None = None
    help: Sequence[Help] = ()
    contrasts: Sequence[Contrast] = ()

    @property
    def of_paper(self) -> bool:
        """Whether the paper has it."""
        return bool(self.data)

    def values(self) -> Iterator[Value]:
        """Every number of ours that it shows or tests, or on which it depends whether a test means anything."""
        for row in self.rows:
            yield from row.ours.values()
        for claim in self.claims:
            yield from claim.values
            for condition in claim.conditions:
                yield from (condition.first, condition.second)
        for contrast in self.contrasts:
            yield from contrast.values
        if isinstance(self.figure, Dots):
            yield from self.figure.values.values()
        elif isinstance(self.figure, AgainstTeachers):
            yield self.figure.baseline

    def arms(self) -> list[Arm]:
        """Every arm it needs, each once; their teachers are found through them."""
        return list(dict.fromkeys(value.arm for value in self.values()))
