"""What `train` and `cache` say when loader processes end under them."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from helpers.recipes import tiny

from coadvise.cli import train as commands
from coadvise.errors import LoaderError
from coadvise.recipe.reading import dump_recipe


@pytest.mark.parametrize("saved", ["", "last.safetensors", "teachers/conv/last.safetensors"])
@pytest.mark.parametrize("command", ["train", "cache"])
def test_what_is_kept_and_the_command_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, saved: str
) -> None:
    recipe = tmp_path / "my recipe.yaml"
    recipe.write_text(dump_recipe(tiny(tmp_path / "run")))
    if saved:
        (tmp_path / "run" / saved).parent.mkdir(parents=True)
        (tmp_path / "run" / saved).touch()

    def lost(*_: object, **__: object) -> None:
        raise LoaderError("a loader process has ended (SIGKILL)")

    monkeypatch.setattr("coadvise.training.train.train", lost)
    monkeypatch.setattr("coadvise.training.caching.cache_advice", lost)
    monkeypatch.setattr(sys, "argv", ["coadvise", command, str(recipe), "run.seed=1"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LoaderError) as caught:
        getattr(commands, command)(str(recipe), ["run.seed=1"], quiet=True)
    what, kept, line = str(caught.value).splitlines()
    assert what == "a loader process has ended (SIGKILL)"
    told = re.match("nothing was saved yet|everything up to the last checkpoint is kept|what is written is kept", kept)
    expected = ("everything up to the last checkpoint" if saved else "nothing") if command == "train" else "what is"
    assert told and told[0].startswith(expected)
    words = ["torchrun", "--nproc-per-node", "2", "-m", "coadvise", command, str(recipe), "run.seed=1"]
    assert shlex.split(line) == words + (["--resume"] if saved and command == "train" else [])
