"""Caches of the advice of teachers that were trained once."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.caches import recipe_with, shrink, write

from coadvise.recipe.schema import Recipe


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and shards so small that the tiny cache has many of them."""
    shrink(monkeypatch.setattr)


@pytest.fixture
def complete(small: None, trained: Path, tmp_path: Path) -> Recipe:
    recipe = recipe_with(trained, tmp_path, {"advice.source": "cache"})
    write(recipe)
    return recipe
