"""Where the advice on training batches comes from: the cache, or the teachers themselves."""

from __future__ import annotations

from collections.abc import Mapping

from accelerate import Accelerator
from torch import Tensor

from ..advice.cache import AdviceCache
from ..advice.checking import check_cache
from ..advice.request import CacheRequest
from ..data.sources.base import ImageSource
from ..data.views.finish import Batch
from ..models.teachers import FrozenTeacher, Teachers
from ..recipe.schema import Recipe
from ..system.progress import Display
from .setup import Advise


def stored_or_live(
    recipe: Recipe,
    source: ImageSource,
    loaded: Mapping[str, FrozenTeacher],
    ready: Teachers,
    accelerator: Accelerator,
    display: Display,
) -> Advise:
    """The source of advice: the cache, after a check against the teachers, or the teachers themselves."""
    if recipe.advice.source == "cache" and loaded:
        cache = AdviceCache(CacheRequest.of(recipe), source, loaded)
        check_cache(cache, recipe.data, source, ready, accelerator)
        display.say(f"advice comes from {cache.folder}")
        return lambda batch: cache.read(batch.view, batch.position, accelerator.device)
    return live(ready, accelerator)


def live(ready: Teachers, accelerator: Accelerator) -> Advise:
    """The teachers look at every batch."""

    def advise(batch: Batch) -> Mapping[str, Tensor]:
        with accelerator.autocast():
            return ready(batch.images)

    return advise
