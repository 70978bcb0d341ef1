"""Result files by arm and seed, and what a report must know of the scale at which they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..paper.arms import Arm
from ..paper.declared import BEST, Value
from ..run.measurement import Measurement
from ..significance import Summary, summarise

IMAGES, ATTENTION = "figure2.json", "attention.json"
"""Files beside a report: answers of models on single images, and where a student's tokens look in them."""


@dataclass(frozen=True)
class About:
    """How the runs of a report were asked for.

    Attributes:
        name, title: of the scale; its data and sizes in words.
        seeds: how many of each arm were asked for.
        changed: settings in place of the scale's own.
        particulars: sentences on what differs from the paper beside data and sizes.
        given: ids of the arms whose weights were given.
        settings: setting, the paper's value, and that of the runs.
    """

    name: str
    title: str
    seeds: int
    changed: Sequence[str] = ()
    particulars: Sequence[str] = ()
    given: Sequence[str] = ()
    settings: Sequence[tuple[str, str, str]] = ()


class Results:
    """Result files by arm and seed.

    Args:
        files: name of the file → its content.
    """

    def __init__(self, files: Mapping[str, Measurement]) -> None:
        self.files = files
        self._by_arm: dict[str, dict[int, str]] = {}
        for name in sorted(files):
            self._by_arm.setdefault(files[name].arm, {})[files[name].seed] = name

    def seeds(self, arm: Arm) -> list[int]:
        """Seeds of an arm that were run."""
        return sorted(self._by_arm.get(arm.id, {}))

    def file(self, arm: Arm, seed: int) -> str | None:
        """Name of a run's file."""
        return self._by_arm.get(arm.id, {}).get(seed)

    def run(self, arm: Arm, seed: int) -> Measurement | None:
        """A run's measurement; None where it was not run."""
        name = self.file(arm, seed)
        return None if name is None else self.files[name]

    def runs(self, arm: Arm) -> list[Measurement]:
        """Every run of an arm, by seed."""
        return [self.files[name] for _, name in sorted(self._by_arm.get(arm.id, {}).items())]

    def value(self, value: Value, seed: int) -> float | None:
        """A measured number, None where it is missing or not finite."""
        run = self.run(value.arm, seed if value.seed is None else value.seed)
        return None if run is None else run.number(value.metric)

    def series(self, value: Value) -> dict[int, float]:
        """A number by seed; a value of one fixed seed has that one alone."""
        seeds = self.seeds(value.arm) if value.seed is None else [value.seed]
        found = {seed: self.value(value, seed) for seed in seeds}
        return {seed: number for seed, number in found.items() if number is not None}

    def summary(self, value: Value) -> Summary | None:
        """Mean, standard deviation and interval over the seeds; None where nothing was measured."""
        values = list(self.series(value).values())
        return summarise(values) if values else None

    def mean(self, value: Value) -> float | None:
        """Mean over the seeds; None where nothing was measured."""
        summary = self.summary(value)
        return None if summary is None else summary.mean

    def best(self, value: Value) -> float | None:
        """A size, or the speed of the run that was disturbed the least."""
        series = self.series(value).values()
        return BEST.get(value.metric, max)(series) if series else None
