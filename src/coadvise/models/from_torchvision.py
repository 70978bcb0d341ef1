"""torchvision's classifiers with their published weights, which say how they see images and which classes they know."""

from __future__ import annotations

import difflib
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError, one_line
from ..system.hub import PATIENCE
from .elsewhere import Found


def open_torchvision(place: str) -> Found:
    """A classifier by its name, optionally with the tag of its weights: `resnet50`, `resnet50.IMAGENET1K_V1`.

    Raises:
        ModelError: unknown name or tag, or weights that cannot be had.
    """
    import torchvision.models as zoo

    name, _, tag = place.partition(".")
    known = zoo.list_models(module=zoo)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "torchvision.models.list_models() lists the names"
        raise ModelError(f"torchvision has no classifier {name!r}: {hint}")
    choices = zoo.get_model_weights(name)
    if tag and tag not in choices.__members__:
        raise ModelError(f"torchvision:{name} has no weights {tag!r}; choose among {', '.join(choices.__members__)}")
    weights: Any = choices[tag] if tag else choices.DEFAULT
    _require_reachable(place, weights.url)
    try:
        with _weights_only():
            model = zoo.get_model(name, weights=weights, progress=False)
    except Exception as error:  # of the network, of a file that is cut off, of what it holds
        raise ModelError(
            f"the published weights of torchvision:{place} cannot be loaded ({one_line(error)[:300]}); "
            f"remove {_file(weights.url)}, and connect to the internet"
        ) from error
    seen = weights.transforms()
    side = seen.crop_size[0] if isinstance(seen.crop_size, (list, tuple)) else seen.crop_size
    classes = tuple(weights.meta["categories"])
    return Found(model.eval(), tuple(seen.mean), tuple(seen.std), (side, side), classes)


def _file(url: str) -> Path:
    """Where torchvision keeps what it has downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _require_reachable(place: str, url: str) -> None:
    """Refuse weights that are not here and cannot be had: torchvision waits without an end."""
    if _file(url).is_file():
        return
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE).close()
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the published weights of torchvision:{place} cannot be had ({one_line(error)}): connect to the internet, "
            f"or put {url} to {_file(url)}"
        ) from error


@contextmanager
def _weights_only() -> Iterator[None]:
    """torchvision unpickles what it downloads; this is PyTorch's way to have it read as weights alone."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
