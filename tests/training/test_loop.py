"""The loop: micro-batches, precision, broken numbers, and fast paths that change no loss."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from helpers.compiling import quickly
from helpers.recipes import CNN, INN, tiny, with_weights
from helpers.runs import losses, run, weights
from torch import nn

from coadvise.checkpoints.build import build_student
from coadvise.errors import RunError
from coadvise.recipe.schema import Run
from coadvise.run.folder import read_metrics
from coadvise.training.loop import _add_to_window
from coadvise.training.setup import Setup
from coadvise.training.trained import Losses


def test_accumulation_keeps_every_term(tmp_path: Path) -> None:
    """Two micro-batches of 10 are one batch of 20: same losses and weights, teachers included."""
    # BatchNorm-free student without drop path, so that the split cannot matter.
    changes = {"student.options.drop_path_rate": 0.0}
    teachers = {"conv": CNN, "inv": INN}
    run(tiny(tmp_path / "whole", changes, teachers=teachers))
    # The same teachers: they have BatchNorm, so that training them in halves would differ.
    split = tiny(tmp_path / "split", {**changes, "optim.accumulate": 2}, teachers=with_weights(tmp_path / "whole"))
    run(split)
    whole = list(read_metrics(tmp_path / "whole" / "metrics.jsonl"))
    parts = list(read_metrics(tmp_path / "split" / "metrics.jsonl"))
    for a, b in zip(whole, parts, strict=True):
        if a["kind"] == "train":
            assert b["terms"] == pytest.approx(a["terms"], rel=1e-4)
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "split")
    for key in a:
        if key.startswith("model."):
            torch.testing.assert_close(a[key], b[key], atol=2e-4, rtol=1e-3)


def test_bf16_trains_and_writes_float32(tmp_path: Path) -> None:
    """In bfloat16; on the CPU attention is not the fused one, which is slow there."""
    plain = torch.nn.functional.scaled_dot_product_attention
    with mock.patch("torch.nn.functional.scaled_dot_product_attention", side_effect=plain) as fused:
        result = run(tiny(tmp_path / "run", {"run.precision": "bf16", "run.device": "cpu"}))
    assert not [call for call in fused.call_args_list if call.args[0].dtype == torch.bfloat16]
    assert "bf16" in result.provenance["precision"]
    assert all(v.dtype == torch.float32 for k, v in weights(tmp_path / "run").items() if k.startswith("model."))


def test_a_short_run_has_a_point_for_each_step(tmp_path: Path) -> None:
    run(tiny(tmp_path / "run", {"run.log_every": None, "schedule.epochs": 2}))
    steps = [line["step"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "train"]
    assert steps == list(range(1, 11))  # of 5 in each epoch


@pytest.mark.parametrize(("total", "lines"), [(1, 1), (49, 49), (50, 50), (99, 99), (100, 50), (2499, 51), (9999, 199)])
def test_a_run_has_fifty_points_at_least(total: int, lines: int) -> None:
    every = Setup.log_every.fget(SimpleNamespace(run=Run(), total_steps=total))  # type: ignore[attr-defined]
    assert len(range(every, total + 1, every)) == lines


def test_broken_weights_do_not_replace_good_ones(tmp_path: Path) -> None:
    """The weights break after step 7, between log lines; the checkpoint of step 7 stays."""

    recipe = tiny(tmp_path / "run", {"run.checkpoint_every": 1, "run.log_every": 50})
    torch.manual_seed(0)
    student = build_student(recipe.student, recipe.tokens(), 10, recipe.data.image_size)
    seen = 0

    def hook(module: nn.Module, inputs: Any) -> None:
        nonlocal seen
        seen += module.training
        if seen == 8:
            with torch.no_grad():
                student.head.weight.fill_(float("nan"))

    student.patch_embed.register_forward_pre_hook(hook)
    with pytest.raises(RunError, match="weights are not finite at step 8"):
        run(recipe, student=student)
    assert all(torch.isfinite(v).all() for k, v in weights(tmp_path / "run").items() if v.is_floating_point())


def test_divergence_is_named(tmp_path: Path) -> None:
    changes = {"optim.lr": 1e30, "optim.clip": None, "schedule.warmup_lr": 1e20}
    with pytest.raises(RunError, match="not finite at step"):
        run(tiny(tmp_path / "run", changes))


def test_fast_paths_are_taken_and_change_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused teachers, compiled involution, fused AdamW and images in memory against the plain ways, in float32."""
    from coadvise.data import loader as loading
    from coadvise.ops import involution_cpu, involution_eager
    from coadvise.training.setup import prepare

    prepared = []

    def spy(*args: Any) -> Any:
        prepared.append(prepare(*args))
        return prepared[-1]

    calls = {"compiled": 0, "eager": 0}
    for name, module in (("compiled", involution_cpu), ("eager", involution_eager)):
        plain = module.forward

        def counted(*args: Any, name: str = name, plain: Any = plain) -> Any:
            calls[name] += 1
            return plain(*args)

        monkeypatch.setattr(module, "forward", counted)
    monkeypatch.setattr("coadvise.training.train.prepare", spy)
    changes = {"run.log_every": 1, "run.precision": "fp32", "data.augment.policy": "light"}
    advisers = {"conv": CNN, "inv": INN}
    run(tiny(tmp_path / "fast", changes, teachers=advisers))
    setup, state = prepared[-1]
    assert setup.validation.teachers.unfused() == () and state.optimizer.defaults["fused"]
    assert setup.loader.stays
    if involution_cpu.library() is not None:
        assert calls["compiled"] > 0 and calls["eager"] == 0
    monkeypatch.setattr(loading, "RESIDENT_BYTES", 0)
    monkeypatch.setattr(involution_cpu, "library", lambda: None)
    shutil.copytree(tmp_path / "fast" / "teachers", tmp_path / "plain" / "teachers")
    monkeypatch.setattr("coadvise.models.teachers.fused", lambda *_: None)
    run(tiny(tmp_path / "plain", changes, teachers=advisers))
    setup, _ = prepared[-1]
    assert not setup.loader.stays and setup.validation.teachers.unfused() == ("conv", "inv")
    fast, plain = losses(tmp_path / "fast"), losses(tmp_path / "plain")
    assert len(fast) == len(plain) > 5 and calls["eager"] > 0
    assert np.allclose(fast, plain, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="torch.compile needs a C++ compiler")
def test_a_compiled_student_learns_the_same(tmp_path: Path) -> None:
    """As one graph."""
    changes = {"run.log_every": 1, "run.precision": "fp32", "schedule.epochs": 2, "student.options.drop_path_rate": 0.0}
    changes |= {"student.options.depth": 1, "data.val_size": 100, "run.eval_batch_size": 20}
    for name, setting, form in (("eager", False, "plain"), ("compiled", True, "whole")):
        with quickly():
            run(tiny(tmp_path / name, {**changes, "run.compile": setting}, teachers={}))
        assert json.loads((tmp_path / name / "manifest.json").read_text())["compiled"] == form
    assert np.allclose(losses(tmp_path / "eager"), losses(tmp_path / "compiled"), rtol=1e-4)


def test_a_window_that_lacks_a_term_goes_on_with_it() -> None:
    """As one of a run that was saved when its student had fewer terms."""
    state: Any = SimpleNamespace(window={"total": torch.tensor(2.0).double()}, count=SimpleNamespace(window=1))
    for _ in range(2):
        _add_to_window(state, ("total", "class"), Losses(torch.tensor(3.0), torch.tensor([3.0, 1.0])))
    assert state.window == {"total": 8.0, "term.class": 2.0} and state.count.window == 3
