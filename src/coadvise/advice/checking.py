"""Check of stored advice: does the cache still say what the teachers say?

A few views are made again and put to the teachers before every training, more of them by `coadvise cache --verify`.
"""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from ..data.loader import TrainLoader
from ..data.samples import Keys
from ..data.sources.base import ImageSource
from ..data.views.draws import Stream
from ..errors import RunError
from ..models.teachers import Teachers
from ..recipe.schema import Data
from .cache import AdviceCache
from .identity import differences, versions

# Mean total variation between stored and fresh advice that counts as rounding (of half precision and other devices):
# a part of what lies between the advice on different images, within limits.
TOLERANCE, LEAST, MOST = 0.3, 0.01, 0.05
# Views that training checks at its start, and `coadvise cache --verify`.
CHECKED, VERIFIED = 32, 512


@torch.no_grad()
def check_cache(
    cache: AdviceCache,
    data: Data,
    source: ImageSource,
    teachers: Teachers,
    accelerator: Accelerator,
    images: int = CHECKED,
) -> dict[str, float]:
    """Recompute the advice on a sample of views and compare it with what is stored.

    Returns:
        Mean total variation between stored and fresh distributions, by teacher, in [0, 1].

    Raises:
        RunError: the cache says something else than the teachers.
    """
    generator = np.random.default_rng(np.random.SeedSequence((Stream.SUBSET, cache.layout.records, images)))
    records = np.sort(generator.choice(cache.layout.records, min(images, cache.layout.records), replace=False))
    view, position = np.divmod(records, cache.layout.images)
    data = data.model_copy(update={"workers": 0})
    loader = TrainLoader(source, data, 1, device=accelerator.device, keep=False)  # a few images, not the whole set
    keys = []
    for v in np.unique(view).tolist():
        whole, places = loader.keys(v, 0, loader.size), position[view == v]
        keys.append(Keys(v, places, whole.index[places], whole.repeat[places]))
    far: dict[str, list[Tensor]] = {name: [] for name in cache.names}
    kept: dict[str, list[Tensor]] = {name: [] for name in cache.names}
    for batch in loader.batches(keys):
        with accelerator.autocast():
            fresh = teachers(batch.images)
        stored = cache.read(batch.view, batch.position, accelerator.device)
        for name in cache.names:
            record = cache.layout.record
            # The fresh advice is cut in the same way.
            cut = record.decode(record.encode(fresh[name]), cache.profile(name, accelerator.device))
            now, then = cut.softmax(dim=1), stored[name].softmax(dim=1)
            far[name].append(_variation(now, then))
            kept[name].append(then)
    loader.close()
    means = {name: float(torch.cat(values).mean()) for name, values in far.items()}
    for name, value in means.items():
        then = torch.cat(kept[name])
        usual = float(_variation(then, then.roll(1, dims=0)).mean())
        if value > min(max(TOLERANCE * usual, LEAST), MOST):
            changes = "; ".join(differences(cache.header["versions"], versions()))
            reason = f" (versions changed since: {changes})" if changes else ""
            raise RunError(
                f"{cache.folder} is stale: teacher '{name}' now says something else of the same views, by a mean "
                f"total variation of {value:.3f}{reason}; write a new cache with advice.folder=FOLDER, or train with "
                "advice.source=live"
            )
    return means


def _variation(p: Tensor, q: Tensor) -> Tensor:
    """Total variation between distributions (b, k), of each image."""
    return (p - q).abs().sum(dim=1) / 2
