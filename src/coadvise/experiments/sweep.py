"""Beyond the paper: on what the gain from a second kind of teacher depends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .ablations import CONV, CROSS, INV, NONE, ONE_CONV, SINGLE, above
from .arms import Adviser, Arm
from .declared import Column, Experiment, Row, Value

CHANGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("nothing", {}),
    ("twice the epochs", {"part": 2.0}),
    ("λ × 3", {"weight": 3.0}),
    ("λ × 10", {"weight": 10.0}),
    ("τ = 2", {"temperature": 2.0}),
    ("images not mixed", {"mixing": False}),
    ("tokens' learning rate × 10", {"token_lr": 10.0}),
)
"""What is changed of the students' training, one thing at a time."""

COLUMNS = {
    "none": "Labels only (%)",
    "one": "One teacher (%)",
    "both": "Both kinds (%)",
    "single": "Both, one token (%)",
}
PLACE = "beyond the paper"


def _changed(arm: Arm, changes: dict[str, Any]) -> Arm:
    """An arm under a change; labels alone know no advice."""
    if not arm.advisers:
        changes = {key: value for key, value in changes.items() if key not in ("weight", "temperature")}
    return replace(arm, **changes)


def _early(arm: Arm) -> Arm:
    """An arm with teachers of half the epochs."""
    return replace(arm, advisers=tuple(Adviser(one.model, one.seed, part=0.5) for one in arm.advisers))


def _sweep() -> Experiment:
    arms = {"none": NONE, "one": ONE_CONV, "both": CROSS, "single": SINGLE}
    rows = [(title, {key: _changed(arm, changes) for key, arm in arms.items()}) for title, changes in CHANGES]
    rows.append(("teachers of half the epochs", {key: _early(arm) for key, arm in arms.items()}))
    claims = []
    for title, row in rows[1:]:  # what nothing changes is tested in Tables 6 and 7
        claims += [
            above(f"{title}: both kinds are better than one teacher", PLACE, row["both"], row["one"]),
            above(f"{title}: three tokens are better than one", PLACE, row["both"], row["single"]),
        ]
    return Experiment(
        "sweep",
        "On what the gain from a second kind depends",
        "",
        ("Change",),
        tuple(Column(key, title) for key, title in COLUMNS.items()),
        [Row((title,), {}, {key: Value(arm) for key, arm in row.items()}) for title, row in rows],
        claims,
        (
            f"One teacher is {CONV}, the other kind {INV}; all changes are of the students' training but the last.",
            "Labels alone are the same run where a change is of the advice alone.",
        ),
    )


SWEEP = _sweep()
