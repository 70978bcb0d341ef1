"""Teacher profiles in an advice cache: how a teacher spreads the probability outside the logits that are kept.

Made from the beginning of the first view, in whole batches and summed on the CPU: the same bytes whoever makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from jaxtyping import Float, Float16
from torch import Tensor

from ..data.loader import TrainLoader
from ..data.sources.base import ImageSource
from ..errors import RunError
from ..models.teachers import Teachers
from ..recipe.schema import Data
from ..system.files import write_atomic
from ..system.progress import Display
from .layout import BATCH, Layout, profile_path
from .record import _half


def write_profiles(
    folder: Path,
    data: Data,
    source: ImageSource,
    teachers: Teachers,
    names: Sequence[str],
    layout: Layout,
    *,
    accelerator: Accelerator,
    display: Display,
) -> None:
    """Write the missing profiles of the named teachers; nothing where records keep all logits.

    Raises:
        RunError: logits that are not finite.
    """
    names = [name for name in names if layout.record.profile_bytes and not profile_path(folder, name).is_file()]
    if not names:
        return
    loader = TrainLoader(source, data, 1, device=accelerator.device)
    sums = {name: ProfileSums(layout.record.classes) for name in names}
    starts = range(0, layout.profile_images, BATCH)
    keys = (loader.keys(0, at, min(at + BATCH, layout.profile_images)) for at in starts)
    with display.bar("profiles", layout.profile_images) as bar:
        for batch in loader.batches(keys):
            with accelerator.autocast():
                advice = teachers.forward(batch.images, names)
            for name in names:
                sums[name].add(finite(name, advice[name]))
            bar.advance(len(batch.images))
    loader.close()
    for name in names:
        write_atomic(profile_path(folder, name), sums[name].profile().numpy().tobytes())


def finite(name: str, logits: Tensor) -> Tensor:
    """Pass a teacher's logits on if they are finite.

    Raises:
        RunError: they are not finite.
    """
    if not torch.isfinite(logits).all():
        raise RunError(f"teacher '{name}' gives logits that are not finite; its weights are broken")
    return logits


class ProfileSums:
    """Sums of a teacher's logits by its first class.

    Args:
        classes: number of classes K.
    """

    def __init__(self, classes: int) -> None:
        # On the CPU and in float64: the same bytes on every run.
        self._sums = torch.zeros(classes, classes, dtype=torch.float64)
        self._counts = torch.zeros(classes, dtype=torch.float64)

    def add(self, logits: Float[Tensor, "b k"]) -> None:
        """Add the logits of some views."""
        z = logits.detach().cpu().double()
        first = z.argmax(dim=1)
        self._sums.index_add_(0, first, z - z.max(dim=1, keepdim=True).values)
        self._counts += torch.bincount(first, minlength=len(self._counts))

    def profile(self) -> Float16[Tensor, "k k"]:
        """Mean logits by first class; one average view is added to each, so that a rare class has some, too."""
        average = self._sums.sum(dim=0) / self._counts.sum().clamp_min(1)
        return _half((self._sums + average) / (self._counts[:, None] + 1))
