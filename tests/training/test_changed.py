"""Advice that is changed before the student sees it, each change against a naive computation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.caches import QUIET, losses, recipe_with, write
from helpers.recipes import CNN, tiny
from helpers.runs import assert_same_run, interrupted, run
from scipy.optimize import brentq
from scipy.special import log_softmax, softmax
from torch import Tensor

from coadvise.data.sources.opening import open_sources
from coadvise.data.views.finish import Batch
from coadvise.errors import ModelError, RecipeError
from coadvise.system.progress import Display
from coadvise.training.changed import alone_in_class, changed, mean_advice, next_in_ring, shuffled, smoothed

CLASSES = 5


def batch_of(target: Tensor, view: int = 3, first: int = 40) -> Batch:
    """The 40th and following images of a view; all but targets and keys is left out."""
    count = len(target)
    position = np.arange(first, first + count)
    return Batch(torch.empty(count, 0), target, target.argmax(dim=1), torch.arange(count), (), view, position)


def mixed_targets(count: int, smoothing: float = 0.0, share: float = 0.5) -> Tensor:
    """Two labels with random shares for a part of the images, one for the others."""
    rng = np.random.default_rng(0)
    lam = np.where(rng.random(count) < share, rng.random(count), 1.0)
    first, second = (np.eye(CLASSES)[rng.integers(0, CLASSES, count)] for _ in range(2))
    target = lam[:, None] * first + (1 - lam)[:, None] * second
    return torch.tensor(target * (1 - smoothing) + smoothing / CLASSES, dtype=torch.float32)


def logits(count: int, scale: float = 2.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(count, CLASSES, generator=torch.Generator().manual_seed(seed))


def entropy(p: np.ndarray) -> np.ndarray:
    return -np.sum(p * np.log(p, out=np.zeros_like(p), where=p > 0), axis=1)


@pytest.mark.parametrize("groups", [1, 4, 30])
def test_a_ring_is_what_a_loop_makes(groups: int) -> None:
    rng = np.random.default_rng(1)
    group, draws = rng.integers(0, groups, 40), rng.random(40)
    expected = np.full(40, -1)
    for one in set(group.tolist()):
        ring = sorted(np.flatnonzero(group == one), key=lambda row: draws[row])
        for here, following in zip(ring, [*ring[1:], ring[0]], strict=True):
            expected[here] = following
    found = next_in_ring(torch.tensor(group), torch.tensor(draws)).numpy()
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("in_class", [False, True])
def test_shuffled_advice_is_that_on_other_images(in_class: bool) -> None:
    """Nothing is lost, in no class where the classes are kept; nobody keeps its own; the same for all teachers."""
    target = mixed_targets(60)
    group = target.argmax(dim=1) if in_class else None
    advice = {"conv": logits(60), "inv": logits(60, seed=1)}
    found = shuffled(advice, batch_of(target), 7, group)
    source = [int((advice["conv"] == row).all(dim=1).nonzero()) for row in found["conv"]]
    assert sorted(source) == list(range(60)) and all(here != there for here, there in enumerate(source))
    assert torch.equal(found["inv"], advice["inv"][source])
    largest = target.argmax(dim=1)
    assert torch.equal(largest[source], largest) is in_class
    again, other = shuffled(advice, batch_of(target), 7, group), shuffled(advice, batch_of(target, view=4), 7, group)
    assert torch.equal(again["conv"], found["conv"]) and not torch.equal(other["conv"], found["conv"])


def test_the_only_image_of_a_class_keeps_its_advice() -> None:
    target = torch.eye(CLASSES)[[0, 1, 1, 2, 2, 2]]
    advice = {"conv": logits(6)}
    found = shuffled(advice, batch_of(target), 0, target.argmax(dim=1))["conv"]
    assert torch.equal(found[0], advice["conv"][0]) and torch.equal(found[[1, 2]], advice["conv"][[2, 1]])
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 1000)
    drawn = np.stack([rng.choice(labels, 20) for _ in range(4000)])
    alone = np.mean([(np.bincount(row) == 1).sum() / 20 for row in drawn])
    assert alone_in_class(labels, 20) == pytest.approx(alone, abs=0.005)


@pytest.mark.parametrize(("scale", "share", "already"), [(2.0, 0.5, 0.1), (2.0, 0.0, 0.0), (30.0, 1.0, 0.1)])
def test_smoothed_labels_are_as_unsure_as_the_teacher(scale: float, share: float, already: float) -> None:
    """Against a root found in float64: of the smoothing, or of the power where the teacher is surer than the labels."""
    target, advice = mixed_targets(64, already, share), logits(64, scale)
    found = smoothed({"conv": advice}, target, already)["conv"].double().numpy()
    labels = mixed_targets(64, 0.0, share).double().numpy()
    wanted = entropy(softmax(advice.double().numpy(), axis=1)).mean()

    def softened(strength: float) -> np.ndarray:
        """Smoothing from 0 to 1; below that a power from 1 up."""
        if strength >= 0:
            return (1 - strength) * labels + strength / CLASSES
        powers = labels ** (1 - strength)
        return powers / powers.sum(axis=1, keepdims=True)

    root = brentq(lambda strength: entropy(softened(strength)).mean() - wanted, -500, 1, xtol=1e-12)
    assert (root < 0) is (scale > 10)
    assert entropy(np.exp(found)).mean() == pytest.approx(wanted, rel=1e-3)
    assert np.exp(found) == pytest.approx(softened(root), abs=2e-4)


def test_the_mean_is_that_of_probabilities() -> None:
    advice = {name: logits(20, seed=seed) for seed, name in enumerate(("conv", "inv", "attn"))}
    each = [softmax(z.double().numpy(), axis=1) for z in advice.values()]
    found = mean_advice(advice).double().numpy()
    assert found == pytest.approx(np.log(np.mean(each, axis=0)), abs=1e-5)
    assert log_softmax(found, axis=1) == pytest.approx(found, abs=1e-5)


def test_the_mean_advises_one_token_from_live_and_stored_advice(trained: Path, tmp_path: Path) -> None:
    """The same losses but for the rounding of what is stored."""
    changes = {"advice.top_k": None, "schedule.epochs": 1, "schedule.warmup_epochs": 0, "advice.change": "mean"}
    write(recipe_with(trained, tmp_path, changes))
    live, stored = (
        recipe_with(
            trained, tmp_path, {**changes, "advice.source": source, "run.output": str(tmp_path / f"of-{source}")}
        )
        for source in ("live", "cache")
    )
    result = run(live)
    run(stored)
    assert set(result.student.tokens) == {"mean"} and set(result.teachers) == {"conv", "inv"}
    assert {"kl/conv|mean", "kl/inv|mean"} <= result.final.keys()
    for one, other in zip(losses(tmp_path / "of-live"), losses(tmp_path / "of-cache"), strict=True):
        assert set(one) == {"class", "mean"} and one == pytest.approx(other, rel=5e-3)


@pytest.mark.slow
def test_shuffled_advice_resumes_exactly(trained: Path, tmp_path: Path) -> None:
    changes = {"advice.change": "shuffled-in-class", "schedule.epochs": 1, "schedule.warmup_epochs": 0}
    whole, parts = (
        recipe_with(trained, tmp_path, {**changes, "run.output": str(tmp_path / name)}) for name in ("whole", "parts")
    )
    run(whole)
    interrupted(parts, 3)
    run(parts, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"advice.change": "shuffle"}, "advice.change is 'shuffle', must be one of"),
        ({"advice.change": "mean", "loss.weights": {"conv": 2}}, "loss.weights: there is no 'conv'"),
        ({"advice.change": "mean", "student.tokens": {"conv": None}}, "no token for the teachers' mean, named 'mean'"),
        ({"advice.change": "smoothed", "data.unlabelled": "x"}, "advice.change=smoothed asks for the label of every"),
        ({"advice.change": "shuffled", "data.labels": "several"}, "advice.change=shuffled is for images of one class"),
        ({"advice.change": "smoothed", "data.balance": "weights"}, "take data.balance=sampling, or leave it out"),
        ({"advice.change": "shuffled-in-class", "data.balance": "weights"}, "asks which share of a mixed image"),
    ],
)
def test_what_cannot_be_changed_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        tiny(tmp_path, changes, teachers={"conv": CNN})
    unmixed = {"advice.change": "smoothed", "data.balance": "weights", "data.augment.mix_probability": 0}
    assert tiny(tmp_path, unmixed, teachers={"conv": CNN}).advice.change == "smoothed"


def test_changes_are_of_teachers_that_know_all_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RecipeError, match=r"advice\.change=mean, but recipe tiny has no teachers"):
        run(tiny(tmp_path / "run", {"advice.change": "mean"}))
    assert not (tmp_path / "run").exists()
    recipe = tiny(tmp_path / "run", {"advice.change": "smoothed"}, teachers={"conv": CNN})
    source = open_sources(recipe.data)[0]
    with pytest.raises(ModelError, match=r"advice\.change=smoothed: teacher 'conv' does not know all classes"):
        changed(lambda batch: {}, recipe, {"conv": [0, 1]}, source, 20, QUIET)
    recipe = tiny(tmp_path / "run", {"advice.change": "shuffled-in-class"}, teachers={"conv": CNN})
    changed(lambda batch: {}, recipe, {}, source, 20, Display())
    assert "about 14% of the images keep their own advice" in " ".join(capsys.readouterr().err.split())
