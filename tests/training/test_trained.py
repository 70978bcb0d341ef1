"""The student and its loss as one region: how many graphs, the same losses, no waiting for the device."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import timm
import torch
from helpers.recipes import CNN, INN, tiny
from helpers.runs import losses, run
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounter
from torch._functorch.aot_autograd import make_boxed_func

from coadvise.losses import Objective
from coadvise.models.advised import add_tokens
from coadvise.models.compiling import compiled
from coadvise.models.students import as_student
from coadvise.system.progress import Display
from coadvise.training.train import train
from coadvise.training.trained import Trained


class Told(Display):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


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


def test_plain_and_one_graph_agree_in_bf16(graphs: Graphs) -> None:
    """Losses and gradients of some steps, under autocast as Accelerate lays it around."""
    student: Any = timm.create_model("cit_tiny_sa", img_size=16, patch_size=8, depth=2, embed_dim=24, num_heads=2)
    student.reset_classifier(5)
    other = copy.deepcopy(student)
    x, target = torch.randn(6, 3, 16, 16), torch.randn(6, 5).softmax(1)
    advice = {name: torch.randn(6, 5) for name in ("conv", "inv")}
    curves = []
    for one, form in ((student, "plain"), (other, "whole")):
        trained = region(one, say=pytest.fail)
        trained.use(form)
        optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3)
        curve = []
        for _ in range(8):
            with torch.autocast("cpu", torch.bfloat16):
                found = trained(x, advice, target)
            found.total.backward()
            norm = torch.nn.utils.clip_grad_norm_(trained.parameters(), 15.0)
            curve.append(torch.cat([found.values, norm[None]]))
            assert found.total.dtype == found.values.dtype == torch.float32
            optimizer.step()
            optimizer.zero_grad()
        curves.append(torch.stack(curve))
    assert (graphs.forward, graphs.backward) == (1, 1)
    torch.testing.assert_close(*curves, rtol=1e-2, atol=1e-3)


def region(student: nn.Module, say: Callable[[str], Any] = pytest.fail, **settings: Any) -> Trained:
    tokens = getattr(student, "token_names", ("class",))
    objective = Objective(tokens="own" if len(tokens) > 1 else "single", known={"conv": [0, 3, 4]}, **settings)
    return Trained(student, objective.on(torch.device("cpu")), tokens, ("conv", "inv"), say=say).train()


BIAS = {"conv": "conv", "inv": "inv"}
STUDENTS: dict[str, Callable[[], nn.Module]] = {
    "cit_small_sa": lambda: timm.create_model("cit_small_sa", img_size=64, drop_path_rate=0.1, num_classes=10),
    "cit_tiny": lambda: timm.create_model("cit_tiny", img_size=32, drop_path_rate=0.1, num_classes=10),
    "64 px": lambda: timm.create_model(
        "cit_tiny", img_size=64, patch_size=8, drop_path_rate=0.1, num_classes=10, depth=4
    ),
    "a ViT with tokens": lambda: add_tokens(
        timm.create_model("vit_tiny_patch16_224", img_size=64, drop_path_rate=0.1, num_classes=10, depth=4), BIAS
    ),
    "a CNN": lambda: as_student(timm.create_model("resnet10", num_classes=10)),
}


@pytest.mark.parametrize("name", STUDENTS)
def test_students_are_one_graph_whatever_the_rates_of_drop_path(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    counted = CompileCounter()
    monkeypatch.setattr("coadvise.training.trained.compiled", partial(compiled, backend=counted))
    trained = region(STUDENTS[name](), labels="one")
    trained.use("whole", Trained.try_out)
    target = torch.randn(2, 10).softmax(1)
    for _ in range(3):
        side = 32 if name == "cit_tiny" else 64
        advice = {name: torch.randn(2, 10) for name in BIAS}
        trained(torch.randn(2, 3, side, side), advice, target).total.backward()
        trained.student.eval()(torch.randn(1, 3, side, side))  # as evaluation does
        trained.train()
    assert trained.form == "whole" and counted.frame_count == 1


class Asking(nn.Module):
    """A student that looks at its numbers: no compiler makes one graph of it."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(48, 48), nn.ReLU()) for _ in range(2)))
        self.norm, self.head = nn.BatchNorm1d(48), nn.Linear(48, 10)

    def forward_tokens(self, x: Tensor) -> dict[str, Tensor]:
        x = self.norm(self.blocks(x.flatten(1)))
        return {"class": self.head(x if float(x.detach().sum()) < 1e9 else -x)}


def test_what_cannot_be_one_graph_is_compiled_in_parts_and_says_so() -> None:
    torch._dynamo.reset()
    said: list[str] = []
    trained = region(Asking(), said.append)
    batch = torch.randn(4, 3, 4, 4), {name: torch.randn(4, 10) for name in BIAS}, torch.randn(4, 10).softmax(1)
    plain = trained(*batch)
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    generator = torch.get_rng_state()
    with mock.patch.object(nn.Module, "compile", lambda module: None):  # nothing is built here
        trained.use("whole", Trained.try_out)
        trained.train().try_out(*batch)
    assert trained.form == "blocks" and len(said) == 1
    assert said[0].startswith("student and loss cannot be compiled as one (") and said[0].endswith(
        "only its blocks are"
    )
    # Trying leaves no trace.
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator) and all(p.grad is None for p in trained.parameters())
    torch.testing.assert_close(trained(*batch).values, plain.values)


def test_a_compiler_that_fails_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()

    def broken(*_: Any) -> Any:
        raise RuntimeError("ptxas is of another age")

    monkeypatch.setattr("coadvise.training.trained.compiled", partial(compiled, backend=broken))
    monkeypatch.setattr("coadvise.training.trained.compile_blocks", lambda *_: (0, ""))
    told = Told()
    changes = {"schedule.epochs": 2, "run.log_every": 1}
    train(tiny(tmp_path / "run", {**changes, "run.compile": True}), display=told)
    run(tiny(tmp_path / "plain", changes))
    (line,) = [line for line in told.lines if "cannot be compiled" in line]
    assert "ptxas is of another age" in line and line.endswith("it runs as it is") and "\n" not in line
    assert losses(tmp_path / "run") == losses(tmp_path / "plain")
