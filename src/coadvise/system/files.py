"""Writing files so that a reader, or a crash at any instant, never meets half of one."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from ..errors import RunError


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a whole file or nothing: a temporary file in the same folder, flushed to disk, then renamed.

    Raises:
        RunError: the folder cannot be written to, or the disk is full.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise RunError(f"cannot write to {path.parent}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, indented, as people also read it."""
    write_atomic(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        RunError: the file is missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{path} is no valid JSON: {error}") from error


def cache_folder() -> Path:
    """Folder for what can be made again: `$XDG_CACHE_HOME/coadvise` or `~/.cache/coadvise`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coadvise"
