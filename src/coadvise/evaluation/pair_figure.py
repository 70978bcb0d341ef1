"""The figure of candidates for teachers in pairs: κ of their errors, CKA of their features, accuracy of their mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ..reports.plots.candidates import PairMap, pair_maps
from ..reports.plots.style import Drawing, draw
from ..shapes import Int
from .candidates import Candidate, Pair, pairs_of


def pairs_drawing(candidates: Sequence[Candidate], label: Int[Tensor, " n"], chosen: Sequence[str]) -> Drawing:
    """Three tables of pairs; on the diagonal of the last each candidate's own accuracy.

    Args:
        chosen: names of the proposed set, whose pairs are framed.
    """
    ordered = sorted(candidates, key=lambda one: -one.accuracy(label))
    names = [one.name for one in ordered]
    found = {frozenset(pair.names): pair for pair in pairs_of(candidates, label)}

    def table(of: Callable[[Pair], float | None], own: Callable[[Candidate], float | None]) -> list[list[float | None]]:
        return [
            [own(one) if one is other else of(found[frozenset((one.name, other.name))]) for other in ordered]
            for one in ordered
        ]

    average = table(lambda pair: 100 * pair.average, lambda one: 100 * one.accuracy(label))
    lowest = min(value for row in average for value in row if value is not None)
    maps = [
        PairMap("κ of errors: low is good", table(lambda pair: pair.kappa, lambda _: None), 0, 1, 2, "smallest"),
        PairMap("CKA of features", table(lambda pair: pair.cka, lambda _: None), 0, 1, 2, "smallest"),
        PairMap("accuracy of the average, %; alone on the diagonal", average, lowest, 100, 1, "largest"),
    ]
    said = "; ".join(f"{' + '.join(pair.names)} {pair.average:.1%}" for pair in found.values())
    alt = f"Pairs of candidates for teachers: accuracy of their average is {said}."
    return draw("candidates", alt, lambda: pair_maps(names, maps, chosen))
