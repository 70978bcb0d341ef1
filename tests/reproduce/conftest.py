"""Workers of experiments that run in the tests' own process."""

from __future__ import annotations

import pytest
from helpers.processes import CONTEXT


@pytest.fixture(autouse=True)
def _forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers fork from the server of `helpers.processes`, which has PyTorch, in place of one of their own.

    Calls of the command line in processes of their own, and tests/system/test_workers.py, start them as users do.
    """
    for module in ("system.workers", "reproduce.work"):
        monkeypatch.setattr(f"coadvise.{module}.worker_context", lambda modules=(): CONTEXT)
