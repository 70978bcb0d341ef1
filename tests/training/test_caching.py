"""Caches of advice and the teachers that are trained for them."""

from __future__ import annotations

import pytest
from helpers import processes
from helpers.caches import QUIET, losses, recipe_with, refused, verify, write
from helpers.recipes import CNN, INN, tiny

from coadvise.advice.cache import AdviceCache
from coadvise.advice.checking import CHECKED
from coadvise.run.folder import read_metrics
from coadvise.training import advising
from coadvise.training.train import train


def test_teachers_are_not_asked_in_training(trained, tmp_path, monkeypatch):
    recipe = recipe_with(trained, tmp_path, {"advice.source": "cache"})
    write(recipe)
    from coadvise.models.teachers import Teachers

    asked = []
    plain = Teachers.forward
    monkeypatch.setattr(Teachers, "forward", lambda self, x: asked.append(len(x)) or plain(self, x))
    train(recipe, display=QUIET)
    # The check of some views at the start, and the last evaluation: nothing for any of the 4 × 100 training images.
    assert sum(asked) == CHECKED + 101


@pytest.mark.slow
def test_advice_is_read_once_where_views_recur(trained, tmp_path, monkeypatch):
    """Bit for bit the losses of a run that reads it anew in each epoch."""
    changes = {"advice.source": "cache", "data.views": 2, "schedule.epochs": 4}
    kept, anew = (recipe_with(trained, tmp_path, {**changes, "run.output": str(tmp_path / name)}) for name in "ab")
    write(kept)
    reads = []
    plain = AdviceCache.read
    monkeypatch.setattr(AdviceCache, "read", lambda self, *which: reads.append(which) or plain(self, *which))
    train(kept, display=QUIET)
    few = len(reads)
    monkeypatch.setattr(advising, "KEPT_BYTES", 0)
    train(anew, display=QUIET)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert len(reads) - few == few + len(losses(tmp_path / "a")) // 2  # the steps of the third and fourth epoch


def test_a_cache_keeps_the_teachers_that_were_trained_for_it(tmp_path):
    """Other students, in other folders and with other settings, learn from the same teachers."""
    advisers = {"conv": CNN, "inv": INN}
    changes = {"advice.folder": str(tmp_path / "cache"), "data.views": 4}
    write(tiny(tmp_path / "first", changes, teachers=advisers))
    other = changes | {"advice.source": "cache", "run.seed": 3, "optim.lr": 5e-4, "optim.batch_size": 10}
    result = train(tiny(tmp_path / "second", other, teachers=advisers), display=QUIET)
    assert result.seed == 3 and not (tmp_path / "second" / "teachers").exists()
    verify(tiny(tmp_path / "third", changes, teachers=advisers), display=QUIET)
    longer = {"conv": {**CNN, "train": {"epochs": 2}}, "inv": INN}
    refused(tiny(tmp_path / "fourth", other, teachers=longer), r"another teacher 'conv' \(train ")


def test_two_writers_train_their_teachers_once(tmp_path):
    code = (
        "import sys; from pathlib import Path; from helpers.recipes import CNN, tiny;"
        "from coadvise.training.caching import cache_advice; from coadvise.system.progress import Display;"
        "p = Path(sys.argv[1]);"
        "cache_advice(tiny(p / 'run', {'advice.folder': str(p / 'cache')}, teachers={'conv': CNN}),"
        " display=Display(quiet=True))"
    )
    writers = [processes.start("-c", code, str(tmp_path)) for _ in range(2)]
    for done in [writer.wait() for writer in writers]:
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "cache" / "conv" / "column.json").is_file()
    steps = [line["step"] for line in read_metrics(tmp_path / "run" / "teachers" / "conv" / "metrics.jsonl")]
    assert steps == sorted(steps) and len(steps) == len(set(steps)) + 1  # the evaluation has the last step's number


def test_stored_advice_without_teachers_is_refused(tmp_path):
    from coadvise.errors import RecipeError

    with pytest.raises(RecipeError, match="advice=cache, but recipe tiny has no teachers"):
        train(tiny(tmp_path / "run", {"advice.source": "cache"}), display=QUIET)
    assert not (tmp_path / "run").exists()
