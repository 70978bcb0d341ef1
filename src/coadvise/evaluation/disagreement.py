"""Figure 2: single images and the predictions of several models for them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

from ..checkpoints.trained import TrainedModel
from ..data.decode import decode
from ..data.sources.opening import open_sources
from ..data.sources.subsets import Subset
from .inference import class_probabilities, for_several


def disagreements(models: Mapping[str, TrainedModel], count: int = 6) -> dict[str, Any]:
    """The validation images on which the first two models differ most, with the predictions of all models.

    They are chosen by those two, the teachers, alone (largest Jensen-Shannon divergence among the images on which
    their top classes differ), so that they flatter no student.

    Args:
        models: by the names they are shown under; all of one data set.

    Returns:
        `classes` and `images`, each with `png` (base64), `index`, `label` and `outputs`: probabilities by model.
    """
    first, second, *_ = models
    source = open_sources(models[first].data)[1]
    at = for_several(source, models[first].data)
    joined = {label: class_probabilities(trained, Subset(source, at)) for label, trained in models.items()}
    p, q = joined[first], joined[second]
    middle = (p + q) / 2
    spread = ((p * (p / middle).log()).nan_to_num() + (q * (q / middle).log()).nan_to_num()).sum(dim=1)
    spread[p.argmax(dim=1) == q.argmax(dim=1)] = -1.0
    chosen = [int(i) for i in spread.argsort(descending=True)[:count] if spread[i] > 0]
    images = []
    for row in chosen:
        outputs = {label: [round(v, 4) for v in rows[row].tolist()] for label, rows in joined.items()}
        i = int(at[row])
        images.append({"png": _png(source, i), "index": i, "label": int(source.labels[i]), "outputs": outputs})
    return {"classes": list(source.class_names), "images": images}


def _png(source: Any, index: int) -> str:
    buffer = io.BytesIO()
    decode(source.read(index), source.describe(index)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
