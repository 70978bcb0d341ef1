"""Atomic writing of safetensors files, with their metadata in a fixed order."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import WriteError
from ..system.files import atomic_file


def save_safetensors_atomic(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file so that under `path` there is, at any moment, the old file or all of the new one.

    Tensors that share memory are written in full each. The same content in the same order makes the
    same bytes.

    Args:
        path: the folder must exist.
        tensors: any device; stored with their own types.
        metadata: strings only.

    Raises:
        WriteError: if the file cannot be written (the old one is kept).
    """
    path = Path(path)
    # safetensors refuses views of one storage; a clone of each makes tied weights plain.
    plain = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
    try:
        with atomic_file(path) as temporary:
            save_file(plain, temporary, metadata=dict(metadata or {}))
            if metadata and len(metadata) > 1:
                _order_metadata(temporary, list(metadata))
    except (OSError, SafetensorError) as error:
        hint = "check the folder and free space"
        raise WriteError(f"checkpoint {path} cannot be written ({error}): {hint}") from error


def _order_metadata(path: Path, keys: Sequence[str]) -> None:
    """Put a file's metadata in the given order.

    safetensors writes them in a random one, and by the hash of their files teachers are told apart.
    """
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = {key: header["__metadata__"][key] for key in keys}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= size, "a longer header would run into the weights"
        file.seek(8)
        file.write(text.ljust(size))
