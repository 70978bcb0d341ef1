"""Workers of experiments that run in the tests' own process."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest
from helpers.processes import CONTEXT


@pytest.fixture(autouse=True)
def _forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers fork from the server of `helpers.processes`, which has PyTorch, in place of importing it each time.

    Calls of the command line in processes of their own, and tests/system/test_workers.py, start them as users do.
    """
    real = multiprocessing.get_context

    def context(method: str | None = None) -> Any:
        return CONTEXT if method == "spawn" else real(method)

    monkeypatch.setattr(multiprocessing, "get_context", context)
