"""The student and its loss as one region: how many graphs, the same losses, no waiting for the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.recipes import CNN, INN, tiny
from helpers.runs import losses, run
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func

from coadvise.models.compiling import compiled


class Graphs:
    """A backend that counts graphs and runs them as they are."""

    def __init__(self) -> None:
        self.forward, self.backward = 0, 0
        self.backend = aot_autograd(fw_compiler=self._count("forward"), bw_compiler=self._count("backward"))

    def _count(self, what: str) -> Callable[..., Any]:
        def compiler(graph: torch.fx.GraphModule, inputs: Any) -> Any:
            setattr(self, what, getattr(self, what) + 1)
            return make_boxed_func(graph.forward)

        return compiler


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    """Everything that is compiled as one goes through it."""
    torch._dynamo.reset()
    found = Graphs()
    monkeypatch.setattr("coadvise.training.trained.compiled", partial(compiled, backend=found.backend))
    return found


def test_a_run_needs_one_graph_each_way(tmp_path: Path, graphs: Graphs) -> None:
    """Whatever is evaluated between its epochs, and however small the last batch of that is."""
    advisers = {"conv": CNN, "inv": INN}
    changes = {"run.log_every": 1, "schedule.epochs": 3, "optim.ema": 0.9, "student.options.drop_path_rate": 0.0}
    run(tiny(tmp_path / "plain", changes, teachers=advisers))
    assert graphs.forward == 0
    copied = {name: {**one, "train": None, "checkpoint": str(tmp_path / "plain" / "teachers" / name)}
              for name, one in advisers.items()}  # fmt: skip
    run(tiny(tmp_path / "one", {**changes, "run.compile": True}, teachers=copied))
    assert (graphs.forward, graphs.backward) == (1, 1)
    plain, one = losses(tmp_path / "plain"), losses(tmp_path / "one")
    assert len(plain) == len(one) == 15 and np.allclose(plain, one, rtol=1e-4)
