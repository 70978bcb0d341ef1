"""Gates in training: what is drawn follows from the image's key alone, and one graph still holds all of a step."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
from helpers.recipes import tiny
from helpers.runs import assert_same_run, interrupted, losses, run
from scipy.stats import binomtest
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from coadvise.data.loader import TrainLoader
from coadvise.data.sources.opening import open_sources
from coadvise.losses import Objective
from coadvise.models.compiling import compiled
from coadvise.models.teachers import FrozenTeacher
from coadvise.recipe.loss import Loss
from coadvise.system.progress import Display
from coadvise.training.gating import kept_by_chance
from coadvise.training.loop import train_step
from coadvise.training.processes import start_processes
from coadvise.training.student import new_student
from coadvise.training.teachers import on_device
from coadvise.training.trained import Trained
from coadvise.training.trial import on_trial

CPU = torch.device("cpu")
NAMES = ("conv", "inv", "third")


def batch(view: int, position: np.ndarray) -> Any:
    return cast(Any, SimpleNamespace(view=view, position=position))


def drawn(settings: Loss, view: int, position: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    found = kept_by_chance(settings, seed, NAMES, CPU)(batch(view, position))
    return {name: one.numpy() for name, one in found.items()}


def test_teachers_are_left_out_as_often_as_the_recipe_says_and_each_by_itself() -> None:
    every = np.arange(20000)
    for settings, kept in ((Loss(gate="random", gate_drop=0.3), 0.7), (Loss(gate="random"), 0.5),
                           (Loss(gate="harder", gate_drop=0.8), 0.2)):  # fmt: skip
        found = drawn(settings, 3, every)
        assert list(found) == list(NAMES)
        for one in found.values():
            assert one.dtype == bool and binomtest(int(one.sum()), len(one), kept).pvalue > 1e-3
        assert np.abs(np.corrcoef(np.stack(list(found.values()))) - np.eye(3)).max() < 0.03


def test_only_the_place_in_the_view_and_the_seed_decide() -> None:
    settings, every = Loss(gate="random"), np.arange(400)
    whole = drawn(settings, 3, every)
    part = drawn(settings, 3, every[130:120:-1])
    others = [drawn(settings, 4, every), drawn(settings, 3, every, seed=1), drawn(settings, 3, every + 400)]
    for name in NAMES:
        assert np.array_equal(part[name], whole[name][130:120:-1])
        assert all(0.35 < np.mean(other[name] == whole[name]) < 0.65 for other in others)


@pytest.mark.parametrize(
    "settings", [Loss(), Loss(gate="right"), Loss(gate="harder"), Loss(gate="random", gate_drop=0)]
)
def test_nothing_is_drawn_where_nothing_is_left_to_chance(settings: Loss) -> None:
    assert drawn(settings, 0, np.arange(4)) == {}


@pytest.fixture(scope="module")
def teachers() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    return {name: timm.create_model("resnet10", num_classes=10, channels=[8, 8, 8, 8]) for name in ("conv", "inv")}


def test_a_run_resumes_and_is_divided_with_the_same_gates(tmp_path: Path, teachers: dict[str, Any]) -> None:
    changes = {
        "loss.gate": "random", "loss.gate_drop": 0.4, "optim.accumulate": 2, "schedule.epochs": 1, "run.log_every": 1,
        "schedule.warmup_epochs": 0,
        "student.tokens": {"conv": "conv", "inv": "inv"}, "student.options.drop_path_rate": 0.0,
    }  # fmt: skip
    run(tiny(tmp_path / "a", changes), teachers=teachers)
    recipe = tiny(tmp_path / "b", changes)
    interrupted(recipe, 7, teachers=teachers)
    run(recipe, teachers=teachers, resume=True)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    # In one micro-batch the images have the same gates as in two.
    run(tiny(tmp_path / "one", {**changes, "optim.accumulate": 1}), teachers=teachers)
    assert np.allclose(losses(tmp_path / "one"), losses(tmp_path / "a"), rtol=1e-4)


def test_the_loop_is_given_what_the_key_says(tmp_path: Path) -> None:
    """Whichever process an image falls to, in whichever micro-batch, and when its view recurs."""
    recipe = tiny(tmp_path / "run", {"data.views": 2})
    source = open_sources(recipe.data)[0]
    choose = kept_by_chance(Loss(gate="random"), recipe.data.seed, NAMES, CPU)
    found: dict[tuple[int, int], set[tuple[bool, ...]]] = {}
    for rank, world, accumulate in ((0, 1, 1), (0, 2, 1), (1, 2, 2)):
        loader = TrainLoader(source, recipe.data, 20, rank=rank, world=world, accumulate=accumulate)
        for epoch in range(3):
            for one in loader.epoch(epoch):
                rows = torch.stack(list(choose(one).values())).T.tolist()
                for index, row in zip(one.index.tolist(), rows, strict=True):
                    found.setdefault((epoch % 2, index), set()).add(tuple(row))
    assert len(found) == 200 and all(len(rows) == 1 for rows in found.values())


def test_the_mean_of_the_teachers_has_a_gate_of_its_own(tmp_path: Path, teachers: dict[str, Any]) -> None:
    changes = {"advice.change": "mean", "loss.gate": "random", "student.tokens": {"mean": None}}
    recipe = tiny(tmp_path / "run", changes)
    accelerator, sources = start_processes(recipe.run, recipe.optim), open_sources(recipe.data)
    frozen = {name: FrozenTeacher(one) for name, one in teachers.items()}
    ready = on_device(frozen, recipe.data, False, accelerator, Display(quiet=True))
    student = new_student(recipe, 10, 1, None, ("mean",))
    with on_trial(recipe, sources, accelerator, student, ready) as (setup, state):
        one = next(setup.loader.epoch(0))
        assert list(setup.kept(one)) == ["mean"]
        assert train_step(setup, state, one).total.isfinite()


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(12, 10) for name in ("class", "conv", "inv")})

    def forward_tokens(self, x: Tensor) -> dict[str, Tensor]:
        return {name: head(x.flatten(1)) for name, head in self.heads.items()}


@pytest.mark.parametrize(
    "settings",
    [{"kind": "standardised", "gate": "right"}, {"kind": "dist"}, {"kind": "decoupled", "gate": "harder"}],
    ids=lambda settings: settings["kind"],
)
def test_a_step_is_one_graph(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    counted = CompileCounter()
    monkeypatch.setattr("coadvise.training.trained.compiled", partial(compiled, backend=counted))
    student = Linear()
    objective = Objective(known={"conv": [0, 3, 4, 7]}, **settings).on(CPU)
    trained = Trained(student, objective, ("class", "conv", "inv"), ("conv", "inv"), say=pytest.fail).train()
    kept = {name: torch.rand(6) < 0.5 for name in ("conv", "inv")} if "gate" in settings else {}
    x, target = torch.randn(6, 3, 2, 2), torch.randn(6, 10).softmax(1)
    advice = {name: torch.randn(6, 10) for name in ("conv", "inv")}
    plain = trained(x, advice, target, kept)
    trained.use("whole", Trained.try_out)
    for _ in range(2):
        whole = trained(x, advice, target, kept)
        whole.total.backward()
    assert trained.form == "whole" and counted.frame_count == 1
    torch.testing.assert_close(whole.values, plain.values)
