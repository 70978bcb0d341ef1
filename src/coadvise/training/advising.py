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
from .changed import Advise

# Stored advice of at most so many bytes stays on the device once it was read.
KEPT_BYTES = 2**28


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
        return stored(cache, accelerator)
    return live(ready, accelerator)


def stored(cache: AdviceCache, accelerator: Accelerator) -> Advise:
    """The cache is read; where all of it takes few bytes, what was read of a batch stays until its view recurs."""
    layout, device = cache.layout, accelerator.device
    small = 4 * layout.records * layout.record.classes * len(cache.names) <= KEPT_BYTES
    kept: dict[tuple[int, bytes], Mapping[str, Tensor]] = {}

    def advise(batch: Batch) -> Mapping[str, Tensor]:
        if not small:
            return cache.read(batch.view, batch.position, device)
        key = batch.view, batch.position.tobytes()
        if key not in kept:
            kept[key] = cache.read(batch.view, batch.position, device)
        return kept[key]

    return advise


def live(ready: Teachers, accelerator: Accelerator) -> Advise:
    """The teachers look at every batch."""

    def advise(batch: Batch) -> Mapping[str, Tensor]:
        with accelerator.autocast():
            return ready(batch.images)

    return advise
