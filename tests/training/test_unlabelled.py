"""Training on images without labels: what is learnt from them, and that nothing else changes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.recipes import CNN, tiny, with_weights
from helpers.runs import assert_same_run, interrupted, run
from PIL import Image
from safetensors.torch import load_file

from coadvise.checkpoints.model_file import read_header
from coadvise.data.loader import TrainLoader
from coadvise.data.sources.unlabelled import open_for_training
from coadvise.errors import DataError, RecipeError
from coadvise.run.folder import read_metrics
from coadvise.run.result import RunResult
from coadvise.training.caching import cache_advice


@pytest.fixture(scope="module")
def loose(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of 61 images, and nothing said of them."""
    folder, rng = tmp_path_factory.mktemp("loose"), np.random.default_rng(0)
    for i in range(61):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i:02}.png")
    return str(folder)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("teachers")
    run(tiny(folder, {"schedule.epochs": 1, "schedule.warmup_epochs": 0}, teachers={"conv": CNN}))
    return {"conv": with_weights(folder)["conv"]}


def test_targets_of_images_without_labels(loose: str, tmp_path: Path) -> None:
    """Zeros; mixed with a labelled image they keep its share. Weights of classes count as without them."""
    for balance in ("none", "weights"):
        changes = {"data.unlabelled": loose, "data.balance": balance, "data.train_size": 39}
        recipe = tiny(tmp_path, changes, teachers={"conv": CNN})
        source, _ = open_for_training(recipe.data, recipe.teachers)
        loader = TrainLoader(source, recipe.data, 20, accumulate=4)
        counts = np.bincount(source.labels[:39], minlength=10)
        weights = 39 / (10 * counts) if balance == "weights" else np.ones(10)
        assert loader.labelled == 0.39
        order, mixed = loader.keys(3, 0, 100), 0
        for batch in loader.epoch(3):
            assert int((batch.label >= 0).sum()) in (1, 2)
            for at, position in enumerate(batch.position):
                other = order.index[position + 1 if position % 2 == 0 else position - 1]
                own = batch.label[at]
                assert own == source.labels[batch.index[at]]
                expected = np.zeros((2, 10))
                for row, label in enumerate((int(own), source.labels[other])):
                    if label >= 0:
                        expected[row] = 0.01
                        expected[row, label] = 0.91
                        expected[row] *= weights[label]
                # target = λ · own + (1 − λ) · partner's, for some λ
                target, (a, b) = batch.target[at].double().numpy(), expected
                lam = float((target - b) @ (a - b) / max((a - b) @ (a - b), 1e-9))
                assert target == pytest.approx(lam * a + (1 - lam) * b, abs=1e-6) and -1e-6 < lam < 1 + 1e-6
                mixed += int(own < 0 and bool(target.any()))
        assert mixed > 5


def test_a_run_with_unlabelled_images(loose: str, teachers: dict[str, Any], tmp_path: Path) -> None:
    """Resumed bit for bit; from stored advice as from live; the teacher learns from the labelled images alone."""
    changes = {
        "data.unlabelled": loose, "optim.accumulate": 2, "run.log_every": 1, "advice.folder": str(tmp_path / "c"),
        "schedule.epochs": 2, "data.val_size": 20,
    }  # fmt: skip
    first = run(tiny(tmp_path / "a", changes, teachers=teachers))
    assert first.steps == 2 * (161 // 20) and (first.data.train, first.data.unlabelled) == (100, 61)
    assert RunResult.read(tmp_path / "a" / "result.json") == first
    second = tiny(tmp_path / "b", changes, teachers=teachers)
    interrupted(second, 11)
    run(second, resume=True)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    cached = tiny(tmp_path / "cached", {**changes, "advice.source": "cache"}, teachers=teachers)
    cache_advice(cached)
    run(cached)
    for live, stored in zip(terms(tmp_path / "a"), terms(tmp_path / "cached"), strict=True):
        assert stored == pytest.approx(live, rel=2e-3, abs=2e-3)


def terms(folder: Path) -> list[dict[str, float]]:
    return [line["terms"] for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "train"]


def test_teachers_learn_from_the_labelled_images_alone(loose: str, tmp_path: Path) -> None:
    once = {"schedule.epochs": 1, "schedule.warmup_epochs": 0, "data.val_size": 20}
    run(tiny(tmp_path / "with", {**once, "data.unlabelled": loose}, teachers={"conv": CNN}))
    run(tiny(tmp_path / "without", once, teachers={"conv": CNN}))
    one, other = (tmp_path / name / "teachers" / "conv" / "best.safetensors" for name in ("with", "without"))
    a, b = load_file(one), load_file(other)
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    header = read_header(one)
    assert header is not None and header.recipe.data.unlabelled is None


def test_what_does_not_go_with_it(loose: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data.unlabelled and repeated augmentation exclude each other"):
        tiny(tmp_path, {"data.unlabelled": loose, "data.augment.repeats": 2})
    with pytest.raises(RecipeError, match="there are no teachers; add some"):
        run(tiny(tmp_path / "run", {"data.unlabelled": loose}))
    assert not (tmp_path / "run").exists()
    recipe = tiny(tmp_path)
    assert "unlabelled" not in recipe.content()["data"]
    assert recipe.fingerprint() != tiny(tmp_path, {"data.unlabelled": loose}).fingerprint()


def test_labels_alone_get_as_many_updates(loose: str, teachers: dict[str, Any], tmp_path: Path) -> None:
    changes = {
        "data.unlabelled": loose, "run.baselines": "labels", "schedule.epochs": 2, "data.val_size": 20,
        "data.train_size": 40,
    }  # fmt: skip
    found = run(tiny(tmp_path / "a", changes, teachers=teachers))
    alone = RunResult.read(tmp_path / "a" / "baselines" / "labels" / "result.json")
    assert found.steps == alone.steps == 2 * (101 // 20) and alone.epochs == 5
    assert (alone.data.train, alone.data.unlabelled) == (40, 0)
    with pytest.raises(DataError, match=r"fewer samples than a batch: 19 training images"):
        run(tiny(tmp_path / "b", {**changes, "data.train_size": 19}, teachers=teachers))
    assert not (tmp_path / "b").exists()
