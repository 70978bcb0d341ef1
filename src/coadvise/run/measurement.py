"""What is measured of a finished run: a small JSON file, as one typed value.

`reproduce` writes one such file for each run, and reports read nothing else of it. The keys of the file are the fields
below; keys that an earlier version did not write have defaults. `reproduce.measure` lists the names in `measured`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, with_config

from ..names import TOP1
from ..system.files import read_json, write_json
from .result import DataFacts, StudentFacts, TeacherFacts, parsed

FORMAT = 1
MEASURED_ON = "throughput on"
"""In `detail`, the hardware on which `throughput` was measured."""
DIGITS = 12
"""Decimals of a stored number: enough that equal differences stay equal to 1e-9."""


@with_config(ConfigDict(extra="ignore"))
@dataclass(frozen=True)
class Measurement:
    """The numbers of one run of an arm.

    Attributes:
        id: hash of everything that decides the numbers.
        advisers: name of each teacher's token → id of the teacher's run.
        teacher_weights: name of each teacher's token → hash of its weights.
        groups: groups of measurements that were made.
        sources: group → name of the shifted images that were given for it.
        measured: every number by its flat name: shares, nats, counts, images/s, ms.
        detail: what is more than a number (see the properties below).
        settings: the recipe by dotted keys, without paths.
        provenance: commit, command, versions and hardware.
    """

    arm: str
    scale: str
    seed: int
    id: str
    student: StudentFacts
    data: DataFacts
    epochs: int
    steps: int
    images_seen: int
    seconds: float
    measured: Mapping[str, float]
    advisers: Mapping[str, str] = field(default_factory=dict)
    teacher_weights: Mapping[str, str] = field(default_factory=dict)
    teachers: Mapping[str, TeacherFacts] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def number(self, metric: str = TOP1) -> float | None:
        """A measured number; None where it is missing or not finite."""
        value = self.measured.get(metric)
        return value if value is not None and math.isfinite(value) else None

    @property
    def token_cosine(self) -> Mapping[str, Sequence[float]]:
        """`TOKEN|TOKEN` → mean cosine of two tokens after each block."""
        return self.detail.get("token_cosine") or {}

    @property
    def teacher_pairs(self) -> Mapping[str, Mapping[str, float]]:
        """`TEACHER|TEACHER` → `kappa` of their errors and `cka` of their features."""
        return self.detail.get("teachers") or {}

    @property
    def likeness_images(self) -> int | None:
        """Validation images on which tokens and teachers were compared."""
        return self.detail.get("likeness images")

    @property
    def corrupted_images(self) -> int | None:
        """Validation images that were corrupted."""
        return self.detail.get("corrupted images")

    def machine_of(self, metric: str) -> Any:
        """The hardware that a speed is of: answering may be measured elsewhere than training."""
        trained_on = self.provenance.get("hardware")
        return self.detail.get(MEASURED_ON, trained_on) if metric == "throughput" else trained_on

    def write(self, path: Path) -> None:
        """Write the file atomically, its numbers rounded to `DIGITS` decimals."""
        numbers = {name: round(float(value), DIGITS) for name, value in self.measured.items()}
        write_json(path, {**dataclasses.asdict(self), "measured": numbers})

    @classmethod
    def read(cls, path: Path) -> Measurement:
        """Read a file that `write` wrote, now or in an earlier version.

        Raises:
            RunError: the file is missing, no JSON, or has fields of another form; it names the first of them.
        """
        return cls.parse(read_json(path), path)

    @classmethod
    def parse(cls, content: Mapping[str, Any], path: Path) -> Measurement:
        """The content of such a file; `path` is for messages."""
        return parsed(_ADAPTER, content, path)  # type: ignore[no-any-return]


_ADAPTER = TypeAdapter(Measurement)
