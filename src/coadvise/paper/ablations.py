"""Tables 4 to 7 and Figure 4: the ablations, made on ImageNet-100 in the paper."""

from __future__ import annotations

from dataclasses import replace

from .arms import Arm, Teacher, arm
from .declared import MARGIN, AgainstTeachers, Below, Claim, Column, Condition, Dots, Experiment, Help, Near, Row, Value

DATA = "ImageNet-100"
TOP1_COLUMN = Column("top1", "Top-1 (%)")
CONV, INV = "resnet18", "rednet26"
TWIN = Teacher(CONV, seed=1)

LABELS_ONLY, ONE_CONV, ONE_INV = arm("transformer_tiny"), arm("transformer_tiny", CONV), arm("transformer_tiny", INV)
CROSS = arm("transformer_tiny", CONV, INV)
SAME_TWICE = arm("transformer_tiny", CONV, TWIN)
SAME_DEEPER = arm("transformer_tiny", CONV, "resnet50")
SINGLE = arm("transformer_tiny", CONV, INV, tokens="single")

SEVEN_ARMS = (LABELS_ONLY, ONE_CONV, ONE_INV, SAME_TWICE, SAME_DEEPER, CROSS, SINGLE)
"""The arms that carry the paper's claim: they are run before all others."""
SEVEN_TITLES = (
    "no teacher", "one convolution teacher", "one involution teacher", "two convolution teachers, two seeds",
    "two convolution teachers, two depths", "both kinds, a token each", "both kinds on a single token",
)  # fmt: skip
SEVEN_DOTS = Dots(dict(zip(SEVEN_TITLES, map(Value, SEVEN_ARMS), strict=True)), "The arms that carry the claim")


def above(
    text: str, place: str, better: Arm | Value, worse: Arm | Value, *conditions: Condition, unit: str = "%"
) -> Claim:
    """The claim that one number is higher than another; of an arm, its top-1."""
    plus, minus = (Value(one) if isinstance(one, Arm) else one for one in (better, worse))
    return Claim(text, place, (plus,), (minus,), unit=unit, conditions=conditions)


def similar(text: str, place: str, one: Arm | Value, other: Arm | Value, *conditions: Condition) -> Claim:
    """The claim that two numbers are about the same; of an arm, its top-1."""
    return replace(above(text, place, one, other, *conditions), says=Near(MARGIN))


def _row(labels: tuple[str, ...], one: Arm, top1: float, *models: str) -> Row:
    """A row of top-1 with a mark for each of the arm's teachers, in a column for each model."""
    marks = ("✓" * [teacher.model for teacher in one.teachers].count(model) for model in models)
    return Row((*labels, *marks), {"top1": top1}, {"top1": Value(one)})


def _table4() -> Experiment:
    place = "§4.3.2, Table 4"
    printed = {
        ("ResNet-10", "resnet10"): (81.5, 83.0, 82.6, 83.4),
        ("Mixer-Ti", "mixer_tiny"): (80.5, 81.6, 80.9, 82.3),
        ("Transformer-Ti", "transformer_tiny"): (81.8, 86.5, 85.0, 88.0),
    }
    teachers: tuple[tuple[str, ...], ...] = ((), (CONV,), (INV,), (CONV, INV))
    rows = [
        _row((title,), arm(model, *members), top1, CONV, INV)
        for (title, model), numbers in printed.items()
        for members, top1 in zip(teachers, numbers, strict=True)
    ]
    claims = [
        Claim(
            f"Both teachers together help the transformer more than {title}",
            place,
            (Value(CROSS), Value(arm(model))),
            (Value(LABELS_ONLY), Value(arm(model, CONV, INV))),
        )
        for title, model in list(printed)[:2]
    ]
    both, one = arm("resnet10", CONV, INV), arm("resnet10", CONV)
    claims += [
        similar("ResNet-10 learns from both teachers about as much as from ResNet-18 alone", place, both, one),
        similar("Without teachers, Mixer-Ti and Transformer-Ti are about equal", place, LABELS_ONLY, arm("mixer_tiny")),
    ]
    return Experiment(
        "table4",
        "Students of different kinds under the same teachers",
        DATA,
        ("Student", "ResNet-18", "RedNet-26"),
        (TOP1_COLUMN,),
        rows,
        claims,
        ("The paper's table prints “RegNet-26”, its text says RedNet-26, which is what is run.",),
        help=[Help(title, Value(arm(model)), Value(arm(model, CONV, INV))) for title, model in printed],
    )


def _table5() -> Experiment:
    def row(title: str, student: Arm, token: str, kl: tuple[float, float], top1: float) -> Row:
        ours = {"top1": Value(student, f"accuracy/{token}")}
        for teacher in (CONV, INV):
            ours[teacher] = Value(student, f"kl/{teacher}|{token}")
            ours[f"{teacher} reverse"] = Value(student, f"kl_reverse/{teacher}|{token}")
        return Row((title,), {CONV: kl[0], INV: kl[1], "top1": top1}, ours)

    resnet, mixer = arm("resnet10", CONV, INV), arm("mixer_tiny", CONV, INV)

    def nearer(text: str, teacher: str, near: tuple[Arm, str], far: tuple[Arm, str]) -> Claim:
        near_value, far_value = (Value(one, f"kl/{teacher}|{token}") for one, token in (near, far))
        return above(text, "§4.3.2, Table 5", far_value, near_value, unit="nat")

    return Experiment(
        "table5",
        "Divergence of the students' outputs from their teachers'",
        DATA,
        ("Student",),
        (
            Column(CONV, "KL(ResNet-18 ‖ student)", "nat"),
            Column(f"{CONV} reverse", "KL(student ‖ ResNet-18)", "nat"),
            Column(INV, "KL(RedNet-26 ‖ student)", "nat"),
            Column(f"{INV} reverse", "KL(student ‖ RedNet-26)", "nat"),
            TOP1_COLUMN,
        ),
        [
            row("ResNet-10", resnet, "class", (0.261, 0.274), 83.4),
            row("Mixer-Ti", mixer, "class", (0.358, 0.313), 82.3),
            row("CiT-Ti conv token", CROSS, CONV, (0.255, 0.290), 87.1),
            row("CiT-Ti inv token", CROSS, INV, (0.254, 0.154), 87.7),
        ],
        [
            nearer("The inv token is nearer to RedNet-26 than the conv token", INV, (CROSS, INV), (CROSS, CONV)),
            nearer("The conv token is nearer to ResNet-18 than the inv token", CONV, (CROSS, CONV), (CROSS, INV)),
            nearer("The conv token is nearer to ResNet-18 than Mixer-Ti", CONV, (CROSS, CONV), (mixer, "class")),
            nearer("The inv token is nearer to RedNet-26 than Mixer-Ti", INV, (CROSS, INV), (mixer, "class")),
            nearer("The conv token is nearer to ResNet-18 than ResNet-10", CONV, (CROSS, CONV), (resnet, "class")),
            nearer("The inv token is nearer to RedNet-26 than ResNet-10", INV, (CROSS, INV), (resnet, "class")),
            nearer("Mixer-Ti is farther from ResNet-18 than ResNet-10", CONV, (resnet, "class"), (mixer, "class")),
            nearer("Mixer-Ti is farther from RedNet-26 than ResNet-10", INV, (resnet, "class"), (mixer, "class")),
        ],
        (
            "The paper does not state the direction of the divergence. Both are measured; its numbers are shown beside "
            "KL(teacher ‖ student), which is what the loss contains, and the claims are tested on it.",
            "In the paper's own numbers the inv token is as near to ResNet-18 (0.254) as the conv token (0.255).",
        ),
    )


def _table6() -> Experiment:
    place, student = "§4.3.3, Table 6", "Transformer-Ti"
    printed = (
        ("ResNet-18", arm(CONV), 85.1),
        ("ResNet-50", arm("resnet50"), 89.0),
        ("RedNet-26", arm(INV), 89.2),
        (student, LABELS_ONLY, 81.8),
        (student, ONE_CONV, 86.5),
        (student, arm("transformer_tiny", "resnet50"), 86.6),
        (student, ONE_INV, 85.0),
        (student, SAME_TWICE, 87.2),
        (student, SAME_DEEPER, 87.0),
        (student, CROSS, 88.0),
    )
    return Experiment(
        "table6",
        "Teachers of one kind and of two kinds",
        DATA,
        ("Model", "ResNet-18", "ResNet-50", "RedNet-26"),
        (TOP1_COLUMN,),
        [_row((title,), one, top1, CONV, "resnet50", INV) for title, one, top1 in printed],
        [
            above("One convolution teacher is better than none", place, ONE_CONV, LABELS_ONLY),
            above("One involution teacher is better than none", place, ONE_INV, LABELS_ONLY),
            above("Both kinds are better than the convolution teacher alone", place, CROSS, ONE_CONV),
            above("Both kinds are better than the involution teacher alone", place, CROSS, ONE_INV),
            above("Both kinds are better than two convolution teachers of other seeds", place, CROSS, SAME_TWICE),
            above("Both kinds are better than two convolution teachers of other depths", place, CROSS, SAME_DEEPER),
        ],
        ("A student of N teachers has N + 1 tokens here, as in the paper's Section 4.3.1.",),
        SEVEN_DOTS,
    )


def _table7() -> Experiment:
    conv, inv = (arm("transformer_tiny", name, tokens="single") for name in (CONV, INV))
    printed = ((LABELS_ONLY, "1", 81.8), (conv, "1", 81.9), (inv, "1", 80.7), (SINGLE, "1", 83.5), (CROSS, "3", 88.0))
    place = "§4.3.4, Table 7"

    def nothing(text: str, one: Arm) -> Claim:
        return replace(above(text, place, one, LABELS_ONLY), says=Below(MARGIN))

    return Experiment(
        "table7",
        "One token for everything, and a token for each teacher",
        DATA,
        ("Student", "Tokens", "ResNet-18", "RedNet-26"),
        (TOP1_COLUMN,),
        [_row(("Transformer-Ti", tokens), one, top1, CONV, INV) for one, tokens, top1 in printed],
        [
            above("Three tokens are better than one with the same two teachers", place, CROSS, SINGLE),
            above("With one token, two teachers are better than none", place, SINGLE, LABELS_ONLY),
            nothing("With one token, the convolution teacher alone adds almost nothing", conv),
            nothing("With one token, the involution teacher alone adds almost nothing", inv),
        ],
    )


PARTS = (0.25, 0.5, 1.0)
SWEPT = (CONV, "regnety_002", INV)
TITLES = {
    "resnet18": "ResNet-18", "resnet34": "ResNet-34", "resnet50": "ResNet-50",
    "regnety_002": "RegNetY-200MF", "regnety_004": "RegNetY-400MF", "regnety_006": "RegNetY-600MF",
    "rednet26": "RedNet-26", "rednet38": "RedNet-38", "rednet50": "RedNet-50",
}  # fmt: skip
FAMILIES = {
    "RegNetY": ("regnety_002", "regnety_004", "regnety_006"),
    "ResNet": ("resnet18", "resnet34", "resnet50"),
    "RedNet": ("rednet26", "rednet38", "rednet50"),
}


def _figure4() -> Experiment:
    swept = [Teacher(name, part=part) for name in SWEPT for part in PARTS]
    sizes = [Teacher(name) for members in FAMILIES.values() for name in members]
    printed = {(CONV, 1.0): (85.1, 86.5), ("resnet50", 1.0): (89.0, 86.6), (INV, 1.0): (89.2, 85.0)}

    def row(panel: str, teacher: Teacher) -> Row:
        numbers = printed.get((teacher.model, teacher.part), ())
        return Row(
            (panel, TITLES[teacher.model], f"{100 * teacher.part:.0f} %"),
            dict(zip(("teacher", "student"), numbers, strict=False)),
            {"teacher": Value(teacher.arm, seed=0), "student": Value(arm("transformer_tiny", teacher))},
        )

    place = "§4.3.1, Figure 4"

    def unchanged(text: str, weak: Teacher, strong: Teacher) -> Claim:
        first, second = (Value(one.arm, seed=0) for one in (strong, weak))
        enough = Condition("better", second, Value(LABELS_ONLY), "meant for teachers that are good enough to help")
        gain = f"meant for a teacher that gets better by more than {100 * MARGIN:g} points"
        better = Condition("better", first, second, gain, by=MARGIN)
        taught, before = (arm("transformer_tiny", teacher) for teacher in (strong, weak))
        return similar(text, place, taught, before, enough, better)

    def kinds(conv: str, inv: str) -> Claim:
        text = f"{TITLES[conv]} and {TITLES[inv]}, equally good, make students that differ"
        first, second = (Value(arm(name), seed=0) for name in (conv, inv))
        alike = Condition("similar", first, second, "meant for two teachers of similar top-1")
        one, other = (arm("transformer_tiny", name) for name in (conv, inv))
        return replace(above(text, place, one, other, alike), says="differs")

    longer = [
        unchanged(
            f"{TITLES[name]} trained four times as long: its student hardly changes",
            Teacher(name, part=PARTS[0]),
            Teacher(name),
        )
        for name in SWEPT
    ]
    larger = [
        unchanged(
            f"{TITLES[large]} instead of {TITLES[small]}: the student hardly changes", Teacher(small), Teacher(large)
        )
        for small, _, large in FAMILIES.values()
    ]
    return Experiment(
        "figure4",
        "Students of one teacher against the accuracy of that teacher",
        DATA,
        ("Panel", "Teacher", "Epochs"),
        (Column("teacher", "Teacher's top-1 (%)"), Column("student", "Student's top-1 (%)")),
        [*(row("a", one) for one in swept), *(row("b", one) for one in sizes)],
        [*longer, *larger, kinds(CONV, INV), kinds("resnet50", "rednet50")],
        (
            "Panel (a): the text speaks of RegNetY-200MF, the caption of RegNetY-600MF; RegNetY-200MF is run. The "
            "figure has no numbers; those shown are the ones that Table 6 has. The text says that RegNetY-200MF gains "
            "9 points from 100 more epochs, and RegNetY-600MF 6.5 points over it, while the students hardly change.",
            "Each teacher is one run (seed 0); the seeds are the student's. A teacher's top-1 is that of its own "
            "validation images; where the scale gives teachers larger images than students, its advice is on those of "
            "the student and may be a little less accurate.",
            "The students are said to change little once a teacher is good enough; here that is better than the "
            "student of labels alone. The pairs of equally good teachers are those of the text, which takes RedNet-26 "
            "after 150 epochs; here it has all of its epochs.",
        ),
        AgainstTeachers(
            {"a": "(a) teachers trained for a part of their epochs", "b": "(b) teachers of three sizes"},
            tuple(FAMILIES),
            "b",
            Value(LABELS_ONLY),
        ),
    )


ABLATIONS = (_table4(), _table5(), _table6(), _table7(), _figure4())
