"""Hashes that tell whether tensors, files and settings are still those of an earlier start."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def json_digest(content: Any) -> str:
    """Hash of settings, or of anything else that JSON can hold; the order of keys does not count."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Hash of a file's content.

    A model's file holds its recipe and the paths in it: a training repeated in another folder has another hash.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def digest(tensors: Iterable[Any]) -> str:
    """Hash of the contents of tensors, to tell whether they are still those of an earlier start."""
    import numpy as np  # here, since recipes need `json_digest` alone
    import torch

    total = hashlib.sha256()
    for tensor in tensors:
        if not isinstance(tensor, torch.Tensor | np.ndarray):  # a module's extra state
            total.update(repr(tensor).encode())
            continue
        values = tensor.detach().cpu().contiguous() if isinstance(tensor, torch.Tensor) else torch.from_numpy(tensor)
        total.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]
