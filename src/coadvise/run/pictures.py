"""A few validation images of a finished run, small, with what was answered for them: `pictures.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int
from pydantic import TypeAdapter

from ..names import CLASS
from ..system.files import read_json, write_json
from .answers import Answers
from .result import parsed

EACH = 8
"""Images of each kind."""
SURE = "surest mistakes"
UNSURE = "least sure hits"
TAUGHT = "a teacher right, the student not"


@dataclass(frozen=True)
class Picture:
    """A validation image.

    Attributes:
        jpeg: the image, at most 112 px a side, in base64.
        name: of its file, or its row.
        index: its place in the validation set.
        label: its class; `answer` what the student said, with `confidence`.
        teachers: name → what the teacher said.
    """

    jpeg: str
    name: str
    index: int
    label: str
    answer: str
    confidence: float
    teachers: Mapping[str, str] = field(default_factory=dict)


def chosen(answers: Answers, each: int = EACH) -> dict[str, Int[np.ndarray, " m"]]:
    """Rows of the answers worth looking at, by kind: they show how the student errs, not how often."""
    right, sure = answers.right(), answers.confidence[CLASS]
    order = np.argsort(-sure, kind="stable")
    mistakes, hits = order[~right[order]], order[right[order]]
    known = [values == answers.label for values in answers.teachers.values()]
    taught = mistakes[np.any(known, axis=0)[mistakes]] if known else mistakes[:0]
    rest = taught[~np.isin(taught, mistakes[:each])]  # none is shown twice
    return {SURE: mistakes[:each], UNSURE: hits[::-1][:each], TAUGHT: rest[:each]}


def write_pictures(path: Path, pictures: Mapping[str, list[Picture]]) -> None:
    """Write pictures by kind, atomically."""
    write_json(path, {kind: [dataclasses.asdict(one) for one in found] for kind, found in pictures.items()})


def read_pictures(path: Path) -> Mapping[str, list[Picture]]:
    """Pictures by kind; nothing where there is no such file.

    Raises:
        RunError: the file is no JSON or has another form.
    """
    return parsed(_ADAPTER, read_json(path), path) if path.is_file() else {}


_ADAPTER = TypeAdapter(dict[str, list[Picture]])
