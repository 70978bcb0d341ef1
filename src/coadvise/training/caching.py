"""Storing the teachers' advice: `coadvise cache` from end to end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from ..advice.cache import AdviceCache, kept_weights, require_fitting, require_undamaged
from ..advice.checking import VERIFIED, check_cache
from ..advice.request import CacheRequest
from ..advice.writer import require_possible, write_cache
from ..data.sources.unlabelled import open_for_training
from ..errors import Interrupted, LoaderError, RecipeError
from ..models.answers import Answer
from ..models.teachers import check_teachers_given
from ..recipe.schema import Recipe
from ..run.folder import RunFolder
from ..system.progress import Display
from .fitting import fitted_for_teachers, recipe_with
from .processes import start_processes
from .published import settled
from .teachers import check_teachers, on_device
from .train import load_teachers


def cache_advice(
    recipe: Recipe,
    *,
    teachers: Mapping[str, nn.Module | Answer] | None = None,
    verify: bool = False,
    display: Display | None = None,
) -> tuple[Path, int]:
    """Train the teachers that the recipe says to train, and store what all of them say of the training views.

    What is there already is kept; several processes may share the work.

    Args:
        teachers: own modules or functions by name, beside or in place of the recipe's.
        verify: check a complete cache instead: hash its contents, and ask the teachers again about some views.

    Returns:
        Folder of the cache and its size in bytes.

    Raises:
        CoadviseError: bad input, a full disk, a cache of something else, a damaged or stale one.
    """
    check_teachers_given(teachers or {})
    try:
        return _cache(recipe, teachers or {}, verify, display)
    except KeyboardInterrupt:
        raise Interrupted("stopped; everything written so far is kept, the same command goes on") from None
    except LoaderError as error:
        raise LoaderError(f"{error}; everything written so far is kept, the same command goes on") from error


def _cache(
    recipe: Recipe, teachers: Mapping[str, nn.Module | Answer], verify: bool, display: Display | None
) -> tuple[Path, int]:
    accelerator = start_processes(recipe.run, recipe.optim)
    display = display or Display(quiet=not accelerator.is_main_process)
    if not recipe.teachers and not teachers:
        raise RecipeError(f"recipe {recipe.name} has no teachers, so there is no advice to store")
    with accelerator.local_main_process_first():
        sources = open_for_training(recipe.data, [*recipe.teachers, *teachers], display.say_once)
    run = RunFolder.of(recipe)
    recipe = settled(recipe, run, accelerator, display, ["student", *(f"teachers.{name}" for name in teachers)])
    request = CacheRequest.of(recipe)
    # Before hours go into teachers; and a student's command would not go on with this one.
    (require_fitting if verify else require_possible)(request, sources[0])
    cached = recipe_with(recipe, "advice", source="cache")
    try:
        if not verify:
            kept = kept_weights(CacheRequest.of(cached))
            cached = fitted_for_teachers(cached, run, accelerator, teachers, kept, display)
        loaded = load_teachers(cached, run, sources, accelerator, teachers, display)
    except Interrupted as stopped:
        raise Interrupted(
            "stopped while a teacher was trained; everything is saved, the same command goes on"
        ) from stopped
    ready = on_device(loaded, recipe.data, recipe.run.fuse_teachers, accelerator, display)
    if verify:
        cache = AdviceCache(request, sources[0], loaded)
        require_undamaged(cache)
        for name, far in check_cache(cache, recipe.data, sources[0], ready, accelerator, VERIFIED).items():
            display.say(f"teacher {name}: mean total variation {far:.4f} from what it says now")
        layout = cache.layout
    else:
        check_teachers(ready, recipe.data, recipe.run, recipe.optim, sources[1], accelerator, display)
        layout = write_cache(request, sources[0], loaded, ready, accelerator, display)
    return request.folder, len(loaded) * layout.bytes
