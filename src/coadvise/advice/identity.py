"""Identity of a cache: the facts about data and teachers that decide its contents, and how two sets of facts differ."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ..data.kept import KeptPixels
from ..data.sources.base import ImageSource, encoded_bytes, label_arrays
from ..data.states import image_bytes
from ..data.views.draws import Stream
from ..errors import DataError
from ..models.answers import kind_of
from ..models.teachers import FrozenTeacher
from ..recipe.address import address
from ..recipe.schema import Data, flat
from ..system.digests import digest, json_digest
from .request import CacheRequest

# Images whose contents are part of the fingerprint.
SAMPLED = 64
VERSIONED = ("torch", "torchvision", "timm", "pillow", "numpy")


# Settings of the augmentation that do nothing under a policy.
_UNUSED = {
    "deit": ("pad",),
    "light": ("scale", "ratio", "randaugment", "color_jitter"),
    "none": ("scale", "ratio", "randaugment", "color_jitter", "pad", "hflip", "erasing"),
}


def data_facts(data: Data, source: ImageSource) -> dict[str, Any]:
    """Facts that decide the pixels the teachers see: settings by dotted name, and a digest of the data set."""
    settings = flat(data.augment.model_dump(mode="json"), "augmentation.")
    for name in ("label_smoothing", *_UNUSED[data.augment.policy]):
        settings.pop(f"augmentation.{name}")
    facts = {
        "augmentation seed": data.seed,
        "image_size": data.image_size,
        "eval_crop": data.eval_crop if data.augment.policy == "none" else None,
        "interpolation": data.interpolation,
        "mean": list(data.mean),
        "std": list(data.std),
        "decoder": "pillow, smaller where possible" if data.shrink_on_load else "pillow",
        "resizer": data.resizer if data.augment.policy == "deit" else None,
        "images": len(source),
        "classes": list(source.class_names),
        "labels": digest(label_arrays(source)),
        **_image_digests(source),
    }
    if data.balance == "sampling":  # which samples a view has; caches of earlier versions say nothing of it
        facts["data.balance"] = data.balance
    return settings | facts


# Facts that decide what is done with a view's pixels, and not what they are.
_AFTERWARDS = ("augmentation.mix", "augmentation.cutmix", "augmentation.erasing", "augmentation.repeats")


def kept_pixels(data: Data, source: ImageSource) -> KeptPixels | None:
    """Where the pixels of recurring views are kept, if `data.views_folder` says so; None where nothing can be.

    Every data set, setting and version of a library that changes them has a folder of its own. Of images that were
    replaced by others of another length, what was kept does not count.
    """
    augment = data.augment
    if data.views_folder is None or data.views is None or augment.policy != "deit":
        return None
    if augment.repeats > 1 or data.balance == "sampling":  # an image has several samples in a view
        return None
    facts = {name: value for name, value in data_facts(data, source).items() if not name.startswith(_AFTERWARDS)}
    facts = {name: value for name, value in facts.items() if name not in ("mean", "std", "classes", "labels")}
    folder = Path(data.views_folder) / f"s{data.seed}.{json_digest([facts, versions()])[:16]}"
    return KeptPixels(folder, data.views, len(source), data.image_size, image_bytes(source))


def open_kept(data: Data, source: ImageSource, say: Callable[[str], None]) -> None:
    """Make the files in which pixels of recurring views are kept, and say where `data.views_folder` keeps none.

    Raises:
        DataError: they cannot be made there.
    """
    kept = kept_pixels(data, source)
    if kept is not None:
        kept.open()
    elif data.views_folder is not None:
        say(
            "note: data.views_folder keeps nothing; it goes with data.views=N and data.augment.policy=deit, without "
            "data.augment.repeats and data.balance=sampling"
        )


def images_digest(source: ImageSource) -> str:
    """Hash that tells whether two sources hold the same images in the same order, by names, labels and a sample."""
    facts = {"images": len(source), "classes": list(source.class_names), "labels": digest(label_arrays(source))}
    return json_digest(facts | _image_digests(source))


_DIGESTS: WeakKeyDictionary[ImageSource, dict[str, str]] = WeakKeyDictionary()


def _image_digests(source: ImageSource) -> dict[str, str]:
    """Hashes of all file names, and of the bytes of a sample of images; takes seconds for a large data set."""
    if source not in _DIGESTS:
        names, contents = hashlib.sha256(), hashlib.sha256()
        for index in range(len(source)):
            last = source.describe(index).replace("\\", "/").rpartition("/")[2]
            names.update(last.encode(errors="surrogateescape") + b"\0")
        generator = np.random.default_rng(np.random.SeedSequence((Stream.SUBSET, len(source))))
        for index in sorted(generator.choice(len(source), min(SAMPLED, len(source)), replace=False).tolist()):
            try:
                raw = encoded_bytes(source, index)
            except DataError:  # `data.on_error` says what is to be done with it
                raw = b"unreadable"
            contents.update(str(len(raw)).encode() + b"\0" + raw)
        _DIGESTS[source] = {"image names": names.hexdigest()[:16], "image contents": contents.hexdigest()[:16]}
    return _DIGESTS[source]


def teacher_facts(request: CacheRequest, name: str, teacher: FrozenTeacher, classes: int) -> dict[str, Any]:
    """Facts that decide a teacher's advice on given pixels, and how it is stored."""
    settings = request.teachers.get(name)
    return {
        "model": _model(settings.model) if settings else kind_of(teacher.model),
        "weights": digest(teacher.model.state_dict().values()),
        "image_size": list(teacher.image_size) if isinstance(teacher.image_size, tuple) else teacher.image_size,
        "mean": None if teacher.mean is None else list(teacher.mean),
        "std": None if teacher.std is None else list(teacher.std),
        "index map": None if teacher.classes is None else teacher.classes.tolist(),
        "classes": classes,
        "top_k": request.record(classes).top,
        "train": settings.train.content() if settings and settings.train else None,
        # An earlier version took the mean of a distilled DeiT's two heads, also where one of them had been advised.
        **({"answers": "by its class head"} if getattr(teacher.model, "own_token", None) else {}),
    }


def _model(name: str) -> str:
    """A model's name; of another place only the kind, since a file that is moved stays what its digest says it is."""
    found = address(name)
    return name if found is None else found[0]


def versions() -> dict[str, str]:
    """Versions of the libraries that make the views: others may make slightly different ones."""
    return {name: importlib.metadata.version(name) for name in VERSIONED}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for every fact that differs, such as `augmentation.mixup 0.8 → 0.2`."""
    return [
        f"{key} {_short(before.get(key))} → {_short(now.get(key))}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]


def _short(value: Any) -> str:
    try:
        text = str(value)
    except RecursionError:  # a damaged file: brackets in brackets
        text = type(value).__name__
    return text if len(text) <= 40 else text[:37] + "…"
