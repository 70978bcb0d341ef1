"""Processes that should train together and did not join."""

from pathlib import Path

from helpers import processes
from helpers.recipes import tiny

from coadvise.recipe.reading import dump_recipe


def test_world_size_that_was_not_joined(tmp_path: Path) -> None:
    """Under `WORLD_SIZE=2` with one process only, Accelerate would train alone without a word."""
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(tiny(tmp_path / "run")))
    environment = {"WORLD_SIZE": "2", "RANK": None, "MASTER_ADDR": None}
    done = processes.run("coadvise", "train", str(path), environment=environment)
    assert done.returncode == 2 and "WORLD_SIZE is 2" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
