"""A student that answers with the mean of its heads (`inference: average`) is judged by that, everywhere."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.recipes import TINY, tiny
from helpers.runs import QUIET, run
from sklearn.metrics import confusion_matrix, recall_score
from typer.testing import CliRunner

import coadvise
from coadvise.checkpoints.model_file import read_header
from coadvise.checkpoints.trained import load_trained
from coadvise.cli.main import app
from coadvise.data.decode import decode
from coadvise.data.sources.opening import open_sources
from coadvise.evaluation.asking import ask
from coadvise.evaluation.similarity import answers as outputs_of
from coadvise.recipe.schema import Recipe
from coadvise.reports.classes import calibration_section
from coadvise.reports.page import Text
from coadvise.reports.plots.style import Drawing
from coadvise.reports.run import run_page
from coadvise.run.answers import Answers
from coadvise.run.comparison import compare
from coadvise.run.pictures import read_pictures
from coadvise.run.reading import read_run
from coadvise.run.result import RunResult
from coadvise.run.standing import verdict_of


def averaging(folder: Path, **changes: object) -> Recipe:
    """Three heads that all learn the labels, on rates at which they differ."""
    student = {"model": "cit_tiny", "options": TINY["student"]["options"] | {"inference": "average"},
               "tokens": {"conv": "conv", "inv": "inv"}}  # fmt: skip
    rates = {"optim.lr": 0.01, "schedule.epochs": 4, "schedule.warmup_epochs": 0, "data.augment": {"policy": "none"}}
    return tiny(folder, rates | changes, student=student)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    folder = tmp_path_factory.mktemp("averaging") / "run"
    return folder, run(averaging(folder, **{"optim.ema": 0.5}))


@pytest.fixture(scope="module")
def predicted(finished: tuple[Path, RunResult]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, and what `load` predicts of the validation images, with its probability."""
    source, model = open_sources(load_trained(finished[0]).data)[1], coadvise.load(finished[0])
    said = model.predict([decode(source.read(i), str(i)) for i in range(len(source))])
    place = [model.classes.index(one.name) for one in said]
    return source.labels, np.array(place), np.array([one.probability for one in said])


Predicted = tuple[np.ndarray, np.ndarray, np.ndarray]


def test_result_and_verdict_are_of_what_load_predicts(finished: tuple[Path, RunResult], predicted: Predicted) -> None:
    (folder, result), (label, answer, _) = finished, predicted
    right = int((answer == label).sum())
    assert right != round(result.delivered["accuracy/class"] * len(label))  # otherwise this shows nothing
    said = verdict_of(result, folder)
    assert said is not None and said.headline.startswith(f"The student is right on {right} of {len(label)} validation")
    assert result.accuracy == pytest.approx(right / len(label)) == result.best.value
    assert RunResult.read(folder / "result.json") == result
    table = confusion_matrix(label, answer, labels=range(10))
    assert [one.right for one in result.per_class.values()] == np.diag(table).tolist()
    assert [one.answered for one in result.per_class.values()] == table.sum(axis=0).tolist()
    header = read_header(folder / "best.safetensors")
    assert header is not None and header.accuracy == pytest.approx(right / len(label))


def test_answers_pictures_and_calibration_are_of_what_load_predicts(
    finished: tuple[Path, RunResult], predicted: Predicted, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("classes", "curves"):  # what the figures say in words is enough here
        monkeypatch.setattr(f"coadvise.reports.{module}.draw", lambda name, alt, _: Drawing(name, alt, "", b""))
    (folder, _), (label, answer, sure) = finished, predicted
    kept = Answers.read(folder / "answers.safetensors")
    assert np.array_equal(kept.right(), answer == label) and np.array_equal(kept.answer, answer)
    np.testing.assert_allclose(kept.sure, sure, atol=1e-5)
    pictures = read_pictures(folder / "pictures.json")
    assert pictures is not None
    for one in (one for found in pictures.values() for one in found):
        assert int(one.answer) == answer[one.index] and one.confidence == pytest.approx(sure[one.index], abs=1e-4)
    place = [math.ceil(15 * p) for p in sure.tolist()]
    gaps = {b: sum((answer == label)[i] - sure[i] for i, own in enumerate(place) if own == b) for b in set(place)}
    error = 100 * sum(map(abs, gaps.values())) / len(label)
    section = calibration_section(kept)
    assert section is not None and isinstance(section.parts[0], Text)
    said = f"The expected calibration error is {error:.1f} points: on average the mean of all outputs is "
    assert section.parts[0].text.startswith(said)
    going = run_page(replace(read_run(folder), result=None))  # while it trains, its recipe says so
    assert "top-1 of the mean of all outputs after 4 epochs" in going.headline
    (drawing,) = going.sections[0].parts
    assert isinstance(drawing, Drawing) and "mean of all outputs, averaged weights" in drawing.alt


def test_evaluate_and_compare_are_of_what_load_predicts(
    finished: tuple[Path, RunResult], predicted: Predicted, tmp_path: Path
) -> None:
    (folder, _), (label, answer, _) = finished, predicted
    printed = json.loads(CliRunner().invoke(app, ["evaluate", str(folder), "--per-class", "--json"]).stdout)
    assert printed["classes"]["confusion"] == confusion_matrix(label, answer, labels=range(10)).tolist()
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    recipe = (other / "recipe.yaml").read_text()
    (other / "recipe.yaml").write_text(recipe.replace("lr: 0.01", "lr: 0.02"))
    kinds = compare([folder, other]).kinds
    assert kinds[0].shares == [pytest.approx((answer == label).mean())]
    expected = recall_score(label, answer, average=None, labels=range(10)).tolist()
    assert list(kinds[0].recall().values()) == pytest.approx(expected)


def test_as_a_teacher_it_is_what_load_predicts(finished: tuple[Path, RunResult], predicted: Predicted) -> None:
    (folder, _), (label, answer, _) = finished, predicted
    trained = load_trained(folder)
    sources = open_sources(trained.data)
    found = ask([str(folder)], sources, trained.data, None, device=torch.device("cpu"), display=QUIET)
    assert found.candidates[0].accuracy(found.label) == pytest.approx((answer == label).mean())
    assert torch.equal(outputs_of(trained, sources[1]).right(), torch.from_numpy(answer == label))


def test_files_of_earlier_versions_are_of_the_class_token(finished: tuple[Path, RunResult], tmp_path: Path) -> None:
    folder, result = finished
    content = json.loads((folder / "result.json").read_text())
    assert content.pop("answering") == "average"
    (tmp_path / "result.json").write_text(json.dumps(content))
    assert RunResult.read(tmp_path / "result.json").accuracy == result.delivered["accuracy/class"]
