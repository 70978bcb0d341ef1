"""A `last.safetensors` that is not this run's is refused whole: every name, shape, type and number is looked at."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from coadvise.errors import CheckpointError
from coadvise.training.checkpoint import RECIPE, Checkpoint
from coadvise.training.state import Counters, State

STEPS, KEYS = 10, ("step", "exp_avg", "exp_avg_sq")


def trained(seed: int) -> State:
    """Five updates of a small network, one of whose weights is never used."""
    torch.manual_seed(seed)
    student = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    student.register_parameter("unused", nn.Parameter(torch.ones(2)))
    optimizer, ema = torch.optim.AdamW(student.parameters(), fused=True), ModelEmaV3(student, decay=0.5)
    for _ in range(5):
        student(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        ema.update(student)
    losses = {"total": torch.tensor(2.0).double(), "term.class": torch.tensor(2.0).double()}
    return State(student, optimizer, ema, Counters(step=5, best=0.5, seconds=1.0, window=2), losses)


def checkpoint(folder: Path, fingerprint: str = "aa") -> Checkpoint:
    return Checkpoint(folder / "last.safetensors", Accelerator(cpu=True), {"classes": "a, b", RECIPE: fingerprint})


def everything(state: State) -> list[Any]:
    """What a resume restores, copied."""
    assert state.ema is not None
    moments = [state.optimizer.state[p][key] for p in list(state.student.parameters())[1:] for key in KEYS]
    tensors = [*state.student.state_dict().values(), *state.ema.module.state_dict().values(), *moments]
    numbers = [json.dumps(vars(state.count)), {k: v.item() for k, v in state.window.items()}]
    return [[t.clone() for t in (*tensors, torch.get_rng_state())], numbers]


def same(a: list[Any], b: list[Any]) -> bool:
    return len(a[0]) == len(b[0]) and all(map(torch.equal, a[0], b[0])) and a[1] == b[1]


@pytest.fixture
def saved(tmp_path: Path) -> list[Any]:
    state = trained(0)
    checkpoint(tmp_path).save(state)
    return everything(state)


def change(folder: Path, tensors: Callable[[dict[str, Tensor]], Any], numbers: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "last.safetensors"
    with safe_open(str(path), "pt") as file:
        header = file.metadata()
    content, state = load_file(path), json.loads(header["state"])
    tensors(content)
    numbers(state)
    save_file(content, path, header | {"state": json.dumps(state)})


def nothing(_: Any) -> None:
    pass


def put(name: str, value: Tensor | None) -> Callable[[dict[str, Tensor]], Any]:
    return lambda tensors: tensors.pop(name) if value is None else tensors.update({name: value})


def test_a_file_that_fits_is_restored_whole(saved: list[Any], tmp_path: Path) -> None:
    other = trained(1)
    assert not same(everything(other), saved)
    checkpoint(tmp_path).restore(other, STEPS)
    assert same(everything(other), saved)


def test_nothing_of_a_resumed_run_lies_in_the_file(saved: list[Any], tmp_path: Path) -> None:
    """Which the next save replaces: its disk space would stay taken, and writing into it would change the run."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("only Linux lists what a process maps")
    state = trained(1)
    checkpoint(tmp_path).restore(state, STEPS)
    assert str(tmp_path) not in maps.read_text()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("optimizer.1.exp_avg", torch.zeros(2, 2), "optimizer.1.exp_avg is float32 (2, 2), must be float32 (3, 4)"),
        ("optimizer.1.exp_avg_sq", torch.zeros(12), "must be float32 (3, 4)"),
        ("optimizer.1.exp_avg_sq", torch.zeros(3, 4).double(), "is float64"),
        ("optimizer.1.exp_avg", torch.zeros(3, 4).half(), "is float16"),
        ("optimizer.1.step", torch.zeros(1), "is float32 (1,)"),
        ("optimizer.1.step", torch.tensor(5), "is int64"),
        ("optimizer.1.exp_avg", None, "is missing"),
        ("optimizer.1.step", None, "is missing"),
        ("optimizer.-1.exp_avg", torch.zeros(3), "nothing is known of 'optimizer.-1.exp_avg'"),
        ("optimizer.99.exp_avg", torch.zeros(3), "nothing is known of"),
        ("optimizer.1.max_exp_avg_sq", torch.zeros(3, 4), "nothing is known of"),
        ("optimizer.1", torch.zeros(3, 4), "nothing is known of"),
        ("model.0.weight", torch.zeros(4, 3), "must be float32 (3, 4)"),
        ("model.0.weight", torch.zeros(3, 4).bfloat16(), "is bfloat16"),
        ("model.0.weight", None, "model.0.weight is missing"),
        ("model.2.weight", torch.zeros(1), "nothing is known of 'model.2.weight'"),
        ("ema.1.running_var", torch.zeros(4), "must be float32 (3,)"),
        ("ema.0.bias", None, "is missing"),
        ("rng.cpu.0", None, "is missing"),
        ("rng.cpu.0", torch.zeros(16, dtype=torch.uint8), "rng.cpu.0 is uint8 (16,)"),
        ("rng.cpu.0", torch.full_like(torch.get_rng_state(), 255), "does not fit"),
        ("rng.cpu.1", torch.get_rng_state(), "nothing is known of"),
        ("rng.cuda.1", torch.get_rng_state(), "nothing is known of"),
        ("window.total", torch.zeros(2).double(), "must be float64 ()"),
        ("window.total", torch.tensor(0.0), "is float32"),
        ("window.other", torch.tensor(0.0).double(), "losses of 2 batches are other"),
        ("optimizer.1.exp_avg_sq", torch.full((3, 4), -1e-12), "exp_avg_sq has negative numbers, it is damaged"),
        ("optimizer.1.exp_avg_sq", torch.full((3, 4), torch.nan), "exp_avg_sq has numbers that are not finite"),
        ("optimizer.1.exp_avg", torch.full((3, 4), -torch.inf), "exp_avg has numbers that are not finite"),
        ("optimizer.1.step", torch.tensor(-5.0), "optimizer.1.step has negative numbers"),
        (
            "model.0.weight",
            torch.tensor([0.0] * 11 + [torch.nan]).view(3, 4),
            "model.0.weight has numbers that are not",
        ),
        ("ema.0.bias", torch.tensor([0.0, torch.inf, 0.0]), "ema.0.bias has numbers that are not finite"),
        ("stray", torch.zeros(1), "nothing is known of 'stray'"),
    ],
)
@pytest.mark.usefixtures("saved")
def test_a_tensor_that_does_not_fit(tmp_path: Path, name: str, value: Tensor | None, words: str) -> None:
    change(tmp_path, put(name, value), nothing)
    refused(tmp_path, words)


def refused(folder: Path, words: str) -> None:
    """One message that names the file, and a run that is as it was, down to the last bit."""
    state = trained(1)
    before = everything(state)
    with pytest.raises(CheckpointError, match=re.escape(words)) as caught:
        checkpoint(folder).restore(state, STEPS)
    assert "last.safetensors does not fit this run: " in str(caught.value) and "to begin anew" in str(caught.value)
    assert same(everything(state), before)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("count.step", "7", "count.step: input should be a valid integer"),
        ("count.step", True, "count.step: input should be a valid integer"),
        ("count.step", 1.5, "count.step: input should be a valid integer"),
        ("count.step", -1, "count.step: input should be greater than or equal to 0"),
        ("count.step", 11, "it is at step 11 of a run of 10"),
        ("count.best", None, "count.best: input should be a valid number"),
        ("count.best", float("nan"), "count.best: input should be a finite number"),
        ("count.best_weights", "both", "count.best_weights: input should be 'student' or 'ema'"),
        ("count.skipped", [3], "count.skipped.0: input should be a valid string"),
        ("count.skipped", "a.jpg", "count.skipped: input should be a valid array"),
        ("count.window", 0, "losses of 0 batches are term.class, total"),
        ("count.more", 1, "count.more: unexpected"),
        ("count", [], "count: "),
        ("world", 0, "world: input should be greater than or equal to 1"),
        ("world", "1", "world: input should be a valid integer"),
        ("scaler", [1], "scaler: "),
        ("origin", {"classes": 2}, "origin.classes: input should be a valid string"),
    ],
)
def test_a_number_of_another_kind(saved: list[Any], tmp_path: Path, place: str, value: object, words: str) -> None:
    def write(state: dict[str, Any]) -> None:
        *path, last = place.split(".")
        for part in path:
            state = state[part]
        state[last] = value

    change(tmp_path, nothing, write)
    refused(tmp_path, words)


def test_an_optimizer_that_is_missing_as_a_whole(saved: list[Any], tmp_path: Path) -> None:
    def forget(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("optimizer.")]:
            del tensors[name]

    change(tmp_path, forget, nothing)
    state = trained(1)
    before = everything(state)
    with pytest.raises(CheckpointError, match="it is at step 5 without a state of the optimizer"):
        checkpoint(tmp_path).restore(state, 100)
    assert same(everything(state), before)


def test_a_header_without_numbers(saved: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    content = load_file(path)
    for state in ({}, {"state": "{"}, {"state": "[" * 100_000}, {"state": "{}"}):
        save_file(content, path, {"format": "coadvise-training-1"} | state)
        refused(tmp_path, "does not fit")


def test_a_file_of_another_recipe(saved: list[Any], tmp_path: Path) -> None:
    """The same model and data, another learning rate or seed: only the fingerprint tells. Earlier files lack it."""
    with pytest.raises(CheckpointError, match="another recipe, whose fingerprint is aa and not bb"):
        checkpoint(tmp_path, "bb").restore(trained(1), STEPS)
    change(tmp_path, nothing, lambda state: state["origin"].pop(RECIPE))
    other = trained(1)
    checkpoint(tmp_path, "bb").restore(other, STEPS)
    assert same(everything(other), saved)
