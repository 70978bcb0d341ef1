"""What is written beside a model, where timm looks for it: the images that it was trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from ..recipe.schema import Data
from .stated import recorded_sizes, takes
from .students import classifier_of

# What timm knows of the weights that it publishes, and what is not true of others.
_OF_OTHER_WEIGHTS = (
    "test_input_size", "test_pool_size", "test_crop_pct", "min_input_size", "pool_size", "tag", "url", "file",
    "state_dict", "hf_hub_id", "hf_hub_filename", "source", "license", "origin_url", "paper_name", "paper_ids", "notes",
    "label_names", "label_descriptions", "label_offset", "custom_load",
)  # fmt: skip


def describe(model: nn.Module, data: Data) -> None:
    """Let `timm.data.resolve_model_data_config` say how a model was trained to see images.

    A model that is made for another size than it was trained at, and takes no other, keeps that.
    """
    target = classifier_of(model)
    inside = getattr(target, "model", None)
    places = [target, inside] if isinstance(inside, nn.Module) and _cfg(inside) else [target]
    known = _cfg(places[-1])
    size = (data.image_size, data.image_size)
    cfg: dict[str, Any] = {name: value for name, value in known.items() if name not in _OF_OTHER_WEIGHTS} | {
        "mean": data.mean,
        "std": data.std,
        "interpolation": data.interpolation,
        "crop_pct": crop_share(data),
        "crop_mode": "center",
    }
    if known.get("input_size") and (recorded_sizes(places[-1])[:1] in ([], [size]) or takes(places[-1], size)):
        cfg["input_size"] = (3, *size)
    for place in places:
        place.pretrained_cfg = place.default_cfg = cfg  # type: ignore[assignment]


def _cfg(model: nn.Module) -> Mapping[str, Any]:
    return getattr(model, "pretrained_cfg", None) or {}


def crop_share(data: Data) -> float:
    """The part of the resized image that evaluation keeps, so that timm resizes to the very pixels that we do.

    timm rounds image_size / share down, and `data.eval_crop` is rounded to the nearest pixel: 96 / 0.875 is 109 there,
    110 here.
    """
    resized = round(data.image_size / data.eval_crop)
    if math.floor(data.image_size / data.eval_crop) == resized:
        return data.eval_crop
    share = data.image_size / resized
    return share if math.floor(data.image_size / share) == resized else math.nextafter(share, 0)
