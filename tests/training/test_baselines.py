"""What one would do instead: measured beside a run, without changing what the run computes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.recipes import CNN, INN, tiny, with_weights
from helpers.runs import assert_same_run, interrupted, run

from coadvise.checkpoints.trained import load_trained
from coadvise.data.sources.opening import open_sources
from coadvise.errors import RecipeError
from coadvise.evaluation.inference import evaluate_trained
from coadvise.recipe.schema import Recipe
from coadvise.run.folder import RunFolder
from coadvise.run.result import Baselines, RunResult
from coadvise.training.baselines import require_names


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose teachers others start from."""
    folder = tmp_path_factory.mktemp("school") / "run"
    run(tiny(folder, {"schedule.epochs": 1, "schedule.warmup_epochs": 0}, teachers={"conv": CNN, "inv": INN}))
    return folder


def by_their_files(school: Path) -> dict[str, dict[str, str]]:
    """Teachers of which the recipe says no more than their files."""
    return {
        name: {"model": settings["model"], "checkpoint": settings["checkpoint"]}
        for name, settings in with_weights(school).items()
    }


def of(folder: Path, school: Path, baselines: object, **changes: object) -> Recipe:
    return tiny(folder, {"run.baselines": baselines, "optim.ema": 0.9, **changes}, teachers=by_their_files(school))


@pytest.mark.slow
def test_a_run_is_bit_for_bit_the_same_with_probes_and_without(school: Path, tmp_path: Path) -> None:
    with_probes, without = of(tmp_path / "a", school, ["auto"]), of(tmp_path / "b", school, [])
    assert with_probes.fingerprint() == without.fingerprint()
    found, plain = run(with_probes), run(without)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert plain.baselines is None and found.baselines is not None
    assert [probe.of for probe in found.baselines.probes] == ["conv", "inv"] and not found.baselines.failed
    assert RunResult.read(tmp_path / "a" / "result.json") == found
    assert set(found.baselines.images_per_s) == {"student", "conv", "inv", "probe conv", "probe inv"}
    data = open_sources(with_probes.data)
    for probe in found.baselines.probes:
        assert (probe.samples, probe.train, probe.image_size) == (101, 100, 8)
        trained = load_trained(tmp_path / "a" / "baselines" / probe.of)
        assert evaluate_trained(trained, data[1])["accuracy/class"] == pytest.approx(probe.accuracy)


def test_probes_are_fitted_once_for_a_run(school: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(of(tmp_path / "run", school, ["auto"]), step=7)
    measured = (tmp_path / "run" / "baselines" / "measured.json").read_text()
    monkeypatch.setattr("coadvise.training.baselines.linear_probe", None)
    found = run(of(tmp_path / "run", school, ["auto"]), resume=True)
    assert json.loads(measured) == json.loads((tmp_path / "run" / "result.json").read_text())["baselines"]
    assert found.baselines is not None and len(found.baselines.probes) == 2


def test_a_student_that_starts_from_weights_is_probed(school: Path, tmp_path: Path) -> None:
    tokens = {"conv": "conv", "inv": "inv"}
    changes = {"student.checkpoint": str(school), "student.tokens": tokens, "schedule.epochs": 2}
    recipe = tiny(tmp_path / "run", changes)
    found = run(recipe)
    assert found.baselines is not None and not found.baselines.failed
    (probe,) = found.baselines.probes
    trained = load_trained(tmp_path / "run" / "baselines" / "student")
    metrics = evaluate_trained(trained, open_sources(recipe.data)[1])
    assert metrics["accuracy/class"] == pytest.approx(probe.accuracy) and probe.of == "student"


def test_what_cannot_be_probed_stops_no_run(school: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coadvise.evaluation.probe.WORK", 1)
    found = run(of(tmp_path / "run", school, ["auto"], **{"schedule.epochs": 2}))
    assert found.baselines is not None and not found.baselines.probes
    assert "too long" in found.baselines.failed["conv"] and set(found.baselines.failed) == {"conv", "inv"}


def test_runs_without_given_weights_measure_nothing(tmp_path: Path) -> None:
    found = run(tiny(tmp_path / "run", {"schedule.epochs": 1, "schedule.warmup_epochs": 0}))
    assert found.baselines is None and not (tmp_path / "run" / "baselines").exists()


@pytest.mark.parametrize(
    ("name", "changes", "of"),
    [
        ("average", {}, "the mean of all outputs"),
        ("labels", {"run.baselines": ["auto", "labels"]}, "the student without its teachers"),
        ("student", {"student.checkpoint": "x.safetensors"}, "the linear probe of what the student starts from"),
    ],
)
def test_names_of_what_else_a_run_has(name: str, changes: dict[str, Any], of: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"'{name}' is the name of {of}.* here; give the teacher or token another"):
        run(tiny(tmp_path / "run", changes, teachers={name: CNN}))
    assert not (tmp_path / "run").exists()
    require_names(tiny(tmp_path, teachers={"labels": CNN, "student": CNN}), {"labels", "student"})


def test_what_a_resume_asks_for_anew_is_measured(school: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where an earlier start has saved, and measured something else."""
    folder = RunFolder(tmp_path / "run")
    interrupted(of(tmp_path / "run", school, ["auto"]), step=7)
    path = folder.baselines / "measured.json"
    known = Baselines.read(path)
    replace(known, probes=known.probes[:1]).write(path)
    run(of(tmp_path / "run", school, ["auto"]), resume=True)
    found = RunResult.read(folder.path / "result.json").baselines
    assert found is not None and [one.of for one in found.probes] == [one.of for one in known.probes]
