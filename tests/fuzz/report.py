"""What became of many inputs: counts, the slowest and the largest, and every kind of failure with its first input."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .engine import Outcome


@dataclass
class Tally:
    """The outcomes of one target."""

    inputs: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: Outcome | None = None
    biggest: Outcome | None = None
    failures: dict[tuple[str, str], list[Outcome]] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """Count one."""
        self.inputs += 1
        self.seconds += outcome.seconds
        self.outcomes[outcome.kind] += 1
        if self.slowest is None or outcome.seconds > self.slowest.seconds:
            self.slowest = outcome
        if self.biggest is None or outcome.memory > self.biggest.memory:
            self.biggest = outcome
        if not outcome.fine:
            self.failures.setdefault((outcome.kind, _kind_of(outcome)), []).append(outcome)

    @property
    def failed(self) -> int:
        """Number of inputs that failed."""
        return sum(len(same) for same in self.failures.values())

    def lines(self) -> list[str]:
        """A line for each kind of failure."""
        return [
            f"{len(same)} × {kind}: {what}{': ' + same[0].error if same[0].error else ''} "
            f"(inputs {', '.join(str(one.number) for one in sorted(same, key=lambda one: one.number)[:3])})"
            for (kind, what), same in sorted(self.failures.items(), key=lambda item: -len(item[1]))
        ]

    def content(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        assert self.slowest and self.biggest
        return {
            "inputs": self.inputs,
            "outcomes": dict(sorted(self.outcomes.items())),
            "seconds": round(self.seconds, 1),
            "slowest": {"input": self.slowest.number, "seconds": round(self.slowest.seconds, 3)},
            "biggest": {"input": self.biggest.number, "MB": round(self.biggest.memory / 1e6, 1)},
            "failures": [
                {"kind": kind, "what": what, "count": len(same), "error": same[0].error,
                 "inputs": sorted(one.number for one in same)[:10]}
                for (kind, what), same in sorted(self.failures.items())
            ],
        }  # fmt: skip


def _kind_of(outcome: Outcome) -> str:
    """What failures of one cause have in common: messages differ by the values that they quote."""
    return (
        re.sub(r"'.*?'|\d+", "…", outcome.what)[:80] if outcome.kind in ("unnamed", "broken promise") else outcome.what
    )


def tally(outcomes: Iterable[Outcome]) -> Tally:
    """Count all."""
    found = Tally()
    for outcome in outcomes:
        found.add(outcome)
    return found
