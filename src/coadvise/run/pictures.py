"""A few validation images of a finished run, small, with what was answered for them: `pictures.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from ..shapes import Int
from ..system.files import read_json, write_json
from .answers import Answers
from .result import parsed

EACH = 8
"""Images of each kind."""
HITS = "surest hits"
SURE = "surest mistakes"
UNSURE = "least sure hits"
TAUGHT = "a teacher right, the student not"
APART = "the teachers disagree"


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
    """Rows of the answers worth looking at, by kind and none twice: they show how the student errs, not how often."""
    right, sure = answers.right(), answers.sure
    order = np.argsort(-sure, kind="stable")
    mistakes, hits = order[~right[order]], order[right[order]]
    said = list(answers.teachers.values())
    taught = np.any([one == answers.label for one in said], axis=0) if said else np.zeros(len(right), bool)
    apart = np.any([one != said[0] for one in said], axis=0) if said else np.zeros(len(right), bool)
    taken = np.zeros(len(right), bool)
    found = {}
    kinds = {
        SURE: mistakes, UNSURE: hits[::-1], TAUGHT: mistakes[taught[mistakes]], HITS: _of_each(hits, answers.label),
        APART: order[apart[order]],
    }  # fmt: skip
    for kind, rows in kinds.items():
        found[kind] = rows[~taken[rows]][:each]
        taken[found[kind]] = True
    return {kind: found[kind] for kind in (HITS, SURE, UNSURE, TAUGHT, APART)}


def _of_each(rows: Int[np.ndarray, " n"], label: Int[np.ndarray, " k"]) -> Int[np.ndarray, " n"]:
    """The first row of each class before all others, both in their order."""
    first = np.zeros(len(rows), bool)
    first[np.unique(label[rows], return_index=True)[1]] = True
    return np.concatenate([rows[first], rows[~first]])


def write_pictures(path: Path, pictures: Mapping[str, list[Picture]]) -> None:
    """Write pictures by kind, atomically."""
    write_json(path, {kind: [dataclasses.asdict(one) for one in found] for kind, found in pictures.items()})


def read_pictures(path: Path) -> Mapping[str, list[Picture]] | None:
    """Pictures by kind; None where there is no such file.

    Raises:
        RunError: the file is no JSON or has another form.
    """
    return parsed(_ADAPTER, read_json(path), path) if path.is_file() else None


_ADAPTER = TypeAdapter(dict[str, list[Picture]])
