"""A training step: its parts, the loop around it, and what is said of them."""

from __future__ import annotations

import time

import pytest
import torch
from helpers.recipes import CNN, INN, tiny

from coadvise.cost.hints import hints
from coadvise.cost.profile import Kernel, Profile, covered, profiled
from coadvise.cost.step import StepCost, step_cost
from coadvise.data.loader import TrainLoader
from coadvise.training import loop


def test_the_parts_of_a_step(tmp_path, monkeypatch):
    steps = []
    real = loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda *words, **more: steps.append(1) or real(*words, **more))
    recipe = tiny(tmp_path, {"optim.accumulate": 2}, teachers={"conv": CNN, "inv": INN})
    cost = step_cost(recipe, rounds=2)
    names = [f"teacher {name}" for name in recipe.teachers]
    assert list(cost.parts) == ["input", *names, "student forward", "backward", "optimizer"]
    assert all(value > 0 for value in cost.parts.values()) and cost.flops > 0 and 0 < cost.of_peak < 1
    assert cost.whole < 3 * sum(cost.parts.values()) and cost.batch_size == 10
    assert len(steps) >= 2 * (1 + 2)  # the loop that was measured is the training's own
    assert cost.memory is None or cost.memory > 2**20
    assert (cost.precision, cost.compiled, cost.stays) == ("fp32", "not compiled", True)


def test_input_that_takes_its_time_is_seen(tmp_path, monkeypatch):
    batches = TrainLoader.batches

    def slow(self, keys):
        for batch in batches(self, keys):
            time.sleep(0.2)
            yield batch

    monkeypatch.setattr(TrainLoader, "batches", slow)
    recipe = tiny(tmp_path)
    cost = step_cost(recipe, rounds=3)
    assert cost.running - cost.whole == pytest.approx(0.2, abs=0.1) and cost.parts["input"] > 0.2
    assert hints(cost, recipe, 2)[0].startswith(f"the device waits for its input {cost.waiting:.0%} of the time")
    assert cost.images_per_s == 20 / cost.running


def test_operations_are_those_of_teachers_forward_and_backward(tmp_path):
    """By hand: three products for each of the student's linear layers, one for each of the teacher's."""
    from coadvise.cost.step import _operations
    from coadvise.models.teachers import Teachers

    class Student(torch.nn.Linear):
        def forward_tokens(self, x):
            return {"class": self(x.flatten(1))}

    teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16, 7))
    teachers = Teachers({"conv": teacher}, input_mean=[0.5], input_std=[0.5])
    found = _operations(Student(3 * 16, 5), teachers, 4, torch.device("cpu"))
    assert found == 2 * 48 * 7 + 2 * 2 * 48 * 5  # no gradient of pixels


def test_the_union_of_spans():
    assert covered([]) == 0.0
    assert covered([(3, 4), (0, 2), (1, 2.5), (1, 1.5)]) == 3.5


def test_a_profile_counts_what_waits():
    x = torch.ones(3)
    found = profiled(lambda: [x.sum().item() for _ in range(4)], torch.device("cpu"), steps=2)
    assert found.waits["aten::item"] == 2 and found.busy is None and found.launches == 0
    assert next(one for one in found.top if one.name == "aten::sum").calls == 2


def _cost(input_s=0.01, **changes):
    parts = {"input": input_s, "teacher conv": 0.02, "student forward": 0.03, "backward": 0.04, "optimizer": 0.01}
    return StepCost(**({"batch_size": 10, "parts": parts, "whole": 0.1, "flops": 10, "peak": 1e3} | changes))


def _busy(share, **waits):
    return Profile(0.1, share, 900.0, 950.0, dict(waits), (Kernel("gemm", 1.0, 2.0),))


@pytest.mark.parametrize(
    ("cost", "said"),
    [
        (_cost(running=0.2), "nothing waits; the largest part is backward"),  # the machine had other work
        (_cost(), "nothing waits; the largest part is backward, 40% of the step"),
        (
            _cost(0.3, running=0.2),
            "the device waits for its input 50% of the time: raise data.workers (now 0, of 8 cores)",
        ),
        (
            _cost(0.1, running=0.2, stays=True),
            "the device waits for its input 50% of the time, though the images stay on",
        ),
        (_cost(profile=_busy(0.6)), "the device does nothing 40% of a step: 950 launches a step"),
        (_cost(profile=_busy(0.6, cudaStreamSynchronize=3)), "the device does nothing 40% of a step: the host stops 3"),
        (_cost(profile=_busy(0.96)), "nothing waits; the largest part is backward"),
        (_cost(whole=0.04), "teachers take 50% of the step: `coadvise plan`"),
        (_cost(flops=60), "nothing waits, and 60% of a matrix product's speed is reached"),
    ],
)
def test_what_is_said_of_a_step(tmp_path, cost, said):
    assert hints(cost, tiny(tmp_path), 8)[0].startswith(said)
