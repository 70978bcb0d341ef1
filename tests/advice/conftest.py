"""Caches of the advice of teachers that were trained once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.caches import recipe_with, shrink, write

from coadvise.recipe.schema import Recipe


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and shards so small that the tiny cache has many of them."""
    shrink(monkeypatch.setattr)


@pytest.fixture(scope="session")
def written(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache, which tests copy."""
    folder = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch.setattr)
        write(recipe_with(trained, folder, {"advice.source": "cache"}))
    return folder / "cache"


@pytest.fixture
def complete(small: None, trained: Path, written: Path, tmp_path: Path) -> Recipe:
    shutil.copytree(written, tmp_path / "cache")
    return recipe_with(trained, tmp_path, {"advice.source": "cache"})
