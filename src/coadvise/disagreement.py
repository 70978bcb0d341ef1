"""Figure 2: single images, and what several models say of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .data.augment import eval_pixels
from .data.decode import decode
from .data.finish import Finish
from .data.sources import open_sources
from .inference import TrainedModel, class_probabilities
from .likeness import attention_maps
from .models.cit import CiT


def disagreements(models: Mapping[str, TrainedModel], count: int = 6) -> dict[str, Any]:
    """The validation images on which the first two models differ most, and what all of them say of these.

    They are chosen by those two, the teachers, alone (largest Jensen-Shannon divergence among the images on which
    their top classes differ), so that they flatter no student.

    Args:
        models: by the names they are shown under; all of one data set.

    Returns:
        `classes` and `images`, each with `png` (base64), `index`, `label` and `outputs`: probabilities by model.
    """
    first, second, *_ = models
    source = open_sources(models[first].recipe.data)[1]
    joined = {label: class_probabilities(trained, source) for label, trained in models.items()}
    p, q = joined[first], joined[second]
    middle = (p + q) / 2
    spread = ((p * (p / middle).log()).nan_to_num() + (q * (q / middle).log()).nan_to_num()).sum(dim=1)
    spread[p.argmax(dim=1) == q.argmax(dim=1)] = -1.0
    chosen = [int(i) for i in spread.argsort(descending=True)[:count] if spread[i] > 0]
    images = [
        {
            "png": _png(source, i),
            "index": i,
            "label": int(source.labels[i]),
            "outputs": {label: [round(v, 4) for v in rows[i].tolist()] for label, rows in joined.items()},
        }
        for i in chosen
    ]
    return {"classes": list(source.class_names), "images": images}


def attention_on(trained: TrainedModel, indices: Sequence[int]) -> dict[str, Any]:
    """Where each token of a CiT looks in some validation images: `images`, each with `png`, `name` and `maps`."""
    assert isinstance(trained.model, CiT)
    source = open_sources(trained.recipe.data)[1]
    transform, device = eval_pixels(trained.recipe.data), next(trained.model.parameters()).device
    pixels = [transform(decode(source.read(i), source.describe(i))) for i in indices]
    finish = Finish(trained.recipe.data, len(trained.classes), device)
    maps = attention_maps(trained.model, finish.images(torch.from_numpy(np.stack(pixels))))
    images = []
    for place, index in enumerate(indices):
        shown = {token: [[round(v, 5) for v in row] for row in grid[place].tolist()] for token, grid in maps.items()}
        name = source.class_names[int(source.labels[index])]
        images.append({"png": _png(source, index), "name": name, "maps": shown})
    return {"images": images}


def _png(source: Any, index: int) -> str:
    buffer = io.BytesIO()
    decode(source.read(index), source.describe(index)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
