"""Which model a file of weights belongs to, by its header or its name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from timm.models import is_model

from ..errors import CheckpointError
from ..models.timm_names import current_name, knows_weights
from .model_file import Header, read_header


class NamedFile(NamedTuple):
    """A file of weights, and timm's or our name of its model.

    Attributes:
        model: with the tag of its weights where the file's name has one that timm knows.
        header: what a training of ours recorded; None for files of others.
    """

    model: str
    path: Path
    header: Header | None


def named_file(text: str) -> NamedFile:
    """What `MODEL=FILE`, `FILE` or the folder of a run means.

    A file of others tells its model by its name, and by its tag which of timm's weights it has, where timm knows that:
    `tf_efficientnet_lite0.in1k.safetensors`.

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
    names = list(_names_in(path.name))
    if model:  # of which the file's name may say the weights
        names = [*(name for name in names if name.startswith(f"{model}.")), model]
    for known in names:
        if _is_known(known):
            return NamedFile(current_name(known), path, None)
    if model and is_model(model):
        plain, _, tag = model.partition(".")
        raise CheckpointError(
            f"{text}: timm knows no weights '{tag}' of {plain}; write {plain}={path}, or a name that "
            f"timm.list_pretrained('{plain}') lists in place of {model}"
        )
    if model:
        raise CheckpointError(f"{text}: no model is called '{model}'; `coadvise models {model}` lists those like it")
    raise CheckpointError(
        f"{path} does not say which model it belongs to, and its name is none of timm's; write MODEL={path}, "
        f"for example resnet18={path}"
    )


def _names_in(file: str) -> Iterator[str]:
    """Names of models with which that of a file may begin, with a tag first, since weights differ by it in what they
    take for normal: `resnet18.a1_in1k` and `resnet18` of `resnet18.a1_in1k-0d5a.pth`."""
    parts = file.split(".")
    for count in range(len(parts), 0, -1):
        word = ".".join(parts[:count])
        yield from (word, word.split("-")[0])


def _is_known(name: str) -> bool:
    """Whether it is a model's, and timm knows the tag if there is one."""
    return is_model(name) and ("." not in name or knows_weights(name))
