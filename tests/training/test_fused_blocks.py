"""Runs whose student takes each block as one operation: the losses of plain ones, the same bits when resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.recipes import tiny
from helpers.runs import assert_same_run, interrupted, run

from coadvise.models import whole_block
from coadvise.ops.block import code, has_bf16
from coadvise.run.folder import read_metrics
from coadvise.training import choosing

CHANGES = {
    "student.options": {"patch_size": 2, "embed_dim": 32, "depth": 3, "num_heads": 2},
    "student.tokens": {"conv": "conv", "inv": "inv"},
}


@pytest.fixture(autouse=True)
def always(monkeypatch):
    if code() is None:
        pytest.skip("no C++ compiler, or a PyTorch without sgemm")
    monkeypatch.setattr(choosing, "ENOUGH", 1)


def form(folder: Path) -> str:
    return json.loads((folder / "manifest.json").read_text())["compiled"]


@pytest.fixture(params=["fp32", "bf16"])
def precision(request, monkeypatch):
    """With and without rounded factors; the product of these is there on processors without matrix units, too."""
    if request.param == "bf16" and not has_bf16():
        pytest.skip("a PyTorch whose library has no product of factors in bfloat16")
    monkeypatch.setattr(choosing, "bf16_pays", lambda: True)
    return request.param


@pytest.fixture
def taken(monkeypatch):
    """Of each block that was computed as one operation, whether in bfloat16."""
    found, usual = [], whole_block.transformer_block

    def noted(*args):
        found.append(args[-1])
        return usual(*args)

    monkeypatch.setattr(whole_block, "transformer_block", noted)
    return found


def test_the_losses_are_those_of_a_plain_run(tmp_path, precision, taken):
    for name, compiling in (("plain", False), ("fused", "auto")):
        assert not taken
        run(tiny(tmp_path / name, CHANGES | {"run.compile": compiling, "run.precision": precision}))
        assert form(tmp_path / name) == name
    assert taken and set(taken) == {precision == "bf16"}
    found, expected = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("fused", "plain"))
    lines = 0
    for line, other in zip(found, expected, strict=True):
        for key in ("terms", "metrics"):
            values = {name: value for name, value in line.get(key, {}).items() if "accuracy" not in name}
            expected_values = {name: other[key][name] for name in values}
            assert values == pytest.approx(expected_values, rel=1e-4 if precision == "fp32" else 2e-2)
            lines += bool(values)
    assert lines > 10


def test_a_resumed_run_goes_on_in_the_same_bits(tmp_path, monkeypatch, precision):
    changes = CHANGES | {"run.precision": precision}
    run(tiny(tmp_path / "a", changes))
    recipe = tiny(tmp_path / "b", changes)
    interrupted(recipe, 11)
    monkeypatch.setattr(choosing, "ENOUGH", 10**9)  # what was begun counts
    monkeypatch.setattr(choosing, "bf16_pays", lambda: False)
    run(recipe, resume=True)
    assert form(tmp_path / "b") == "fused"
    assert_same_run(tmp_path / "a", tmp_path / "b")
