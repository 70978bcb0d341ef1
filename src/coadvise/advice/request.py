"""The part of a recipe that a cache depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import RecipeError
from ..recipe.schema import Data, Recipe, Schedule, Teacher
from ..run.folder import RunFolder
from .record import RecordFormat


@dataclass(frozen=True)
class CacheRequest:
    """Which advice is wanted, and where it lies.

    Attributes:
        views: number of distinct views in a run.
        top_k: logits that are kept of each image; None keeps all.
        trained: folder of the runs of those teachers that the recipe trains.
    """

    folder: Path
    data: Data
    views: int
    top_k: int | None
    teachers: Mapping[str, Teacher]
    trained: Path

    @classmethod
    def of(cls, recipe: Recipe) -> CacheRequest:
        """The request of a recipe."""
        return cls(
            folder=Path(recipe.advice.folder or f"caches/{recipe.name}"),
            data=recipe.data,
            views=views_of(recipe.data, recipe.schedule),
            top_k=recipe.advice.top_k,
            teachers=recipe.teachers,
            trained=RunFolder.of(recipe).teachers,
        )

    def record(self, classes: int) -> RecordFormat:
        """Layout of one record."""
        return RecordFormat(classes, min(self.top_k or classes, classes))


def views_of(data: Data, schedule: Schedule) -> int:
    """Number of distinct views in a run.

    Raises:
        RecipeError: it is not known before the epochs are fitted to a time.
    """
    if schedule.time is not None:
        if data.views is None:
            raise RecipeError(
                "how many views are stored must be known before epochs are fitted to schedule.time; give data.views, "
                "such as data.views=25, or schedule.epochs"
            )
        return data.views
    return min(data.views or schedule.epochs, schedule.epochs)
