"""What pairs of teachers know together: against scikit-learn's κ, scipy's bootstrap, and loops over single images."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers.recipes import tiny
from scipy import stats
from sklearn.metrics import cohen_kappa_score, log_loss
from torch import Tensor, nn

from coadvise.data.loader import EvalLoader, sample
from coadvise.data.sources.opening import open_sources
from coadvise.data.views.order import epoch_order
from coadvise.errors import ModelError
from coadvise.evaluation.headroom import Member, headroom_from, outcomes_of, pairs_of
from coadvise.evaluation.resampling import Outcomes, estimate, means, seed_weights
from coadvise.evaluation.views_asked import as_trained_on, asked_as_trained_on, asked_plainly
from coadvise.models.teachers import FrozenTeacher, Teachers
from coadvise.run.headroom import Contrast, Estimate, Headroom, in_points, verdicts

N, K = 400, 5


def members(*words: str) -> list[Member]:
    """`conv:resnet18` for each."""
    return [Member(f"t{i}", *word.split(":")) for i, word in enumerate(words)]  # type: ignore[arg-type]


def ends(one: Estimate) -> tuple[float | None, ...]:
    return one.value, one.low, one.high


@pytest.fixture(scope="module")
def known() -> tuple[np.ndarray, np.ndarray]:
    """Distributions of six teachers, of which those of one kind share a part of their errors; and labels."""
    rng = np.random.default_rng(3)
    label = rng.integers(K, size=N)
    kinds = rng.normal(size=(2, N, K))
    logits = [2.2 * np.eye(K)[label] + 1.2 * kinds[i // 3] + rng.normal(size=(N, K)) for i in range(6)]
    exps = np.exp(np.stack(logits))
    return exps / exps.sum(axis=2, keepdims=True), label


SIX = members("conv:a", "conv:b", "conv:c", "inv:d", "inv:e", "inv:f")


def test_numbers_of_teachers_and_pairs_against_loops_and_scikit_learn(known: Any) -> None:
    p, label = known
    found = headroom_from(p, label, SIX, resamples=20)
    assert (found.images, found.samples, found.seeds, found.models) == (N, N, 1, ())
    right = [[int(row.argmax()) == y for row, y in zip(one, label, strict=True)] for one in p]
    for i, one in enumerate(found.teachers):
        assert one.accuracy.value == pytest.approx(sum(right[i]) / N)
        assert one.loss.value == pytest.approx(log_loss(label, p[i]), rel=1e-5)
    gains = {}
    for two, (i, j) in zip(found.pairs, itertools.combinations(range(6), 2), strict=True):
        mean = (p[i] + p[j]) / 2
        accuracy = sum(int(row.argmax()) == y for row, y in zip(mean, label, strict=True)) / N
        assert two.accuracy.value == pytest.approx(accuracy) and two.names == (f"t{i}", f"t{j}")
        assert two.loss.value == pytest.approx(log_loss(label, mean), rel=1e-5)
        assert two.kappa.value == pytest.approx(cohen_kappa_score(right[i], right[j]), abs=1e-9)
        gains[i, j] = accuracy - (sum(right[i]) + sum(right[j])) / (2 * N)
        assert two.gain.value == pytest.approx(gains[i, j])
        assert two.over_better.value == pytest.approx(accuracy - max(sum(right[i]), sum(right[j])) / N)
    own = [np.mean([gains[pair] for pair in itertools.combinations(kind, 2)]) for kind in ((0, 1, 2), (3, 4, 5))]
    for two, (i, j) in zip(found.pairs, pairs_of(6), strict=True):
        if two.biases == ("conv", "inv"):
            assert two.delta is not None and two.delta.value == pytest.approx(gains[i, j] - np.mean(own))
        else:
            assert two.delta is None
    (contrast,) = found.contrasts
    cross = np.mean([two.accuracy.value for two in found.pairs if two.biases == ("conv", "inv")])
    same = {
        bias: np.mean([t.accuracy.value for t in found.pairs if t.biases == (bias, bias)]) for bias in ("conv", "inv")
    }
    assert contrast.counts == {"conv + inv": 9, "conv": 3, "inv": 3}
    assert contrast.delta.value == pytest.approx(cross - max(same.values()))
    assert same[contrast.better] == max(same.values())
    mixed = np.mean([gains[i, j] for i in range(3) for j in range(3, 6)])
    assert contrast.equal.value == pytest.approx(mixed - np.mean(own))
    accuracies = [sum(row) / N for row in right]
    assert contrast.unequal.value == pytest.approx(np.mean(accuracies[:3]) - np.mean(accuracies[3:]))


def test_intervals_against_scipys_bootstrap(known: Any) -> None:
    """Of a difference and of κ, which is no mean; and of several views of an image, which are drawn together."""
    p, label = known
    found = headroom_from(p[[0, 1, 3]], label, members("conv:a", "conv:b", "inv:c"), resamples=4000)
    right = [one.argmax(axis=1) == label for one in p[[0, 1, 3]]]
    mean = {(i, j): (p[i] + p[j]).argmax(axis=1) == label for i, j in ((0, 3), (1, 3), (0, 1))}

    def cohen(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        x, y = a.mean(axis=axis), b.mean(axis=axis)
        chance = x * y + (1 - x) * (1 - y)
        return ((a == b).mean(axis=axis) - chance) / (1 - chance)

    def delta(a: np.ndarray, b: np.ndarray, c: np.ndarray, axis: int = -1) -> np.ndarray:
        return (a.mean(axis=axis) + b.mean(axis=axis)) / 2 - c.mean(axis=axis)

    more: dict[str, Any] = {"paired": True, "vectorized": True, "method": "percentile", "n_resamples": 4000, "rng": 1}
    checks = {
        "κ": (found.pairs[1].kappa, stats.bootstrap((right[0], right[2]), cohen, **more)),
        "Δ": (found.contrasts[0].delta, stats.bootstrap(tuple(x.astype(float) for x in mean.values()), delta, **more)),
    }
    for what, (ours, theirs) in checks.items():
        low, high = theirs.confidence_interval
        assert ours.low == pytest.approx(low, abs=0.08 * (high - low)), what
        assert ours.high == pytest.approx(high, abs=0.08 * (high - low)), what
    twice = headroom_from(
        np.repeat(p[[0, 1]], 3, axis=1), np.repeat(label, 3), members("conv:a", "conv:b"), resamples=4000,
        image=np.repeat(np.arange(N), 3),
    )  # fmt: skip
    once = headroom_from(p[[0, 1]], label, members("conv:a", "conv:b"), resamples=4000)
    assert twice.samples == 3 * N
    assert ends(twice.pairs[0].kappa) == pytest.approx(ends(once.pairs[0].kappa), abs=1e-9)
    assert ends(twice.pairs[0].loss) == pytest.approx(ends(once.pairs[0].loss), rel=1e-5)


def test_every_quantity_takes_the_same_resamples() -> None:
    """Each resample against a loop over the images that were drawn, with samples that are spread unevenly over them."""
    rng = np.random.default_rng(0)
    image = rng.choice([0, 1, 2, 4, 5, 6], size=40)  # none of image 3
    right, loss = rng.random((3, 40)) < 0.6, rng.random((3, 40)).astype(np.float32)
    outcomes = Outcomes(right, loss, image, 7)
    found = means([right, loss], outcomes, 60, seed=4)
    generator = np.random.default_rng(np.random.SeedSequence((4, 0)))
    drawn = [np.arange(7), *generator.integers(7, size=(50, 7)), *generator.integers(7, size=(10, 7))]
    for row, images in zip(found, drawn, strict=True):
        taken = [at for one in images for at in np.flatnonzero(image == one)]
        np.testing.assert_allclose(row, [*right[:, taken].mean(axis=1), *loss[:, taken].mean(axis=1)], rtol=1e-6)


def test_seeds_are_drawn_as_their_variance_says() -> None:
    """The variance of a mean over S seeds is s²/S, also for two; of all pairs of two models the sum of both."""
    models, resamples = ["a", "b", "a", "a", "b", "alone"], 40_000
    values = np.array([0.61, 0.30, 0.64, 0.70, 0.36, 0.5])
    weights = seed_weights(models, resamples, 0)
    assert (weights[0] == 1).all() and (weights[:, 5] == 1).all()
    spread = {}
    for model in ("a", "b"):
        own = [i for i, one in enumerate(models) if one == model]
        drawn = (weights[1:, own] * values[own]).mean(axis=1)
        spread[model] = values[own].var(ddof=1) / len(own)
        assert drawn.var() == pytest.approx(spread[model], rel=0.04)
        assert drawn.mean() == pytest.approx(values[own].mean(), abs=3e-4)
    pairs = [(i, j) for i in (0, 2, 3) for j in (1, 4)]
    of_pairs = np.array([weights[1:, i] + weights[1:, j] - 1 for i, j in pairs])
    assert of_pairs.sum(axis=0) == pytest.approx(6)
    drawn = (of_pairs * np.array([values[i] + values[j] for i, j in pairs])[:, None]).mean(axis=0)
    assert drawn.var() == pytest.approx(spread["a"] + spread["b"], rel=0.04)


def test_seeds_of_a_model_count_as_one_and_widen_the_interval(known: Any) -> None:
    p, label = known
    seeds = members("conv:a", "conv:a", "conv:a", "inv:d", "inv:d", "inv:d")
    found, apart = headroom_from(p, label, seeds), headroom_from(p, label, SIX)
    assert found.seeds == 3 and len(found.pairs) == 15 and [two.count for two in found.models] == [3, 9, 3]
    assert found.pairs == apart.pairs  # of single teachers, over images alone
    own = np.mean([two.accuracy.value for two in found.pairs if two.biases == ("conv", "inv")])
    cross = next(two for two in found.models if two.names == ("a", "d"))
    assert cross.accuracy.value == pytest.approx(own)
    wide = lambda one: one.high - one.low
    assert wide(found.contrasts[0].cross) > wide(apart.contrasts[0].cross)
    assert found.contrasts[0].cross.value == pytest.approx(apart.contrasts[0].cross.value)


def test_models_that_are_unequally_many_count_alike(known: Any) -> None:
    """Two seeds of one model do not outweigh the other model of its kind."""
    p, label = known
    found = headroom_from(p[[0, 1, 2, 3]], label, members("conv:a", "conv:a", "conv:b", "inv:c"), resamples=20)
    by = {two.names: two.accuracy.value for two in found.models}
    assert found.contrasts[0].cross.value == pytest.approx((by["a", "c"] + by["b", "c"]) / 2)
    assert found.contrasts[0].same["conv"].value == pytest.approx((by["a", "a"] + by["a", "b"]) / 2)


def test_mixed_targets_against_a_loop() -> None:
    """Right is the class with the larger share; the cross entropy is that to a class drawn by the shares."""
    torch.manual_seed(0)
    logs = [torch.randn(30, K, dtype=torch.float64).log_softmax(dim=1) for _ in range(3)]
    first, second = torch.randint(K, (2, 30))
    lam = torch.rand(30, dtype=torch.float64)
    target = torch.zeros(30, K, dtype=torch.float64)
    for i in range(30):
        target[i, first[i]] += lam[i]
        target[i, second[i]] += 1 - lam[i]
    right, loss = outcomes_of(logs, target)
    rows = [*logs, *(((logs[i].exp() + logs[j].exp()) / 2).log() for i, j in pairs_of(3))]
    for q, row in enumerate(rows):
        for i in range(30):
            larger = first[i] if lam[i] > 0.5 else second[i]
            assert right[q, i] == (row[i].argmax() == larger)
            said = -(lam[i] * row[i, first[i]] + (1 - lam[i]) * row[i, second[i]])
            assert loss[q, i] == pytest.approx(float(said), rel=1e-6)


class Linear(nn.Module):
    """Class scores of the pixels."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(3 * 8 * 8, 10, generator=generator) / 8)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight


def test_teachers_see_the_views_that_training_would_show(tmp_path: Any) -> None:
    """Against single samples of the same keys; each counts for the image with the larger share."""
    data = tiny(tmp_path, {"data.val_size": 31, "data.augment.mix_probability": 0.8}).data
    val = open_sources(data)[1]
    named = {name: FrozenTeacher(Linear(seed), mean=data.mean, std=data.std) for seed, name in enumerate("ab")}
    teachers, advanced = Teachers(named, input_mean=data.mean, input_std=data.std), []
    plain = asked_plainly(teachers, val, data, 8, advanced.append)
    seen = asked_as_trained_on(teachers, val, data, 2, 8, advanced.append)
    assert sum(advanced) == 31 * 3 and plain.right.shape == (3, 31) and seen.loss.shape == (3, 62)
    batch = next(iter(EvalLoader(val, data, 31)))
    logs = [one.model(batch.images).log_softmax(dim=1) for one in named.values()]
    right, loss = outcomes_of(logs, nn.functional.one_hot(batch.label, 10).float())
    assert (plain.right == right).all() and plain.loss == pytest.approx(loss, rel=1e-4)
    assert (plain.image == np.arange(31)).all()
    keys = [(view, int(index)) for view in range(2) for index, _ in epoch_order(31, 1, data.seed, view)]
    others = 0
    for at, (view, index) in enumerate(keys):
        one = sample(val, as_trained_on(data), 10, view, index, 0)
        logs = [teacher.model(one.images).log_softmax(dim=1) for teacher in named.values()]
        right, loss = outcomes_of(logs, one.target)
        assert (seen.right[:, at] == right[:, 0]).all() and seen.loss[:, at] == pytest.approx(loss[:, 0], rel=1e-4)
        assert int(val.labels[seen.image[at]]) == int(one.target[0].argmax())
        others += int(seen.image[at] != index)
    assert 5 < others < 30


@pytest.mark.parametrize(
    ("delta", "equal", "unequal", "outcome", "words"),
    [
        ((0.0, -0.01, 0.01), (0.014, 0.006, 0.021), 0.002, "yes", "a second kind has a headroom of +1.4 points (0.6 …"),
        ((0.05, 0.01, 0.09), (0.001, -0.003, 0.004), 0.0, "no", "no headroom, +0.1 points (−0.3 … 0.4): students of"),
        ((0.05, 0.01, 0.09), (0.002, 0.001, 0.004), 0.0, "no", "a headroom of +0.2 points (0.1 … 0.4) only"),
        (
            (0.05, 0.01, 0.09),
            (-0.02, -0.03, -0.01),
            0.0,
            "no",
            "two of one kind do better than two kinds by 2.0 points",
        ),
        ((0.05, 0.01, 0.09), (0.0, -0.01, 0.01), 0.0, "other", "more validation images, views or seeds"),
        (
            (0.02, 0.01, 0.03),
            (0.014, 0.006, 0.021),
            -0.03,
            "yes",
            "a headroom of +2.0 points (1.0 … 3.0): a comparison",
        ),
        ((-0.02, -0.03, -0.01), (0.0, -0.01, 0.01), 0.03, "no", "two of conv do better than two kinds by 2.0 points"),
        ((0.02, 0.01, 0.03), (0.001, -0.01, 0.01), 0.03, "other", "would not be for the kind"),
        ((0.0, -0.01, 0.01), (0.02, 0.01, 0.03), 0.03, "other", "a better teacher of the weaker kind comes first"),
        ((0.0, -0.01, 0.01), (0.02, 0.01, 0.03), 0.03, "other", ": undecided as they are, 0.0 points (−1.0 … 1.0)"),
        ((0.0, -0.01, 0.002), (0.02, 0.01, 0.03), 0.03, "other", ": no headroom as they are, 0.0 points (−1.0 … 0.2)"),
        ((0.0, -0.01, 0.01), (0.12, 0.09, 0.13), 0.3, "other", "undecided, 0.0 points (−1.0 … 1.0)"),
    ],
)
def test_the_verdict_says_what_the_numbers_say(
    delta: tuple[float, float, float], equal: tuple[float, float, float], unequal: float, outcome: str, words: str
) -> None:
    some = Estimate(0.5, 0.4, 0.6)
    one = Contrast(
        ("conv", "inv"), {}, some, {"conv": some, "inv": some}, "conv", Estimate(*delta), Estimate(*equal),
        Estimate(unequal, unequal - 0.01, unequal + 0.01), some, some, some,
    )  # fmt: skip
    (said,) = verdicts(Headroom(100, 400, 1, (), (), (), (one,)))
    assert said.outcome == outcome and words in said.sentence, said.sentence
    assert said.sentence.startswith("conv + inv: ")
    assert any("says little" in note for note in said.notes) == (unequal >= 0.05)
    assert any("not of equal accuracy" in note for note in said.notes) == (abs(unequal) >= 0.01)


def test_what_is_missing_for_a_verdict_is_said(known: Any) -> None:
    p, label = known
    for biases, words in {
        ("conv:a", "inv:b"): "one conv and one inv; give a second one of a kind, such as another seed",
        ("conv:a", "conv:b"): "all teachers are of one kind, conv; give one of another",
    }.items():
        found = headroom_from(p[:2], label, members(*biases), resamples=10)
        (said,) = verdicts(found)
        assert said.outcome == "other" and words in said.sentence and "over the mean of both" in said.notes[0]
    unknown = [Member("x", None, "a"), Member("y", None, "b")]
    assert "set teachers.NAME.bias" in verdicts(headroom_from(p[:2], label, unknown, resamples=10))[0].sentence


def test_two_that_are_always_right_have_no_kappa() -> None:
    label = np.arange(40) % K
    sure = np.stack([np.eye(K)[label]] * 3)
    found = headroom_from(sure, label, members("conv:a", "conv:b", "inv:c"), resamples=10)
    assert found.pairs[0].kappa == Estimate(None, None, None) and found.teachers[0].accuracy.value == 1.0
    assert found.teachers[0].loss.value == 0.0 and verdicts(found)[0].outcome == "no"


def test_numbers_in_words() -> None:
    assert in_points(Estimate(-0.0001, -0.01, 0.02)) == "0.0 points (−1.0 … 2.0)"
    assert estimate(np.array([math.nan, 1.0])) == Estimate(None, None, None)


def test_what_cannot_be_compared(known: Any) -> None:
    p, label = known
    with pytest.raises(ModelError, match="two teachers or more"):
        headroom_from(p[:1], label, members("conv:a"))
    with pytest.raises(ModelError, match="two teachers are named 't0'"):
        headroom_from(p[:2], label, [Member("t0", None, "a"), Member("t0", None, "b")])
    with pytest.raises(ModelError, match=r"shape \(2, 400, 5\), targets \(399, 5\), and 2 teachers"):
        headroom_from(p[:2], label[:-1], members("conv:a", "conv:b"))
