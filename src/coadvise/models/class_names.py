"""Which classes of two lists are the same, by their names.

Names may differ in capitals, spaces, hyphens and underscores. ImageNet's classes go by several: their WordNet id
(`n01440764`), all of their words (`tench, Tinca tinca`), or one of them (`tench`), where no other class has it, too, as
two have `crane`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache

from timm.data import ImageNetInfo, infer_imagenet_subset

from .timm_names import published_cfg

# Part of the names that ImageNet's own order explains in a list of its 1,000 classes, whoever wrote it.
_AGREEING = 0.9


def places_of(own: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """For each of the wanted classes, which of one's own it is; None where it is none of them, or not one alone.

    What is the same to the letter comes first, then what is written otherwise, then ImageNet's other names.
    """
    found: list[int | None] = [None] * len(wanted)
    for keys in (list, _written, _wordnet_ids):
        taken = set(found)
        places = {key: place for key, place in _single(keys(own)).items() if place not in taken}
        for key, target in _single(keys(wanted)).items():
            if found[target] is None:
                found[target] = places.get(key)
    return found


def imagenet_classes(model: str) -> tuple[str, ...] | None:
    """Names of the classes that timm's weights of a model are for: words for ImageNet's 1,000, WordNet ids for larger
    sets; None where they are for others."""
    cfg = published_cfg(model)
    subset = None if cfg is None else infer_imagenet_subset(cfg.to_dict())
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    return tuple(info.label_descriptions() if subset == "imagenet-1k" else info.label_names())


def _single(keys: Sequence[str | None]) -> dict[str, int]:
    """Places by key, of the keys that come once."""
    counts = Counter(keys)
    return {key: place for place, key in enumerate(keys) if key is not None and counts[key] == 1}


def _written(names: Sequence[str]) -> list[str]:
    return [re.sub(r"[\s_-]+", " ", name.casefold()).strip() for name in names]


def _wordnet_ids(names: Sequence[str]) -> Sequence[str | None]:
    ids, by_name = _imagenet()
    found = [by_name.get(name) for name in _written(names)]
    agreeing = sum(a == b for a, b in zip(found, ids, strict=False))
    return ids if len(names) == len(ids) and agreeing >= _AGREEING * len(ids) else found


@cache
def _imagenet() -> tuple[Sequence[str], Mapping[str, str]]:
    """WordNet ids of ImageNet's 1,000 classes in its order, and the id of each name that one class alone has."""
    info = ImageNetInfo("imagenet-1k")
    ids = info.label_names()
    texts = list(info.label_descriptions())
    # All words of a class come before one word of another: `missile` is no `projectile, missile`.
    words = [set(_written(text.split(","))) - set(_written(texts)) for text in texts]
    names = [{*_written([key, text]), *group} for key, text, group in zip(ids, texts, words, strict=True)]
    counts = Counter(name for group in names for name in group)
    return ids, {name: key for key, group in zip(ids, names, strict=True) for name in group if counts[name] == 1}
