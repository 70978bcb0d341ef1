"""`coadvise find-lr` as a user meets it."""

from pathlib import Path

import numpy as np
import pytest
from helpers import processes
from helpers.recipes import CNN, tiny
from PIL import Image

from coadvise.cli.find_lr import find_lr
from coadvise.errors import CoadviseError
from coadvise.recipe.reading import dump_recipe, load_recipe
from coadvise.training import range_test


def test_it_prints_a_setting_and_draws_a_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting is one that a recipe takes; the plot is a picture; the run's folder is not there."""
    recipe = tiny(tmp_path / "run", {"optim.lr_batch": 40}, teachers={"conv": CNN})
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe))
    plot = tmp_path / "lr.png"
    words = ("find-lr", str(tmp_path / "r.yaml"), "--steps", "60", "--high", "3", "--plot", str(plot))
    done = processes.run("coadvise", *words, environment={"COLUMNS": "160"})
    assert done.returncode == 0, done.stderr
    assert "teacher conv is still to be trained" in done.stderr
    assert done.stdout.splitlines()[-1].startswith(("suggested: optim.lr=", "the loss fell by no more than its noise"))
    assert "optim.lr is multiplied by 20 / 40" in done.stdout and "Smith 2017" in done.stdout
    with Image.open(plot) as picture:
        assert picture.format == "PNG" and min(picture.size) > 300
    assert not (tmp_path / "run").exists()
    # Bad input is told before anything is measured.
    with pytest.raises(CoadviseError, match=r"lr\.png exists; remove it, or name another file with --plot FILE"):
        find_lr(str(tmp_path / "r.yaml"), [], plot=plot)
    with pytest.raises(CoadviseError, match=r"--low 1 and --high 0\.1 are no range"):
        find_lr(str(tmp_path / "r.yaml"), [], low=1, high=0.1, plot=tmp_path / "other.png")
    with pytest.raises(CoadviseError, match="there is no folder"):
        find_lr(str(tmp_path / "r.yaml"), [], plot=tmp_path / "none" / "other.png")


@pytest.mark.parametrize("clear", [True, False])
def test_a_setting_is_suggested_unless_all_is_noise(
    clear: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = np.geomspace(1e-6, 1.0, 20)
    found = range_test.RangeTest(rates, np.ones(20), np.ones(20), 0.1, 1e-3, False, clear)
    monkeypatch.setattr(range_test, "find_lr", lambda *_: found)
    find_lr("digits", [], plot=tmp_path / "lr.png")
    said = capsys.readouterr().out
    if clear:
        setting = said.splitlines()[-1].removeprefix("suggested: ")
        lr = load_recipe("digits", [setting]).optim.lr
        assert lr == pytest.approx(1e-3 * range_test.as_setting(load_recipe("digits"), 1.0), rel=0.01)
    else:
        assert "so nothing is suggested; try --steps" in " ".join(said.split()) and "suggested: " not in said
