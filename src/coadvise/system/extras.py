"""Packages that only some work needs: which extra brings each, and one message where it is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from ..errors import CoadviseError

EXTRAS = {
    "matplotlib": "report",
    "sklearn": "probe",
    "tensorboard": "tensorboard",
    "datasets": "hf",
    "transformers": "hf",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
    "openvino": "export",
}
"""Optional packages, as they are imported, and the extra that brings each."""
TITLES = {"matplotlib": "Matplotlib", "sklearn": "scikit-learn", "tensorboard": "TensorBoard"}


class MissingPackage(CoadviseError):
    """A package that is not installed, and that this work needs."""


def installed(package: str) -> bool:
    """Whether a package, by the name under which it is imported, is there; a folder of that name is none."""
    found = importlib.util.find_spec(package)  # of a folder where Python looks, such as `datasets` beside a notebook,
    return found is not None and found.origin is not None  # it makes a package without any file


def missing(packages: Sequence[str]) -> list[str]:
    """Those of some packages that are not there."""
    return [name for name in packages if not installed(name)]


def command_for(package: str) -> str:
    """What a user types to have a package."""
    return f'pip install "coadvise[{EXTRAS[package]}]"'


def need(package: str, what: str) -> None:
    """Refuse work whose package is not there: to be asked before anything that takes long.

    Args:
        what: the subject of the message, in the singular, such as `the report`.

    Raises:
        MissingPackage: it is not installed.
    """
    if not installed(package):
        raise MissingPackage(f"{what} needs {TITLES.get(package, package)}: {command_for(package)}")
