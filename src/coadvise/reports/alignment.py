"""Numbers of a column, aligned at their points: each cell in three parts, and how wide the others of its column are.

With figures of one width, two parts of as many signs are equally wide. So a page needs to know no more than the longest
fraction and the longest rest of a column to put the points of all cells below each other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .tables import ABSENT

_BEFORE = r"(?P<whole>(?:within |compared |first )?[<≥≤±+−~ ]*\d[\d,]*)"
_NUMBER = r"[+−±]?\d[\d,]*(?:\.\d+)?"
_UNIT = r"(?: ?(?:%|‰|×|[A-Za-zµ]{1,6}))?"
_CELL = re.compile(
    rf"{_BEFORE}(?P<fraction>\.\d+)?(?P<rest>{_UNIT}(?: ± {_NUMBER}{_UNIT})?(?: … {_NUMBER}{_UNIT})?"
    rf"(?: \([^()]*\)| \[[^\[\]]*\])?)"
)


@dataclass(frozen=True)
class Aligned:
    """A number as text: what stands before its point, its fraction with the point, and what follows.

    Attributes:
        fractions, rests: the longest fraction and rest of the column.
    """

    whole: str
    fraction: str
    rest: str
    fractions: str
    rests: str


def aligned(cells: Sequence[str]) -> list[Aligned] | None:
    """The cells of a column; None where they are aligned as they are, or are no numbers.

    What is absent stands where whole numbers do. A single cell that is no number leaves the whole column as it is.
    """
    found = [("", "", "") if not cell else (cell, "", "") if cell == ABSENT else _parts(cell) for cell in cells]
    parts = [one for one in found if one is not None]
    if len(parts) < len(cells):
        return None
    fractions, rests = (max((one[i] for one in parts), key=len, default="") for i in (1, 2))
    same = len({(len(fraction), len(rest)) for whole, fraction, rest in parts if whole}) < 2
    return None if same else [Aligned(*one, fractions, rests) for one in parts]


def _parts(cell: str) -> tuple[str, str, str] | None:
    match = _CELL.fullmatch(cell)
    return None if match is None else (match["whole"], match["fraction"] or "", match["rest"])
