"""A run on images of any number of classes, from a table to its report, its answers and its exported file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score
from typer.testing import CliRunner

from coadvise.checkpoints.trained import load_trained
from coadvise.cli.main import app
from coadvise.data.loader import EvalLoader
from coadvise.data.sources.opening import open_sources
from coadvise.errors import CheckpointError, CoadviseError, ModelError
from coadvise.evaluation.inference import evaluate_trained
from coadvise.export.opening import load
from coadvise.recipe.schema import Recipe
from coadvise.reports.run import run_report
from coadvise.run.comparison import compare
from coadvise.run.folder import read_metrics
from coadvise.run.several import SeveralAnswers
from tests.helpers.recipes import CNN, tiny, with_weights
from tests.helpers.runs import assert_same_run, interrupted, run

COLOURS = ("red", "green", "blue")
DATA: dict[str, Any] = {
    "labels": "several", "image_size": 8, "eval_crop": 1.0, "workers": 0, "val_fraction": 0.4,
    "augment": {"policy": "light", "erasing": 0.0, "mixup": 0.4, "cutmix": 0.4},
}  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in which each colour is bright or not: 0 to 3 classes."""
    folder, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    rows = ["image,label"]
    for i in range(120):
        there = rng.random(3) < 0.4
        pixels = rng.integers(0, 120, (8, 8, 3)) + 120 * there
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
        rows.append(f"{i}.png,{'|'.join(name for name, one in zip(COLOURS, there, strict=True) if one)}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder / "labels.csv"


def recipe(table: Path, output: Path, changes: dict[str, Any] | None = None, **parts: Any) -> Recipe:
    parts = {"data": DATA | {"source": str(table)}, "teachers": {"conv": CNN}, **parts}
    return tiny(output, {"optim.lr": 1e-2, **(changes or {})}, **parts)


@pytest.fixture(scope="module")
def folder(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("several") / "run"
    run(recipe(table, place))
    return place


def test_what_it_says_is_scikit_learns(table: Path, folder: Path) -> None:
    result = json.loads((folder / "result.json").read_text())
    trained = load_trained(folder, several=True)
    source = open_sources(trained.data, several=True)[1]
    (batch,) = EvalLoader(source, trained.data, 200)
    with torch.no_grad():
        logits = trained.model(batch.images)
    truth = np.array([[name in label for name in ("blue", "green", "red")] for label in labels_of(table, source)])
    np.testing.assert_array_equal(batch.target.numpy() > 0.5, truth)
    header = result["best"]
    expected = average_precision_score(truth, logits.numpy())
    assert header["value"] == pytest.approx(expected, abs=1e-6)
    assert header["value"] == pytest.approx(max(line["metrics"]["map/class"] for line in evaluations(folder)))
    assert expected > 0.8  # the colours are easy
    final = SeveralAnswers.read(folder / "answers.safetensors")
    assert result["final"]["map/class"] == pytest.approx(
        average_precision_score(final.truth, final.outputs["class"]), abs=1e-6
    )
    assert result["final"]["teacher_map/conv"] == pytest.approx(
        average_precision_score(final.truth, final.teachers["conv"]), abs=1e-6
    )
    assert not [name for name in result["final"] if "accuracy" in name]
    assert list(result["several"]["average_precision"]) == ["blue", "green", "red"]
    assert result["per_class"]["red"]["support"] == int(truth[:, 2].sum())


def labels_of(table: Path, source: Any) -> list[str]:
    by_name = dict(line.split(",") for line in table.read_text().splitlines()[1:])
    return [by_name[Path(source.describe(i)).name] for i in range(len(source))]


def evaluations(folder: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "eval"]


def test_the_report_says_nothing_of_accuracy(folder: Path) -> None:
    page = run_report(folder).read_text()
    text = page.partition('id="recipe"')[0]
    assert "mAP" in text
    assert "Average precision" in text
    for word in ("accuracy", "Accuracy", "top-1", "Top-1", "Confusion", "guessing"):
        assert word not in text, word


def test_the_commands_show_it(table: Path, folder: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    said = runner.invoke(app, ["evaluate", str(folder), "--per-class"])
    assert said.exit_code == 0, said.output
    assert "mAP" in said.output
    assert "average precisions (AP)" in said.output
    assert "accuracy" not in said.output
    said = runner.invoke(app, ["evaluate", str(folder), "--data", str(table), "--json"])
    metrics = json.loads(said.stdout)
    assert metrics["samples"] == 120
    Image.new("RGB", (8, 8), (230, 60, 230)).save(tmp_path / "pink.png")
    said = runner.invoke(app, ["predict", str(tmp_path / "pink.png"), "--model", str(folder), "--json"])
    answer = json.loads(said.stdout)
    trained = load_trained(folder, several=True)
    classifier = load(folder)
    with torch.no_grad():
        odds = trained.model(classifier.transform(tmp_path / "pink.png")[None]).sigmoid()[0].tolist()
    assert answer["classes"] == pytest.approx(dict(zip(trained.classes, odds, strict=True)), abs=1e-6)
    assert set(answer["present"]) == {name for name, one in zip(trained.classes, odds, strict=True) if one > 0.5}
    assert classifier.probabilities(tmp_path / "pink.png")[0] == pytest.approx(odds, abs=1e-6)


def test_an_exported_file_answers_each_class(folder: Path, tmp_path: Path) -> None:
    runner, file = CliRunner(), tmp_path / "model.onnx"
    said = runner.invoke(app, ["export", str(folder), "--to", "onnx", "--output", str(file)])
    assert said.exit_code == 0, said.output
    assert onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map["labels"] == "several"
    Image.new("RGB", (8, 8), (230, 60, 230)).save(tmp_path / "pink.png")
    found, own = (load(path).probabilities(tmp_path / "pink.png") for path in (file, folder))
    np.testing.assert_allclose(found, own, atol=1e-5)
    (one,) = load(file).predict(tmp_path / "pink.png")
    assert one.present is not None
    said = runner.invoke(app, ["export", str(folder), "--to", "int8"])
    assert isinstance(said.exception, ModelError)
    assert not (folder / "export").exists()


@pytest.mark.slow
def test_a_resumed_run_is_the_same(table: Path, folder: Path, tmp_path: Path) -> None:
    again = recipe(table, tmp_path / "again", teachers=with_weights(folder) | {})
    again = again.model_copy(update={"teachers": {"conv": again.teachers["conv"]}, "loss": again.loss})
    whole = again.model_copy(update={"run": again.run.model_copy(update={"output": str(tmp_path / "whole")})})
    run(whole)
    interrupted(again, step=7)
    run(again, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "again")
    (probe,) = json.loads((tmp_path / "whole" / "result.json").read_text())["baselines"]["several"]
    model = load_trained(tmp_path / "whole" / "baselines" / "conv", several=True)
    metrics = evaluate_trained(model, open_sources(model.data, several=True)[1])
    assert probe["mean_average_precision"] == pytest.approx(metrics["map/class"], abs=2e-3)
    assert probe["mean_average_precision"] > 0.8
    page = run_report(tmp_path / "whole").read_text()
    assert "linear probe on resnet10 (conv) " in page and "(mAP)." in page


def test_what_cannot_do_with_it_refuses(table: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CoadviseError, match=r"any number of classes \(data.labels=several\)"):
        compare([folder, folder.parent / "run" / "teachers" / "conv"])
    with pytest.raises(CheckpointError, match="any number of classes"):
        load_trained(folder)
    for words in (["evaluate", str(folder), "--corruptions"], ["push", str(folder), "me/x", "--dry-run"]):
        said = CliRunner().invoke(app, words)
        assert isinstance(said.exception, CoadviseError), said.output
        assert "any number of classes" in str(said.exception)
    single = tiny(tmp_path / "one", teachers={"conv": with_weights(folder)["conv"]})
    with pytest.raises(ModelError, match="'conv' answers with any number of classes for each image"):
        run(single)
    frozen = recipe(table, tmp_path / "frozen", teachers={"conv": {"model": "resnet10", "pretrained": True}})
    with pytest.raises(ModelError, match=r"'conv' answers with one class for each image, and data.labels=several"):
        run(frozen)
    assert not (tmp_path / "one" / "result.json").exists()


def test_a_teacher_no_better_than_chance_is_refused(table: Path, tmp_path: Path) -> None:
    class Blind(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(x), 3)

    with pytest.raises(ModelError, match=r"mAP of .* no better than chance"):
        run(recipe(table, tmp_path / "run", {"run.allow_weak": False}, teachers={}), teachers={"blind": Blind()})
