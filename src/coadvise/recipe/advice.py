"""Where the teachers' advice comes from, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from ..names import MEAN
from .fields import Count, Part

Change = Literal["none", "shuffled", "shuffled-in-class", "smoothed", "mean"]


class Advice(Part):
    """Where the teachers' advice comes from; `advice: cache` alone is short for `source: cache`."""

    source: Literal["live", "cache"] = "live"
    """`live`: the teachers look at every image of every epoch. `cache`: what they said is read (`coadvise cache`)."""
    folder: str | None = None
    """Folder of the cache; `caches/NAME` when not given."""
    top_k: Count | None = 10
    """Logits that the cache keeps of each image, the rest spread as the teacher usually does; null keeps all."""
    change: Change = "none"
    """What the student is told in place of the advice on an image, to see what of it helps. `shuffled`: the advice on
    another image of the batch; `shuffled-in-class`: on another one whose largest share is of the same class;
    `smoothed`: its labels, as unsure as the teacher is on average; `mean`: the mean of the teachers' probabilities, on
    one token, `mean`."""

    def names(self, teachers: Iterable[str]) -> tuple[str, ...]:
        """Names under which the advice of these teachers reaches the student."""
        given = tuple(teachers)
        return (MEAN,) if given and self.change == "mean" else given
