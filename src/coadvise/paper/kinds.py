"""The pre-registered experiment: does a second kind of teacher pay? `docs/experiment.md` holds the plan."""

from __future__ import annotations

from collections.abc import Callable

from ..names import AVERAGE
from .ablations import CONV, INV, LABELS_ONLY
from .arms import Arm, Teacher, arm
from .declared import Column, Contrast, Dots, Experiment, Help, Row, Value

SETS, SEEDS = 3, 6
"""Runs of each teacher, and students of each arm: n = 18 of each way of teaching."""


def _pair(first: str, second: str, number: int) -> Arm:
    """Two teachers; of one kind, two runs of it. Over all sets each run is used equally often."""
    other = number if first != second else (number + 1) % SETS
    return arm("transformer_tiny", Teacher(first, seed=number), Teacher(second, seed=other))


BOTH_KINDS = tuple(_pair(CONV, INV, number) for number in range(SETS))
TWO_CONV = tuple(_pair(CONV, CONV, number) for number in range(SETS))
TWO_INV = tuple(_pair(INV, INV, number) for number in range(SETS))
WAYS = {"both kinds": BOTH_KINDS, "two convolution": TWO_CONV, "two involution": TWO_INV}

COLUMNS = (
    Column("top1", "Top-1 (%)"),
    Column("average", "All heads (%)"),
    Column("nll", "NLL (nat)", "nat"),
    Column("ece", "ECE (%)"),
    Column("c", "Mean corruption error (%)"),
)
_METRICS = {"top1": "accuracy/class", "nll": "loss/class", "ece": "ece/class", "c": "corruptions/class"}


def _outcomes(one: Arm) -> dict[str, Value]:
    metrics = _METRICS if not one.teachers else {**_METRICS, "average": AVERAGE}
    return {key: Value(one, metric) for key, metric in metrics.items()}


def _against(
    text: str, better: tuple[Arm, ...], worse: tuple[Arm, ...], of: Callable[[Arm], Value] = Value, *,
    less: bool = False, primary: bool = False, unit: str = "%", margin: float = 0.003,
) -> Contrast:  # fmt: skip
    """The claim that one way of teaching is better; `less`: by a number that is smaller."""
    pairs = tuple((of(a), of(b)) for a, b in zip(better, worse, strict=True))
    if less:
        pairs = tuple((b, a) for a, b in pairs)
    return Contrast(text, pairs, SEEDS, margin, primary, unit)


def _secondary() -> list[Contrast]:
    labels = (LABELS_ONLY,) * SETS
    found = []
    for what, others in (("two convolution teachers", TWO_CONV), ("two involution teachers", TWO_INV)):
        found += [
            _against(f"{what.capitalize()} are better than labels alone", others, labels),
            _against(
                f"By all heads, both kinds are better than {what}", BOTH_KINDS, others, lambda a: Value(a, AVERAGE)
            ),
            _against(
                f"Both kinds have a lower NLL than {what}", BOTH_KINDS, others, lambda a: Value(a, "loss/class"),
                less=True, unit="nat", margin=0.01,
            ),
            _against(
                f"Both kinds have a lower calibration error than {what}", BOTH_KINDS, others,
                lambda a: Value(a, "ece/class"), less=True,
            ),
            _against(
                f"Both kinds stand corruptions better than {what}", BOTH_KINDS, others,
                lambda a: Value(a, "corruptions/class"), less=True,
            ),
        ]  # fmt: skip
    return found


KINDS_EXPERIMENT = Experiment(
    "kinds",
    "Does a second kind of teacher pay?",
    "",
    ("Transformer-Ti, taught by", "Teachers' runs"),
    COLUMNS,
    [
        Row(("labels alone", ""), {}, _outcomes(LABELS_ONLY)),
        *(
            Row((way, " + ".join(f"{t.model} {t.seed}" for t in one.teachers)), {}, _outcomes(one))
            for number in range(SETS)
            for way, one in ((way, arms[number]) for way, arms in WAYS.items())
        ),
    ],
    notes=(
        "The question, its test, the number of runs and the settings were written down before any run of it was made: "
        "docs/experiment.md.",
        f"{SETS} runs of each teacher and {SEEDS} students of each arm: the differences are a table of {SETS} sets of "
        f"teachers by {SEEDS} seeds, and the test is that of its mean with sets and seeds as random effects.",
    ),
    figure=Dots(
        {f"{way}, {n + 1}": Value(arms[n]) for way, arms in WAYS.items() for n in range(SETS)}, families=tuple(WAYS)
    ),
    help=[
        Help(f"taught by {way}, {n + 1}", Value(LABELS_ONLY), Value(arms[n]))
        for n in range(SETS)
        for way, arms in WAYS.items()
    ],
    contrasts=[
        _against("Both kinds are better than two convolution teachers", BOTH_KINDS, TWO_CONV, primary=True),
        _against("Both kinds are better than two involution teachers", BOTH_KINDS, TWO_INV, primary=True),
        *_secondary(),
    ],
)
