"""Provenance of a number: commit, command, versions, hardware. Written beside every result."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..system.native import cpu_info

PACKAGES = (
    "coadvise", "torch", "torchvision", "timm", "accelerate", "numpy", "pillow", "simplejpeg", "pyarrow", "pyyaml",
    "safetensors",
)  # fmt: skip


@functools.cache
def git_commit() -> str | None:
    """Commit of the source tree that runs, `+changes` appended when it differs; None outside a checkout.

    As it is at the first call: what happens to the tree later changes nothing of what this process has imported.
    """
    here = Path(__file__).resolve().parents[1]  # the package

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    tracked = git("ls-files", "--error-unmatch", "__init__.py")
    commit = git("rev-parse", "HEAD") if tracked else None
    if commit is None:
        return None
    return commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no", "--", ".") else "")


def cpu_name() -> str:
    """Model name of the processor."""
    line = cpu_info("model name")
    return line.split(":", 1)[1].strip() if line else platform.processor() or platform.machine()


def hardware() -> dict[str, Any]:
    """Processor, threads and accelerators."""
    import torch

    facts: dict[str, Any] = {"cpu": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        facts["gpu"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return facts


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    found = {name: version for name in PACKAGES if (version := _version(name)) is not None}
    return {"python": platform.python_version(), **found}


@functools.cache
def _version(package: str) -> str | None:
    """Read once: that takes 2 ms, and a process keeps what it has imported."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def manifest(**facts: Any) -> dict[str, Any]:
    """Everything needed to make a number again, JSON-ready."""
    return {
        "command": " ".join(["coadvise", *sys.argv[1:]]),
        "commit": git_commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "system": platform.platform(terse=True),
        "hardware": hardware(),
        "versions": versions(),
        **facts,
    }
