"""C++ files of this package, compiled on first use with the system's compiler and kept in the cache folder.

Every caller has slower code for machines where nothing can be compiled; one warning gives the reason for all of them.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import warnings
from pathlib import Path

from .files import atomic_file, cache_folder

FLAGS = (
    "-O3", "-march=native", "-mprefer-vector-width=512", "-std=c++17", "-shared", "-fPIC", "-fopenmp", "-Wno-psabi",
)  # fmt: skip
# Tried one after the other: clang and ARM do not know all flags, and some compilers have no OpenMP.
FLAG_SETS = (
    FLAGS,
    tuple(f for f in FLAGS if "prefer" not in f),
    tuple(f for f in FLAGS if f[:2] != "-m" and f != "-fopenmp"),
)


@functools.cache
def compiled(source: Path, consequence: str, *more: str) -> ctypes.CDLL | None:
    """The functions of a C++ file, or None where it cannot be built; then a warning says why and what follows, unless
    one has given the same reason for another file.

    Args:
        consequence: such as "involution runs without compiled code here, several times slower".
        more: flags in addition to the usual ones.
    """
    if os.environ.get("COADVISE_COMPILED") == "0":
        return None
    try:
        return ctypes.CDLL(str(_built(source, more)))
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        reason = detail.strip().splitlines()[0].rstrip(".") if detail.strip() else type(error).__name__
        if reason not in (said := _reasons()):
            said.add(reason)
            alone = getattr(error, "stderr", None)  # this file does not compile, or the compiler says what it lacks
            others = "" if alone else "; the same holds for all compiled code, of which involution's gains most"
            warnings.warn(
                f"{consequence} ({reason}{others}); a C++ compiler (g++) and a writable cache folder would change that",
                RuntimeWarning,
                stacklevel=3,
            )
        return None


@functools.cache
def _reasons() -> set[str]:
    """What this process has been told of."""
    return set()


def compiler() -> str | None:
    """The command of this machine's C++ compiler, `$CXX` before others; None where there is none."""
    return os.environ.get("CXX") or next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)


def _built(source: Path, more: tuple[str, ...]) -> Path:
    """Path of the shared library, built if this machine has none of this source yet."""
    command = compiler()
    if command is None:
        raise OSError("there is no C++ compiler")
    words = shlex.split(command)  # of $CXX, which may have a launcher before it and flags behind it
    version = subprocess.run([*words, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    # Code for one CPU may not run on another, and home folders are shared between machines.
    cpu = cpu_info("flags", "Features") or platform.processor() + platform.machine()
    sources = [source, *sorted(source.parent.glob("*.h"))]  # which it may include
    key = "\0".join([*(one.read_text() for one in sources), *words[1:], version, cpu, repr(FLAG_SETS), repr(more)])
    path = cache_folder() / f"{source.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as fresh:  # several processes may build at once: each ends with a whole file
        for flags in FLAG_SETS:
            call = [*words, *flags, *more, "-o", str(fresh), str(source)]
            done = subprocess.run(call, capture_output=True, text=True, timeout=300)
            if done.returncode == 0:
                break
        done.check_returncode()
    return path


def cpu_info(*keys: str) -> str | None:
    """The first line of what Linux says of the processor that begins with one of these words; None elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line for line in lines if line.startswith(keys)), None)
