"""Atomic writing of safetensors files, with their metadata in a fixed order."""

import contextlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CheckpointError


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
        CheckpointError: if the file cannot be written (the old one is kept).
    """
    path = Path(path)
    # safetensors refuses views of one storage; a clone of each makes tied weights plain.
    plain = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        save_file(plain, temporary, metadata=dict(metadata or {}))
        if metadata and len(metadata) > 1:
            _order_metadata(temporary, list(metadata))
        _sync(temporary)
        os.replace(temporary, path)
        if os.name != "nt":  # Windows cannot open a folder, and needs no more than the rename
            _sync(path.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be written ({error}): check the folder and free space"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # already renamed, or never made
            temporary.unlink()


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


def _sync(path: Path) -> None:
    """Force a file's content, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
