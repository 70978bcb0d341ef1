"""The paper's experiments at their smallest: digits, one epoch, 50 images."""

from __future__ import annotations

from pathlib import Path

from coadvise.reproduce.runner import Orders
from coadvise.reproduce.scales import find_scale
from coadvise.reproduce.setup import ExperimentSetup, set_up

SHORT = ["schedule.epochs=1", "schedule.warmup_epochs=0", "teachers.epochs=1", "data.train_size=50", "data.val_size=40"]


def short_setup(tmp_path: Path) -> ExperimentSetup:
    return set_up(find_scale("digits"), tmp_path / "out", settings=SHORT)


def orders(setup: ExperimentSetup, seeds: int = 1, jobs: int = 1) -> Orders:
    return Orders(setup.output / "results", seeds, jobs=jobs)
