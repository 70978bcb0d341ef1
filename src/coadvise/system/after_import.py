"""Importing one module right after another, wherever in the program that other one is imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def import_after(first: str, then: str) -> None:
    """Import `then` right after `first`: now if `first` has been imported, else when it is.

    Args:
        first: a top-level module.
        then: a module that may import `first` itself.
    """
    if sys.modules.get(first) is not None:
        _import(then)
    elif not any(isinstance(finder, _Finder) and finder.first == first for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder(first, then))


def _import(name: str) -> None:
    # Not importlib.import_module: where two threads import the two modules in opposite orders, each waits for the
    # other. This call notices that and accepts a module that the other thread has not finished; that one raises.
    __import__(name)


class _Finder:
    """Finds `first` as the other finders do, and gives it a loader that imports `then`; ignores all other modules."""

    def __init__(self, first: str, then: str) -> None:
        self.first, self.then = first, then

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.first:
            return None
        others = (finder for finder in list(sys.meta_path) if finder is not self)
        finds = (find for finder in others if (find := getattr(finder, "find_spec", None)) is not None)
        found = (spec for find in finds if (spec := find(name, path, target)) is not None)
        spec = next(found, None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec


class _Loader(Loader):
    """Loads `first` with its real loader, then imports `then` and removes the finder.

    The finder stays while `first` is only looked for, or fails to import: a later import can succeed.
    """

    def __init__(self, real: Loader, finder: _Finder) -> None:
        self._real, self._finder = real, finder

    def __getattr__(self, name: str) -> Any:  # is_package, get_source, get_filename, …
        if name.startswith("_"):  # asked of a copy that has no attributes yet
            raise AttributeError(name)
        return getattr(self._real, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._real
        if module.__spec__ is not None:
            module.__spec__.loader = self._real
        self._real.exec_module(module)
        _import(self._finder.then)
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
