"""Profiles of the teachers in an advice cache: how each spreads what lies outside the logits that are kept.

Made from the beginning of the first view, in whole batches and summed on the CPU: the same bytes whoever makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from .advice_cache import BATCH, Layout, profile_path
from .advice_format import ProfileSums
from .data.base import ImageSource
from .data.loader import TrainLoader
from .errors import RunError
from .files import write_atomic
from .progress import Display
from .recipe import Recipe
from .teachers import Teachers


def write_profiles(
    folder: Path,
    recipe: Recipe,
    source: ImageSource,
    advisers: Teachers,
    names: Sequence[str],
    layout: Layout,
    *,
    accelerator: Accelerator,
    display: Display,
) -> None:
    """Write the profiles of those of some teachers that have none yet; nothing where records have no outside.

    Raises:
        RunError: logits that are not finite.
    """
    names = [name for name in names if layout.record.profile_bytes and not profile_path(folder, name).is_file()]
    if not names:
        return
    loader = TrainLoader(source, recipe.data, 1, device=accelerator.device)
    sums = {name: ProfileSums(layout.record.classes) for name in names}
    starts = range(0, layout.profile_images, BATCH)
    keys = (loader.keys(0, at, min(at + BATCH, layout.profile_images)) for at in starts)
    with display.bar("profiles", layout.profile_images) as bar:
        for batch in loader.batches(keys):
            with accelerator.autocast():
                advice = advisers.forward(batch.images, names)
            for name in names:
                sums[name].add(finite(name, advice[name]))
            bar.advance(len(batch.images))
    loader.close()
    for name in names:
        write_atomic(profile_path(folder, name), sums[name].profile().numpy().tobytes())


def finite(name: str, logits: Tensor) -> Tensor:
    """A teacher's logits.

    Raises:
        RunError: they are not finite.
    """
    if not torch.isfinite(logits).all():
        raise RunError(f"teacher '{name}' gives logits that are not finite; its weights are broken")
    return logits
