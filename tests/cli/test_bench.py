"""What `coadvise bench --recipe` prints of a step."""

from __future__ import annotations

import pytest
from helpers import processes
from helpers.recipes import CNN, tiny

from coadvise.cli import bench as command
from coadvise.cost import step
from coadvise.cost.profile import Kernel, Profile
from coadvise.recipe.reading import dump_recipe


def test_a_step_on_a_gpu(monkeypatch, capsys):
    """The numbers of a known step, in the words of the terminal."""
    top = tuple(Kernel(f"kernel {i}", (9 - i) / 1e3, 2.0) for i in range(9))
    profile = Profile(0.05, 0.6, 1900.0, 1950.0, {"cudaStreamSynchronize": 2.0}, top)
    parts = {"input": 0.01, "teacher conv": 0.002, "student forward": 0.02, "backward": 0.024, "optimizer": 0.002}
    cost = step.StepCost(256, parts, 0.048, 10**12, 7e14, 0.05, 3 * 2**30, "bf16", "not compiled", True, profile)
    monkeypatch.setattr(step, "step_cost", lambda recipe, **options: cost)
    command.bench(["data.source=digits"], recipe="cifar10-cpu")
    lines = " ".join(capsys.readouterr().out.split())
    assert "5,120.0 images/s as it trains, in bf16, not compiled; memory at the peak: 3 GiB" in lines
    assert "3.0% of the 700 TFLOP/s that a matrix product reaches here" in lines
    assert "the device is busy 60% of a step, with 1,900 kernels in 1,950 launches" in lines
    assert "waits in a step: 2.0 cudaStreamSynchronize" in lines
    assert "kernel 5" in lines and "kernel 6" not in lines
    assert "the device does nothing 40% of a step: the host stops 2 times a step to wait for it" in lines


@pytest.mark.parametrize("stored", [False, True])
def test_a_step_on_this_machine(tmp_path, stored):
    teachers = {"conv": {**CNN, "train": None, "pretrained": True}} if stored else {"conv": CNN}
    recipe = tiny(tmp_path / "run", {"advice.source": "cache", "data.views": 2} if stored else {}, teachers=teachers)
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe))
    done = processes.run("coadvise", "bench", "--recipe", str(tmp_path / "r.yaml"), "--rounds", "1")
    assert done.returncode == 0, done.stderr
    for part in ("input", "student forward", "backward", "optimizer", "whole step", "step in the training loop"):
        assert part in done.stdout
    assert ("teacher conv" in done.stdout) != stored and "one step of 20 images" in done.stdout
    assert "images/s as it trains, in fp32, not compiled" in done.stdout and not (tmp_path / "run").exists()
