"""Which model a file of weights belongs to, by its header or its name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from timm.models import is_model

from ..errors import CheckpointError
from .model_file import Header, read_header


class NamedFile(NamedTuple):
    """A file of weights, and timm's or our name of its model.

    Attributes:
        header: what a training of ours recorded; None for files of others.
    """

    model: str
    path: Path
    header: Header | None


def named_file(text: str) -> NamedFile:
    """What `MODEL=FILE`, `FILE` or the folder of a run means.

    A file of others tells its model by its name: `tf_efficientnet_lite0.in1k.safetensors`.

    Raises:
        CheckpointError: there is no such file, or its model is not known.
    """
    model, equals, rest = text.partition("=")
    if not equals or os.path.exists(text):
        model, rest = "", text
    path = Path(rest)
    if path.is_dir() and (path / "best.safetensors").is_file():
        path = path / "best.safetensors"
    header = read_header(path)
    if header is not None:
        return NamedFile(header.recipe.student.model, path, header)
    # File names begin with the model's: `resnet18.a1_in1k-0d5a.pth`, `resnet18-0d5a.pth`.
    word = path.name.split(".")[0]
    for known in [model] if model else [word, word.split("-")[0]]:
        if is_model(known):
            return NamedFile(known, path, None)
    if model:
        raise CheckpointError(f"{text}: no model is called '{model}'; `coadvise models {model}` lists those like it")
    raise CheckpointError(
        f"{path} does not say which model it belongs to, and its name is none of timm's; write MODEL={path}, "
        f"for example resnet18={path}"
    )
