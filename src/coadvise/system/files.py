"""Writing files so that no reader ever sees half of one, whenever the process crashes."""

from __future__ import annotations

import codecs
import contextlib
import glob
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import RunError, WriteError


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """An empty temporary file to write; it becomes `path` when the block ends, and is removed when the block raises.

    Under `path` there is, at any moment, the old file or all of the new one. The temporary file lies in the same
    folder, which must exist. The new file is flushed to disk, name and content, and has the mode of any new file.

    Raises:
        OSError: the folder is missing or cannot be written to, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    temporary.touch(exist_ok=False)
    try:
        mode = temporary.stat().st_mode
        yield temporary
        with contextlib.suppress(PermissionError):  # file systems that know no modes
            os.chmod(temporary, mode)  # a writer that puts another file in its place (safetensors, ld) chose its own
        _sync(temporary)
        os.replace(temporary, path)
        if os.name != "nt":  # Windows cannot open a folder, and needs no more than the rename
            with contextlib.suppress(PermissionError):  # a folder that may be written to and not read
                _sync(path.parent)
    finally:
        with contextlib.suppress(OSError):  # already renamed
            temporary.unlink()


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty temporary folder to fill; it becomes `path` when the block ends, and is removed when the block raises.

    Raises:
        OSError: `path` is there and not an empty folder, its folder is missing or cannot be written to, or the disk is
            full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        for place in (*temporary.rglob("*"), temporary):
            if not place.is_dir() or os.name != "nt":
                _sync(place)
        os.replace(temporary, path)
        if os.name != "nt":
            with contextlib.suppress(PermissionError):
                _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # gone, when it was renamed


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Delete what killed processes left of `atomic_file` with these names; no process may be writing them."""
    for name in names:
        for path in folder.glob(f".{glob.escape(name)}.*.tmp"):
            with contextlib.suppress(OSError):
                path.unlink()


def _sync(path: Path) -> None:
    """Force a file's content, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows flushes only what is open for writing
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a whole file or nothing.

    Names of files that are not UTF-8 are escaped: in JSON, `\\udce9` reads back as what it was.

    Raises:
        WriteError: the folder cannot be written to, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            whole = content.encode(errors="backslashreplace") if isinstance(content, str) else content
            temporary.write_bytes(whole)
    except OSError as error:
        raise WriteError(f"cannot write to {path}: {error.strerror or error}") from error


def require_absent(*paths: Path) -> None:
    """Refuse to begin work whose files are there already, or have no folder.

    Raises:
        WriteError: names all such files, or the first that has no folder.
    """
    if taken := [str(path) for path in paths if os.path.lexists(path)]:
        exist, them = ("exists", "it") if len(taken) == 1 else ("exist", "them")
        raise WriteError(
            f"{' and '.join(taken)} {exist}, and nothing is overwritten; remove {them}, or give another name"
        )
    for path in paths:
        if not path.parent.is_dir():
            there = f"{path.parent} is no folder" if path.parent.exists() else f"there is no folder {path.parent}"
            what = "give another name" if path.parent.exists() else "make it, or give another"
            raise WriteError(f"{path} cannot be written: {there}; {what}")


def write_new(path: Path, content: str | bytes) -> None:
    """Write a file that is not there yet, whole or not at all; never over another one.

    Raises:
        WriteError: there is such a file, the folder is missing or cannot be written to, or the disk is full.
    """
    try:
        with path.open("xb") as file:
            try:
                file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
                file.flush()
            except OSError:
                path.unlink(missing_ok=True)
                raise
    except FileExistsError as error:
        raise WriteError(f"{path} exists, and nothing is overwritten; remove it, or give another name") from error
    except OSError as error:
        raise WriteError(f"cannot write to {path}: {error.strerror or error}") from error


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, indented, as people also read it."""
    write_atomic(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, way_on: str = "restore it") -> Any:
    """Read JSON.

    Args:
        way_on: what to do about a file that is none, for the message.

    Raises:
        RunError: the file is missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # the latter of thousands of brackets
        raise RunError(f"{path} is no valid JSON: {error}; {way_on}") from error


def read_json_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The JSON objects of a file, one a line, and how many lines were none: a killed run leaves half a line."""
    objects: list[dict[str, Any]] = []
    bad = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            objects.append(value)
        elif line.strip():
            bad += 1
    return objects, bad


def text_of(content: bytes) -> str:
    """Text of a file that a person made: UTF-8, with a byte-order mark or without, or UTF-16 with one.

    Raises:
        UnicodeDecodeError: it is neither.
    """
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if marked else "utf-8-sig")


def lines_of(path: Path) -> list[str]:
    """The lines of a file that a person made, without white space around them; empty ones are left out.

    Raises:
        OSError, UnicodeDecodeError: the file cannot be read, or is no text.
    """
    return [stripped for line in text_of(path.read_bytes()).splitlines() if (stripped := line.strip())]


def cache_folder() -> Path:
    """Folder for what can be made again: `$XDG_CACHE_HOME/coadvise` or `~/.cache/coadvise`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coadvise"
