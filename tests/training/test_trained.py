"""The student and its loss as one region: how many graphs, the same losses, no waiting for the device."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import numpy as np
import pytest
import timm
import torch
from helpers import processes
from helpers.recipes import CNN, INN, TINY, tiny
from helpers.runs import losses, run
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounter
from torch._functorch.aot_autograd import make_boxed_func
from torch.utils._python_dispatch import TorchDispatchMode

from coadvise.data.sources.unlabelled import open_for_training
from coadvise.losses import Objective
from coadvise.models.advised import add_tokens
from coadvise.models.compiling import compiled
from coadvise.models.students import as_student
from coadvise.models.teachers import FrozenTeacher
from coadvise.recipe.reading import dump_recipe
from coadvise.system.progress import QUIET, Display
from coadvise.training.loop import train_epoch
from coadvise.training.processes import Stop, start_processes
from coadvise.training.student import new_student
from coadvise.training.teachers import on_device
from coadvise.training.train import train
from coadvise.training.trained import Trained
from coadvise.training.trial import on_trial


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


@pytest.mark.slow
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
LARGE = ("cit_small_sa", "64 px", "a CNN")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in STUDENTS],
)
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


class Flat(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(48, width), nn.BatchNorm1d(width), nn.Linear(width, 10)

    def forward_tokens(self, x: Tensor) -> dict[str, Tensor]:
        return {"class": self.head(self.norm(self.first(x.flatten(1))))}


FLAT = torch.randn(4, 3, 4, 4), {name: torch.randn(4, 10) for name in BIAS}, torch.randn(4, 10).softmax(1)


def test_any_number_of_students_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch compiles a function eight times at most, here twice: each kind of student counts by itself."""
    counted = CompileCounter()
    monkeypatch.setattr("coadvise.training.trained.compiled", partial(compiled, backend=counted))
    with torch._dynamo.config.patch(recompile_limit=2):
        for width in (5, 6, 7):
            trained = region(Flat(width))
            trained.use("whole", Trained.try_out)
            trained(*FLAT)
            assert trained.form == "whole"
        assert counted.frame_count == 3
        again = region(Flat(7))  # as another seed of the last
        again.use("whole", Trained.try_out)
        again(*FLAT)
        assert again.form == "whole" and counted.frame_count == 3


def test_a_mode_for_which_pytorch_will_not_compile_anew_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when parts that waited begin to train (`schedule.head_epochs`), after many other changes."""
    monkeypatch.setattr("coadvise.training.trained.compiled", partial(compiled, backend="eager"))
    said: list[str] = []
    trained, plain = region(student := Flat(9), said.append), region(copy.deepcopy(student))
    for one in (trained, plain):
        one.student.norm.eval()
    trained.use("whole", Trained.try_out)
    with torch._dynamo.config.patch(recompile_limit=1):
        torch.testing.assert_close(trained(*FLAT).values, plain(*FLAT).values)
        assert trained.form == "whole" and not said
        trained.train(), plain.train()
        found = trained(*FLAT)
    torch.testing.assert_close(found.values, plain(*FLAT).values)
    found.total.backward()
    assert torch.equal(trained.student.norm.running_mean, plain.student.norm.running_mean)
    assert trained.form == "plain" and said == [
        "student and loss cannot be compiled as one (its batches or modes are of more kinds than PyTorch compiles it "
        "for): it runs as it is"
    ]


def test_cuda_graphs_that_were_given_up_are_not_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code whose recordings were freed fails when it is called: neither this student nor one like it may find it."""
    torch._dynamo.reset()
    made = list[bool]()

    def backend(graph: torch.fx.GraphModule, inputs: Any, options: Any = None) -> Any:
        made.append(bool(options))
        return graph.forward

    monkeypatch.setattr("coadvise.training.trained.compiled", partial(compiled, backend=backend))
    first, second = region(Flat(5)), region(Flat(5))
    for trained, form in ((first, "whole"), (first, "graphs"), (first, "whole"), (first, "graphs"), (second, "graphs")):
        trained.use(form)
        trained(*FLAT)
    assert made == [False, True, True, True]


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
    # Its blocks cannot be compiled either: one line tells of both.
    monkeypatch.setattr(nn.Module, "compile", lambda module: setattr(module, "_compiled_call_impl", broken))
    told = Told()
    changes = {"schedule.epochs": 2, "run.log_every": 1}
    train(tiny(tmp_path / "run", {**changes, "run.compile": True}), display=told)
    run(tiny(tmp_path / "plain", changes))
    (line,) = [line for line in told.lines if "cannot be compiled" in line]
    assert "ptxas is of another age" in line and line.endswith("it runs as it is") and "\n" not in line
    assert losses(tmp_path / "run") == losses(tmp_path / "plain")


class Waits(TorchDispatchMode):
    """Counts what would wait for a GPU: a number or a shape that Python wants to know, lists as indices."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name.startswith("index") and any(
            isinstance(one, Tensor) and one.dtype == torch.bool
            for group in args
            for one in (group if isinstance(group, list | tuple) else [group])
        )
        if masked or name in ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "lift_fresh"):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def test_nothing_between_two_log_lines_waits_for_the_device(tmp_path: Path) -> None:
    """A step with its window, clipping, averaged weights and schedule; of its batch only what is there already."""
    changes = {"optim.ema": 0.9, "optim.accumulate": 2, "schedule.head_epochs": 1, "run.log_every": 1000}
    recipe = tiny(tmp_path / "run", changes, student={**TINY["student"], "tokens": {"conv": "conv", "inv": "inv"}})
    accelerator = start_processes(recipe.run, recipe.optim)
    sources = open_for_training(recipe.data, ())
    knows_some = FrozenTeacher(timm.create_model("resnet10", num_classes=7), classes=[3, None, 1, 0, *[None] * 6])
    given = {"conv": knows_some, "inv": timm.create_model("resnet10", num_classes=10)}
    teachers = on_device({name: FrozenTeacher(one) if not isinstance(one, FrozenTeacher) else one
                          for name, one in given.items()}, recipe.data, False, accelerator, Told())  # fmt: skip
    student = new_student(recipe, 10, 1, None, ("conv", "inv"))
    with on_trial(recipe, sources, accelerator, student, teachers) as (setup, state):
        batches = list(setup.loader.epoch(0))
        advice = [{name: one.clone() for name, one in setup.advise(batch).items()} for batch in batches]
        loader = SimpleNamespace(epoch=lambda *_, **__: batches, steps_per_epoch=setup.loader.steps_per_epoch)
        setup, waits = dataclasses.replace(setup, loader=cast(Any, loader), advise=lambda batch: advice[0]), Waits()
        with waits, Stop(accelerator) as stop, QUIET.bar("", 1) as bar:
            train_epoch(setup, state, 0, stop, bar)
        assert state.count.step == len(batches) // 2 == 5 and state.window.keys() >= {"total", "term.class"}
    assert waits.seen == []
    with waits:
        torch.ones(2)[torch.tensor([True, False])].sum().item()
    assert len(waits.seen) >= 2


ONE_GRAPH = """
import sys
from functools import partial
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from coadvise.cli.main import main
from coadvise.models.compiling import compiled
from coadvise.training import trained
count = {"forward": 0, "backward": 0}
def counting(what):
    def compiler(graph, inputs):
        count[what] += 1
        return make_boxed_func(graph.forward)
    return compiler
both = aot_autograd(fw_compiler=counting("forward"), bw_compiler=counting("backward"))
trained.compiled = partial(compiled, backend=both)
try:
    main()
finally:
    print("graphs", *count.values())
"""


@pytest.mark.slow
def test_processes_that_share_a_batch_have_one_graph_each(tmp_path: Path) -> None:
    """Inside of DistributedDataParallel, with micro-batches."""
    changes = {"run.log_every": 1, "schedule.epochs": 2, "schedule.warmup_epochs": 0, "optim.accumulate": 2}
    changes |= {"student.options.drop_path_rate": 0.0, "data.train_size": 60}
    for name, setting in (("plain", False), ("one", True)):
        path = tmp_path / f"{name}.yaml"
        path.write_text(dump_recipe(tiny(tmp_path / name, {**changes, "run.compile": setting})))
        for done in processes.run_together("-c", ONE_GRAPH, "train", str(path), "--quiet"):
            assert done.returncode == 0, done.stderr
            assert ("graphs 1 1" if setting else "graphs 0 0") in done.stdout
    assert np.allclose(losses(tmp_path / "one"), losses(tmp_path / "plain"), rtol=1e-4)
