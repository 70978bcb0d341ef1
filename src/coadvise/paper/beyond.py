"""Experiments beyond the paper: what the gain from a second kind depends on, the seven arms under changes, controls of
the advice, other losses, the demo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..names import AVERAGE
from .ablations import (
    ABLATIONS,
    CONV,
    CROSS,
    INV,
    LABELS_ONLY,
    ONE_CONV,
    ONE_INV,
    SAME_TWICE,
    SEVEN_ARMS,
    SEVEN_TITLES,
    SINGLE,
    above,
)
from .arms import Arm, Teacher, arm
from .declared import Claim, Column, Dots, Experiment, Gains, Need, Row, Value
from .kinds import KINDS_EXPERIMENT

CHANGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("nothing", {}),
    ("twice the epochs", {"part": 2.0}),
    ("views that never recur", {"live": True}),
    ("λ × 0.1", {"weight": 0.1}),
    ("λ × 3", {"weight": 3.0}),
    ("λ × 10", {"weight": 10.0}),
    ("τ = 2", {"temperature": 2.0}),
    ("images not mixed", {"mixing": False}),
    ("tokens' learning rate × 10", {"token_lr": 10.0}),
    ("spread of advised tokens × 15", {"token_std": 15.0}),
)
"""Changes of the students' training, one setting at a time."""

SWEPT = (
    ("none", "Labels only (%)", LABELS_ONLY),
    ("one", "One teacher (%)", ONE_CONV),
    ("both", "Both kinds (%)", CROSS),
    ("single", "Both, one token (%)", SINGLE),
)
PLACE = "beyond the paper"


def _changed(arm: Arm, changes: dict[str, Any]) -> Arm:
    """An arm under a change, without settings that do not apply to it: of advice without teachers, of advised tokens
    with a single token."""
    unknown = (
        ("token_std",) if arm.tokens == "single" else () if arm.teachers else ("weight", "temperature", "token_std")
    )
    return replace(arm, **{key: value for key, value in changes.items() if key not in unknown})


def _early(arm: Arm) -> Arm:
    """An arm with teachers of half the epochs."""
    return replace(arm, teachers=tuple(replace(one, part=0.5) for one in arm.teachers))


def _sweep() -> Experiment:
    arms = {key: arm for key, _, arm in SWEPT}
    rows = [(title, {key: _changed(arm, changes) for key, arm in arms.items()}) for title, changes in CHANGES]
    rows.append(("teachers of half the epochs", {key: _early(arm) for key, arm in arms.items()}))
    claims = []
    for title, row in rows[1:]:  # what nothing changes is tested in Tables 6 and 7
        claims += [
            above(f"{title}: both kinds are better than one teacher", PLACE, row["both"], row["one"]),
            above(f"{title}: three tokens are better than one", PLACE, row["both"], row["single"]),
        ]
        if row["one"].live:
            claims.append(above(f"{title}: one teacher is better than none", PLACE, row["one"], row["none"]))
    return Experiment(
        "sweep",
        "On what the gain from a second kind depends",
        "",
        ("Change",),
        tuple(Column(key, title) for key, title, _ in SWEPT),
        [Row((title,), {}, {key: Value(arm) for key, arm in row.items()}) for title, row in rows],
        claims,
        (
            f"One teacher is {CONV}, the other kind {INV}; all changes are of the students' training but the last.",
            "Labels alone are the same runs where a change is of advice, teachers or advised tokens; one token, "
            "where it is of advised tokens.",
            "Views that never recur: the scale stores the teachers' advice on a few views of each image, and all "
            "students see these in turn, those that learn from labels alone as well. In this row every epoch has "
            "views of its own, and the teachers are asked about them.",
            "In the figure: one seed small, their mean large.",
        ),
        Gains("both", {"over one teacher": "one", "over a single token for both": "single"}),
    )


HEAD_COLUMNS = (
    Column("top1", "Class token (%)"),
    Column("first", "First advised token (%)"),
    Column("second", "Second advised token (%)"),
    Column("average", "All heads (%)"),
)


def heads_of(arm: Arm) -> dict[str, Value]:
    """Top-1 of each head and of the mean of all heads' logits, by the keys of `HEAD_COLUMNS`."""
    ours = {"top1": Value(arm)}
    if arm.teachers and arm.tokens != "single":
        names = [f"accuracy/{name}" for name in arm.advisers]
        ours |= {key: Value(arm, name) for key, name in zip(("first", "second"), names, strict=False)}
        ours["average"] = Value(arm, AVERAGE)
    return ours


def _claims_of(of: Callable[[Arm], Value]) -> list[Claim]:
    """The claims of Tables 6 and 7 about the seven arms, with other values of these arms."""
    return [
        replace(claim, plus=tuple(of(one.arm) for one in claim.plus), minus=tuple(of(one.arm) for one in claim.minus))
        for table in ABLATIONS
        if table.name in ("table6", "table7")
        for claim in table.claims
        if {value.arm for value in claim.values} <= set(SEVEN_ARMS)
    ]


def _seven(name: str, title: str, note: str, needs: tuple[Need, ...] = (), **changes: Any) -> Experiment:
    """The seven arms under a change of the students' training, and the claims of Tables 6 and 7 about them."""
    changed = {arm: replace(arm, **changes) for arm in SEVEN_ARMS}
    shown = dict(zip(SEVEN_TITLES, changed.values(), strict=True))
    return Experiment(
        name,
        title,
        "",
        ("Transformer-Ti, taught by",),
        HEAD_COLUMNS,
        [Row((title,), {}, heads_of(arm)) for title, arm in shown.items()],
        _claims_of(lambda arm: Value(changed[arm])),
        (note, "In the figure: one run small, their mean large; bar: 95 % t-interval of the mean (needs two runs)."),
        Dots({title: Value(arm) for title, arm in shown.items()}),
        needs,
    )


def _heads() -> Experiment:
    """The seven arms when all heads answer, and the claims of Tables 6 and 7 about them."""
    shown = dict(zip(SEVEN_TITLES, map(heads_of, SEVEN_ARMS), strict=True))
    answered = _claims_of(lambda arm: heads_of(arm).get("average", Value(arm)))
    return Experiment(
        "heads",
        "The seven arms by the head that answers",
        "",
        ("Transformer-Ti, taught by",),
        HEAD_COLUMNS,
        [Row((title,), {}, ours) for title, ours in shown.items()],
        [
            above("All heads of both kinds answer better than the class token", PLACE, Value(CROSS, AVERAGE), CROSS),
            *(claim for claim in answered if AVERAGE in [value.metric for value in claim.values]),
        ],
        (
            "The paper answers with the class token (§4.1); the code that its authors published takes the mean of all "
            "heads. So the claims of Tables 6 and 7 are tested here with all heads, where a student has several. It is "
            "a second look at the same runs; p is corrected over the claims of this table.",
            "Advised tokens are in the order of the row's teachers. A student of two teachers has more heads to "
            "average than one of one teacher, or with one token: a part of what it gains may be the averaging.",
            "In the figure: by all heads, or the only one; one run small, their mean large; bar: 95 % t-interval of "
            "the mean (needs two runs).",
        ),
        Dots({title: ours.get("average", ours["top1"]) for title, ours in shown.items()}),
    )


SWEEP, HEADS = _sweep(), _heads()
LONGER = _seven(
    "longer",
    "The seven arms with twice the epochs",
    "Students train twice as long as in Tables 6 and 7, on the advice of the same teachers.",
    part=2.0,
)
FRESH = _seven(
    "fresh",
    "The seven arms with views that never recur",
    "In Tables 6 and 7 students see a few views of each image in turn, on which the advice of the same teachers is "
    "stored. Here each epoch has views of its own, and the teachers are asked about them.",
    needs=("recurring views",),
    live=True,
)
IN_CLASS, SHUFFLED, SMOOTHED, MEAN_OF_BOTH = (
    replace(CROSS, change=change) for change in ("shuffled-in-class", "shuffled", "smoothed", "mean")
)
UNTRAINED = arm("transformer_tiny", Teacher(CONV, trained=False), Teacher(INV, trained=False))
SELF_TAUGHT = arm("transformer_tiny", "transformer_tiny")


def _controls() -> Experiment:
    """What of the teachers' advice helps: both kinds beside students from whom a part of it is kept."""
    unmixed, unmixed_in_class = (replace(one, mixing=False) for one in (CROSS, IN_CLASS))
    shown = {
        "no teacher": LABELS_ONLY,
        "one convolution teacher": ONE_CONV,
        "both kinds": CROSS,
        "both kinds, shuffled in class": IN_CLASS,
        "both kinds, shuffled over all images": SHUFFLED,
        "both kinds, never trained": UNTRAINED,
        "labels as unsure as both kinds": SMOOTHED,
        "the mean of both kinds, on one token": MEAN_OF_BOTH,
        "the student's own kind (self-teacher)": SELF_TAUGHT,
        "images not mixed: both kinds": unmixed,
        "images not mixed: both kinds, shuffled in class": unmixed_in_class,
    }
    claims = (
        ("their advice on other images of the class", CROSS, IN_CLASS),
        ("their advice on any other images", CROSS, SHUFFLED),
        ("teachers of both kinds that were never trained", CROSS, UNTRAINED),
        ("label smoothing of the same entropy", CROSS, SMOOTHED),
        ("the mean of both on one token", CROSS, MEAN_OF_BOTH),
        ("a self-teacher", CROSS, SELF_TAUGHT),
        ("their advice on other images of the class, without mixing", unmixed, unmixed_in_class),
    )
    return Experiment(
        "controls",
        "What of the teachers' advice helps",
        "",
        ("Transformer-Ti, taught by",),
        HEAD_COLUMNS,
        [Row((title,), {}, heads_of(one)) for title, one in shown.items()],
        [above(f"Both kinds are better than {title}", PLACE, better, worse) for title, better, worse in claims],
        (
            "Shuffled: an image takes both teachers' advice on another image of its batch. In class: on one whose "
            "largest share is of the same class, so that what the advice says of the class is left, and what it says "
            "of the image is not. Of mixed images it says nothing right of the smaller share either, so the comparison "
            "is made without mixing, too.",
            "Labels as unsure: each of the two tokens learns the labels, smoothed until their mean entropy is that of "
            "its teacher in each batch. Never trained: the random weights that training a teacher begins with; they "
            "may say nearly the same of every image.",
            "The mean: of both teachers' probabilities; its token weighs as much as the two of both kinds together. "
            "The self-teacher is the student with no teacher, of seed 0; it has one advised token.",
            "In the figure: one run small, their mean large; bar: 95 % t-interval of the mean (needs two runs).",
        ),
        Dots({title: Value(one) for title, one in shown.items()}),
    )


LOSSES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("KL (Eq. 1)", {}),
    ("KL of z-scores, τ = 2", {"advice": "standardised", "temperature": 2.0}),
    ("correlation in and between images", {"advice": "dist"}),
    ("target class and others apart", {"advice": "decoupled"}),
    ("KL where the teacher is right", {"gate": "right"}),
    ("KL of the harder teacher", {"gate": "harder"}),
    ("KL of each teacher on half of the images", {"gate": "random"}),
)
"""What students learn from teachers by: forms of advice, and images on which it counts."""


def _losses() -> Experiment:
    """Whether a second kind adds more under what later work puts in place of KL."""
    arms = {"one": ONE_CONV, "same": SAME_TWICE, "both": CROSS}
    rows = [(title, {key: replace(one, **how) for key, one in arms.items()}) for title, how in LOSSES]
    for _, row in rows:  # of one teacher there is none that is harder
        if row["one"].gate == "harder":
            del row["one"]
    claims = []
    for title, row in rows[1:]:  # that of plain KL is tested in Table 6
        claims += [
            above(f"{title}: two kinds are better than one kind twice", PLACE, row["both"], row["same"]),
            above(f"{title}: two kinds learn more than by KL", PLACE, row["both"], CROSS),
        ]
    return Experiment(
        "losses",
        "What later work puts in place of KL",
        "",
        ("Students learn by",),
        (Column("one", "One teacher (%)"), Column("same", "One kind twice (%)"), Column("both", "Both kinds (%)")),
        [Row((title,), {}, {key: Value(one) for key, one in row.items()}) for title, row in rows],
        claims,
        (
            f"One teacher is {CONV}, one kind twice two runs of it, the other kind {INV}. λ is the scale's in all "
            "rows: other losses have other sizes, and none was tuned.",
            "z-scores: Sun et al., CVPR 2024. Correlation: Huang et al., NeurIPS 2022. Apart: Zhao et al., CVPR 2022. "
            "Right: after Meng et al., ICASSP 2019. Harder, on each image: after Sariyildiz et al., ECCV 2024. Half of "
            "the images, drawn for each teacher: what leaving out advice does by itself.",
            "In the figure: one seed small, their mean large.",
        ),
        Gains("both", {"over one kind twice": "same"}),
    )


CONTROLS, LOSSES_EXPERIMENT = _controls(), _losses()
DEMO_TITLES = {
    LABELS_ONLY: "labels only",
    ONE_CONV: "one CNN teacher",
    ONE_INV: "one involution teacher",
    SAME_TWICE: "two CNN teachers",
    CROSS: "co-advised: CNN + involution",
}


def _better(better: Arm, worse: Arm) -> Claim:
    return above(f"{DEMO_TITLES[better]} is better than {DEMO_TITLES[worse]}", PLACE, better, worse)


_GAIN = _better(CROSS, LABELS_ONLY)
DEMO = Experiment(
    "demo",
    "One transformer, taught in five ways",
    "",
    ("Trained with",),
    HEAD_COLUMNS,
    [Row((title,), {}, heads_of(arm)) for arm, title in DEMO_TITLES.items()],
    # Few, and declared before anything is measured: each further comparison weakens all of them (Holm).
    [_better(ONE_CONV, LABELS_ONLY), _better(ONE_INV, LABELS_ONLY), _GAIN, _better(CROSS, SAME_TWICE)],
    (
        "The class token alone answers; “all heads” is the mean of all heads' logits. Advised tokens are in the order "
        "of the row's teachers.",
        "The 95 % interval belongs to its row alone. Seeds vary the initialisation and the order of the images; the "
        "images stay the same, so the spread says nothing about other data.",
    ),
    Dots({title: Value(arm) for arm, title in DEMO_TITLES.items()}, "Accuracy", teachers=True),
    ("single images",),
    _GAIN,
)
"""Five arms of Table 6: enough to see in minutes whether teachers help, and whether their kinds matter."""

BEYOND = (SWEEP, LONGER, FRESH, HEADS, CONTROLS, LOSSES_EXPERIMENT, DEMO, KINDS_EXPERIMENT)
"""Experiments that the paper does not have."""
