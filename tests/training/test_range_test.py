"""The learning-rate range test: what it finds where the answer is known, and that a real one touches nothing."""

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from helpers.recipes import CNN, INN, tiny
from helpers.runs import run

from coadvise.errors import RunError
from coadvise.system.progress import Display
from coadvise.training.loop import train_step
from coadvise.training.range_test import RangeTest, as_setting, find_lr, judged, rise, set_rate
from coadvise.training.teachers import on_device


def descent(curvature: float, steps: int) -> RangeTest:
    """Gradient descent on ½ L |w|², in float64: it contracts by |1 − lr L|, so it diverges from lr = 2/L on."""
    w = torch.nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.float64))
    optimizer = torch.optim.SGD([w], lr=1.0)

    def step(rate: float) -> float:
        set_rate(optimizer, rate)
        loss = 0.5 * curvature * (w**2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return judged(*rise(step, 1e-4 / curvature, 1e4 / curvature, steps), steps)


@pytest.mark.parametrize("curvature", [0.01, 1.0, 300.0])
def test_a_quadratic_diverges_from_twice_the_inverse_curvature_on(curvature: float) -> None:
    for steps, tolerance in ((100, 1.45), (1000, 1.2)):
        found = descent(curvature, steps)
        assert found.diverged and 1 / tolerance < found.lowest * curvature / 2 < tolerance, found.lowest * curvature / 2
        # Convergence is fastest where a single step ends it, at 1/L.
        assert 1 / tolerance < found.steepest * curvature < tolerance
        assert found.third == found.lowest / 3
    turn = int(np.argmin(found.losses))  # the losses themselves turn at the step after the first rate beyond 2/L
    assert found.rates[turn - 2] * curvature < 2 < found.rates[turn] * curvature


def test_the_curve_of_a_known_shape() -> None:
    """A plateau, a fall that is steepest at 1e-3, a turn at 1e-1: the logistic's derivative, and noise on top."""
    rates = np.geomspace(1e-6, 1, 400)
    x = np.log10(rates)
    noise = np.random.default_rng(0).normal(0, 0.01, 400)
    losses = np.exp(1 - 1 / (1 + np.exp(-4 * (x + 3))) + 3 * np.maximum(x + 1, 0) ** 2 + noise)
    found = judged(rates, losses, False, 400)
    assert found.steepest == pytest.approx(1e-3, rel=0.35) and 0.03 < found.lowest < 0.2
    assert found.clear and not found.diverged


def test_a_fall_within_the_noise_is_not_clear() -> None:
    """Losses that no learning rate changes, until they explode."""
    rates = np.geomspace(1e-6, 1, 100)
    unclear = 0
    for seed in range(20):
        losses = np.random.default_rng(seed).normal(3.9, 0.05, 100) + 5 * np.maximum(np.log10(rates) + 1, 0)
        try:
            unclear += not judged(rates, losses, False, 100).clear
        except RunError:  # the loss did not fall at all
            unclear += 1
    assert unclear >= 19


def test_an_explosion_ends_the_test_and_one_hard_batch_does_not() -> None:
    losses = [2.0] * 20 + [50.0] + [1.0] * 10 + [9.0] * 50
    each = iter(losses)
    rates, seen, diverged = rise(lambda rate: next(each), 1e-6, 1, 81)
    assert diverged and len(seen) == len(rates) == 34 and seen.tolist() == losses[:34]
    each = iter([2.0] * 15 + [float("nan")])
    rates, seen, diverged = rise(lambda rate: next(each), 1e-6, 1, 81)
    assert diverged and len(seen) == len(rates) == 15


def test_what_gives_no_answer_is_refused() -> None:
    rates = np.geomspace(1e-6, 1, 50)
    with pytest.raises(
        RunError, match=r"the loss did not fall at any learning rate from 1\.0e-06 to 1\.0e\+00; give a"
    ):
        judged(rates, np.linspace(1, 3, 50), False, 50)
    with pytest.raises(RunError, match="no longer finite after 4 steps"):
        judged(rates[:4], np.ones(4), True, 50)


def test_groups_keep_their_factor() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))]}, {"params": [torch.nn.Parameter(torch.ones(1))]}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    optimizer.param_groups[1]["lr_scale"] = 0.1
    set_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.05]


def test_a_setting_is_scaled_to_the_batch(tmp_path: Path) -> None:
    recipe = tiny(tmp_path, {"optim.lr": 5e-4, "optim.lr_batch": 512, "optim.batch_size": 1024})
    assert as_setting(recipe, 1e-3) == pytest.approx(5e-4)
    assert as_setting(tiny(tmp_path, {"optim.lr": 5e-4}), 1e-3) == pytest.approx(1e-3)


def files(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_real_steps_touch_nothing_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a teacher that is there and one that is still to be trained; before a run, and beside a finished one."""
    monkeypatch.chdir(tmp_path)
    said: list[str] = []

    class Told(Display):
        def say(self, message: str) -> None:
            said.append(message)

    changes: dict[str, Any] = {"optim.accumulate": 2, "optim.lr": 1e-3, "data.augment.mixup": 0.0,
                               "data.augment.cutmix": 0.0}  # fmt: skip
    one = {"conv": {**CNN, "train": {"epochs": 1}}}
    recipe = tiny(tmp_path / "run", {**changes, "loss.temperatures": {"inv": 2.0}}, teachers={**one, "inv": INN})
    found = find_lr(recipe, 1e-6, 3.0, 60, Told())
    assert sum("is still to be trained; its token learns the labels" in line for line in said) == 2
    assert list(tmp_path.iterdir()) == [] and 10 <= len(found.losses) == len(found.smoothed) <= 60
    assert found.steepest < found.lowest and found.losses[0] == pytest.approx(3 * np.log(10), rel=0.2)
    run(tiny(tmp_path / "run", changes, teachers=one))
    before = files(tmp_path)
    find_lr(tiny(tmp_path / "run", changes, teachers=one), 1e-6, 3.0, 60, Told())
    assert files(tmp_path) == before
    assert not [line for line in said[-3:] if "still to be trained" in line]


@pytest.mark.parametrize("changes", [{"loss.gate": "harder", "loss.gate_drop": 0.5}, {"advice.change": "mean"}])
def test_settings_for_several_teachers_wait_for_them(tmp_path: Path, changes: dict[str, Any]) -> None:
    """All of them are still to be trained: their tokens, or that of their mean, learn the labels here."""
    later = {name: {**CNN, "train": {"epochs": 1}} for name in ("conv", "second")}
    with mock.patch("coadvise.training.range_test.judged", lambda rates, losses, *_: losses):
        losses = find_lr(tiny(tmp_path / "run", changes, teachers=later), 1e-5, 1e-3, 10)
    tokens = 1 if "advice.change" in changes else 2
    assert len(losses) == 10 and losses[0] == pytest.approx((1 + tokens) * np.log(10), rel=0.2)


def test_heads_learn_first_and_teachers_are_prepared_once(tmp_path: Path) -> None:
    """Nothing but heads and tokens moves in the epochs of `schedule.head_epochs`, and everything afterwards."""
    run(tiny(tmp_path / "school", teachers={"conv": {**CNN, "train": {"epochs": 1}}}))
    teacher = {key: value for key, value in CNN.items() if key != "train"}
    teacher["checkpoint"] = str(tmp_path / "school" / "teachers" / "conv" / "best.safetensors")
    recipe = tiny(tmp_path / "run", {"schedule.head_epochs": 2}, teachers={"conv": teacher})
    moved: list[set[str]] = []
    real, before = train_step, dict[str, torch.Tensor]()

    def watched(setup: Any, state: Any, *rest: Any) -> Any:
        for name, value in state.student.named_parameters():
            before.setdefault(name, value.detach().clone())
        terms = real(setup, state, *rest)
        moved.append({name for name, value in state.student.named_parameters() if not torch.equal(value, before[name])})
        return terms

    with (
        mock.patch("coadvise.training.range_test.train_step", watched),
        mock.patch("coadvise.training.range_test.on_device", wraps=on_device) as prepared,
        mock.patch("coadvise.training.trial.on_device", wraps=on_device) as again,
    ):
        find_lr(recipe, 1e-6, 1e-2, 20)
    assert prepared.call_count == 1 and not again.called
    assert len(moved) == 10 + 20  # two epochs of five updates
    assert all(name.startswith(("head", "advised_heads", "tokens")) for one in moved[:10] for name in one)
    assert moved[9] and any(name.startswith("blocks") for name in moved[-1])
