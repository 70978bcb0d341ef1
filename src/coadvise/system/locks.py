"""Locks on files. The system frees them when their process ends, for whatever reason."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ..errors import RunError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def lock_byte(handle: int, byte: int, wait: bool = False) -> bool:
    """Lock one byte of an open file for this process; False where another process holds it.

    Raises:
        RunError: the system or the file system has no such locks.
    """
    if fcntl is None:
        raise RunError("writing an advice cache needs file locks, which this system does not have; use Linux or macOS")
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise RunError(f"this file system cannot lock files ({error.strerror}); choose a folder on another") from error
    return True


def unlock_byte(handle: int, byte: int) -> None:
    """Free one byte."""
    fcntl.lockf(handle, fcntl.LOCK_UN, 1, byte)


def locked_by_another(path: Path) -> bool:
    """Whether another process holds any byte of a file. Not for a file that this process has locked itself."""
    if fcntl is None or not path.is_file():
        return False
    with path.open("rb") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in (errno.EACCES, errno.EAGAIN)
        fcntl.lockf(file, fcntl.LOCK_UN)
    return False


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Wait until no other process is in this block with the same file; on a system without locks, do not wait."""
    if fcntl is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class HeldByAnother(Exception):
    """Another process holds a file; the message says which one."""


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold a file for this process, whatever processes it starts. It is made for that, and removed after the block.

    Yields:
        Whether it is held: False where the system or the file system has no locks.

    Raises:
        HeldByAnother: another process holds it.
        OSError: the folder is missing or cannot be written to.
    """
    file = path.open("a+b")
    try:
        locked = _locked(file)
        while locked and not _is_at(file, path):  # whoever held it removed it just now
            file.close()
            file = path.open("a+b")
            locked = _locked(file)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        file.flush()
        try:
            yield locked
        finally:
            with suppress(OSError):  # the whole folder is gone
                path.unlink()
    finally:
        file.close()


def _locked(file: IO[bytes]) -> bool:
    """Lock a file, and not by flock, whose locks forked processes inherit and keep when this one is killed."""
    if fcntl is None:
        return False
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.seek(0)
            raise HeldByAnother(file.read().decode(errors="replace") or "a process that has just started") from None
        return False
    return True


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether this path is still that of an open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
