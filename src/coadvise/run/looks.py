"""Where the tokens of a finished run look in a few validation images: `attention.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from ..errors import RunError
from ..names import ALL_HEADS, CLASS
from ..system.files import read_json, write_json
from .answers import Answers
from .result import parsed

EACH = 2
"""Images of each kind."""
HIT, MISTAKE, APART = "surest hit", "surest mistake", "tokens disagree"


@dataclass(frozen=True)
class Look:
    """An image as the student sees it.

    Attributes:
        jpeg: the image in base64, cropped and resized as in the evaluation.
        kind: what it was chosen for.
        label: its class; `answer` what the student said.
        maps: token → attention of the last block to each patch (rows of columns), mean over the heads.
    """

    jpeg: str
    kind: str
    label: str
    answer: str
    maps: Mapping[str, tuple[tuple[float, ...], ...]]


@dataclass(frozen=True)
class Looks:
    """Images with attention; `why` says why there are none."""

    images: tuple[Look, ...] = field(default=())
    why: str = ""

    def write(self, path: Path) -> None:
        """Write them atomically."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: Path) -> Looks:
        """Read a file that `write` wrote; nothing where there is none.

        Raises:
            RunError: the file is no JSON or has another form.
        """
        if not path.is_file():
            return cls()
        found: Looks = parsed(TypeAdapter(cls), read_json(path), path)
        grids = [grid for one in found.images for grid in one.maps.values()]
        same = all(one.maps.keys() == found.images[0].maps.keys() for one in found.images)
        if not same or not all(grid and grid[0] and len({len(row) for row in grid}) == 1 for grid in grids):
            raise RunError(f"{path} holds maps that are no grids of the same tokens; it is written at the end of a run")
        return found


def chosen_looks(answers: Answers, each: int = EACH) -> Iterator[tuple[int, str]]:
    """Rows of the answers, none twice, and what they are chosen for: an image of each class before a second of one."""
    right, taken = answers.right(), set[int]()
    advised = [values for name, values in answers.outputs.items() if name not in (CLASS, ALL_HEADS)]
    apart = (
        np.zeros(len(right), bool) if not advised else np.any([v != answers.outputs[CLASS] for v in advised], axis=0)
    )
    for kind, at in ((HIT, right & ~apart), (MISTAKE, ~right), (APART, apart)):
        rows = [row for row in np.argsort(-answers.sure, kind="stable").tolist() if at[row]]
        rows = [row for row in rows if row not in taken]
        _, first = np.unique(answers.label[rows], return_index=True)  # of each class
        firsts = set(first.tolist())
        order = sorted(range(len(rows)), key=lambda place: place not in firsts)
        rows = [rows[place] for place in order[:each]]
        taken |= set(rows)
        yield from ((row, kind) for row in rows)
