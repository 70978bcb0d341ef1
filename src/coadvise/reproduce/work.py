"""What the processes need that do the runs of experiments; it takes seconds to import, and nothing here does."""

from __future__ import annotations

from ..system.workers import worker_context

MODULES = (
    "coadvise.reproduce.runner", "coadvise.training.caching", "coadvise.evaluation.similarity", "sklearn.datasets",
    "scipy.optimize",
)  # fmt: skip


def begin_workers() -> None:
    """Begin to import it, beside what this process does until its first job can start."""
    worker_context(MODULES)
