"""A run's result is that of the weights that it delivers: those of `best.safetensors`, not the last ones."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.recipes import CNN, tiny
from helpers.runs import assert_same_run, interrupted, run
from typer.testing import CliRunner

from coadvise.checkpoints.model_file import read_header
from coadvise.checkpoints.trained import load_trained
from coadvise.cli.main import app
from coadvise.data.sources.opening import open_sources
from coadvise.evaluation.inference import class_probabilities
from coadvise.reports.run import run_report
from coadvise.run.answers import Answers
from coadvise.run.folder import read_metrics
from coadvise.run.standing import verdict_of

# A rate at which the last weights are worse than earlier, averaged ones.
ROUGH = {"optim.lr": 0.01, "optim.ema": 0.5, "schedule.epochs": 3}
STUDENT = {name: value for name, value in CNN.items() if name != "train"}


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_everything_is_said_of_the_weights_that_are_kept(tmp_path: Path, precision: str) -> None:
    """Against the file itself, loaded and asked anew."""
    folder = tmp_path / "run"
    recipe = tiny(
        folder, {**ROUGH, "run.precision": precision, "run.device": "cpu"}, student=STUDENT, teachers={"conv": CNN}
    )
    result = run(recipe)
    header, trained = read_header(folder / "best.safetensors"), load_trained(folder)
    assert header is not None and (header.weights, header.epoch) == (result.best.weights, result.best.epoch)
    source = open_sources(recipe.data)[1]
    shares = class_probabilities(trained, source).double()
    answer = shares.argmax(dim=1).numpy()
    right = answer == source.labels
    seen = Answers.read(folder / "answers.safetensors")
    assert np.array_equal(seen.outputs["class"], answer) and "conv" in seen.teachers
    assert (seen.weights, seen.epoch) == (header.weights, header.epoch)
    assert result.accuracy == result.delivered["accuracy/class"] == pytest.approx(right.mean())
    assert sum(one.right for one in result.per_class.values()) == right.sum()
    said = verdict_of(result, folder)
    assert said is not None and said.headline.startswith(f"The student is right on {right.sum()} of {len(right)} ")
    if precision == "fp32":
        assert result.accuracy == result.best.value >= result.final["accuracy/class"]
    printed = json.loads(CliRunner().invoke(app, ["evaluate", str(folder), "--json"]).stdout)
    assert printed["accuracy/class"] == pytest.approx(result.accuracy)
    bins = defaultdict[int, list[float]](list)  # gaps by bin of confidence
    for sure, hit in zip(shares.max(dim=1).values.tolist(), right.tolist(), strict=True):
        bins[math.ceil(15 * sure)].append(hit - sure)
    expected = sum(abs(sum(gaps)) for gaps in bins.values()) / len(right)
    assert result.delivered["ece/class"] == pytest.approx(expected, abs=1e-6)
    assert printed["ece/class"] == pytest.approx(expected, abs=1e-6)
    page = run_report(folder).read_text()
    assert f"{right.sum()} of {len(right)} validation images" in page and f"weights after epoch {header.epoch}" in page


def test_the_last_weights_are_the_ones_to_go_on_from(tmp_path: Path) -> None:
    """Measuring the best weights leaves those that were trained as they are."""
    recipe = tiny(tmp_path / "run", ROUGH, student=STUDENT)
    result = run(recipe)
    assert result.best.weights == "ema" and result.best.epoch < 3  # otherwise this shows nothing
    assert result.accuracy == result.best.value > result.final["accuracy/class"]
    last = list(read_metrics(tmp_path / "run" / "metrics.jsonl"))[-1]["metrics"]
    torch.manual_seed(0)
    from coadvise.checkpoints.build import build_student
    from coadvise.models.students import as_student

    student = as_student(build_student(recipe.student, recipe.tokens(), 10, 8))
    other = run(tiny(tmp_path / "own", ROUGH, student=STUDENT), student=student)
    trained = load_trained(tmp_path / "run")
    trained.model.load_state_dict(student.state_dict())
    found = class_probabilities(trained, open_sources(recipe.data)[1]).argmax(dim=1).numpy()
    labels = open_sources(recipe.data)[1].labels
    assert (
        (found == labels).mean()
        == pytest.approx(other.final["accuracy/class"])
        == pytest.approx(last["accuracy/class"])
    )


@pytest.mark.slow
def test_a_run_that_was_cut_off_delivers_the_same(tmp_path: Path) -> None:
    run(tiny(tmp_path / "a", ROUGH, student=STUDENT, teachers={"conv": CNN}))
    interrupted(tiny(tmp_path / "b", ROUGH, student=STUDENT, teachers={"conv": CNN}), step=12)
    run(tiny(tmp_path / "b", ROUGH, student=STUDENT, teachers={"conv": CNN}), resume=True)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    one, other = (Answers.read(tmp_path / name / "answers.safetensors") for name in "ab")
    assert one.teachers.keys() == other.teachers.keys() and one.epoch == other.epoch
    assert all(np.array_equal(one.outputs[name], other.outputs[name]) for name in one.outputs)
