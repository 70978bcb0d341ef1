"""Class weights against scikit-learn and PyTorch; balanced sampling against its definition, counted one by one."""

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from coadvise.advice.identity import data_facts
from coadvise.data.loader import TrainLoader, sample
from coadvise.data.sources.summary import balance
from coadvise.data.views.balance import balanced_draws, class_weights
from coadvise.data.views.draws import mixes
from coadvise.data.views.finish import Batch
from coadvise.data.views.order import Order
from coadvise.errors import RecipeError
from coadvise.losses import label_loss
from coadvise.recipe.reading import recipe_from
from coadvise.recipe.schema import Augmentation, Data

LABELS = np.repeat([2, 0, 3, 4], [40, 11, 2, 1])[np.random.default_rng(0).permutation(54)]
"""54 images of five classes, the second of which has none."""


class Greys:
    """Images of one grey each."""

    class_names = ("a", "b", "c", "d", "e")

    def __init__(self, labels: np.ndarray = LABELS) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> object:
        from PIL import Image

        return Image.new("RGB", (16, 16), (index * 4, 255 - index * 4, 7))

    def describe(self, index: int) -> str:
        return f"grey {index}"


def data(kind: str, **augment: object) -> Data:
    return Data(
        source="digits", image_size=8, workers=0, seed=3, balance=kind,  # type: ignore[arg-type]
        augment=Augmentation(**{"policy": "light", "erasing": 0.3, **augment}),
    )  # fmt: skip


# --- Weights ---------------------------------------------------------------------------------------------


def test_weights_are_those_of_scikit_learn_and_one_on_average() -> None:
    found, present = class_weights(LABELS, 5), np.unique(LABELS)
    assert found[present] == pytest.approx(compute_class_weight("balanced", classes=present, y=LABELS))
    assert found[1] == 0 and found[LABELS].mean() == pytest.approx(1)
    assert class_weights(np.arange(30) % 3, 3).tolist() == [1, 1, 1]


def batches(kind: str, **augment: object) -> list[Batch]:
    return list(TrainLoader(Greys(), data(kind, **augment), 9).epoch(2))


def test_weighted_labels_are_pytorchs_cross_entropy_with_weights() -> None:
    """Of class indices, PyTorch's sum over the batch; we divide it by the images, and not by the sum of weights."""
    weights = torch.tensor(class_weights(LABELS, 5), dtype=torch.float64)
    summed = torch.nn.CrossEntropyLoss(weight=weights, reduction="sum")
    soft = torch.nn.CrossEntropyLoss(weight=weights)
    generator = torch.Generator().manual_seed(0)
    for batch in batches("weights", mixup=0, cutmix=0, label_smoothing=0):
        z = torch.randn(9, 5, generator=generator, dtype=torch.float64)
        assert float(label_loss(z, batch.target)) == pytest.approx(float(summed(z, batch.label)) / 9, rel=1e-5)
    both = zip(batches("weights", label_smoothing=0), batches("none", label_smoothing=0), strict=True)
    for weighted, plain in both:  # mixed targets: PyTorch's for probabilities, whose mean is over the images, too
        z = torch.randn(9, 5, generator=generator, dtype=torch.float64)
        assert torch.equal(weighted.images, plain.images) and bool((plain.target.amax(1) < 1).any())
        assert float(label_loss(z, weighted.target)) == pytest.approx(float(soft(z, plain.target.double())), rel=1e-5)


def test_a_smoothed_label_is_weighted_as_a_whole() -> None:
    """λ · w(a) · CE(smoothed a) + (1 − λ) · w(b) · CE(smoothed b), in float64, one image after the other."""
    settings, source = data("weights", label_smoothing=0.3), Greys()
    weights, order = class_weights(LABELS, 5), Order(settings, LABELS)
    mixed = 0
    for index in range(0, len(source), 3):
        made = sample(source, settings, 5, 2, index, 0)  # type: ignore[arg-type]
        (other,), _ = order.partners(2, np.array([index]), np.array([0]))
        lam = mixes(settings.augment, 8, 3, 2, np.array([index]), np.array([0])).lam[0]
        z = np.random.default_rng(index).normal(size=5)
        log_p = z - np.log(np.exp(z).sum())
        losses = [-0.7 * log_p[label] - 0.3 * log_p.mean() for label in (LABELS[index], LABELS[other])]
        expected = lam * weights[LABELS[index]] * losses[0] + (1 - lam) * weights[LABELS[other]] * losses[1]
        assert float(label_loss(torch.from_numpy(z)[None], made.target)) == pytest.approx(expected, rel=1e-5)
        mixed += lam < 1
    assert mixed > 12


# --- Sampling --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [LABELS, np.arange(7) % 2, np.zeros(3, dtype=np.int64), np.arange(5)])
def test_every_view_draws_every_class_as_often(labels: np.ndarray) -> None:
    views, present = 30, set(labels.tolist())
    total: Counter[int] = Counter()
    by_class: Counter[int] = Counter()
    for view in range(views):
        rows = balanced_draws(labels, 5, view)
        assert rows.shape == (len(labels), 2) and rows.dtype == np.int64
        counts = Counter(labels[rows[:, 0]].tolist())
        assert set(counts) == present or len(labels) < len(present)
        assert max(counts.values()) - min(counts.values()) <= 1
        drawn = Counter(rows[:, 0].tolist())
        for index, count in drawn.items():  # each copy once, so that each is a view of its own
            assert sorted(rows[rows[:, 0] == index, 1]) == list(range(count))
        total += drawn
        by_class += counts
    assert max(by_class.values()) - min(by_class.values()) <= 1
    for label in present:  # and the images of a class come in turn
        counted = [total[index] for index in np.flatnonzero(labels == label).tolist()]
        assert max(counted) - min(counted) <= 1


def test_draws_follow_from_seed_and_view_and_are_shuffled() -> None:
    first = balanced_draws(LABELS, 5, 2)
    assert np.array_equal(first, balanced_draws(LABELS, 5, 2))
    assert not np.array_equal(first, balanced_draws(LABELS, 5, 3))
    assert not np.array_equal(first, balanced_draws(LABELS, 6, 2))
    many = np.repeat([0, 1], [5000, 100])
    halves = many[balanced_draws(many, 5, 0)[:, 0]][:2550].mean()
    assert abs(halves - 0.5) < 0.05  # no class comes first


def test_who_is_mixed_with_whom_in_balance() -> None:
    order = Order(data("sampling"), LABELS[:53])
    for view in (0, 7, 0):
        rows = order.rows(view).tolist()
        mates = {tuple(a): tuple(b) for a, b in zip(rows[::2], rows[1::2], strict=False)}
        mates |= {b: a for a, b in mates.items()} | {tuple(rows[-1]): (-1, rows[-1][1])}
        asked = np.array([*rows[::-1], [2, 900], [52, 900]])
        found = np.stack(order.partners(view, asked[:, 0], asked[:, 1]), axis=1).tolist()
        assert found == [list(mates[tuple(row)]) for row in rows[::-1]] + [[-1, 900], [-1, 900]]


Made = dict[int, tuple[bytes, bytes, int, int]]


def by_place(loader: TrainLoader, start: int = 0) -> Made:
    return {
        int(place): (image.numpy().tobytes(), target.numpy().tobytes(), int(label), int(index))
        for batch in loader.epoch(4, start)
        for place, image, target, label, index in zip(batch.position, *batch[:4], strict=True)
    }


@pytest.mark.parametrize("policy", ["light", "deit"])
def test_the_same_samples_in_balance_whatever_the_setting(policy: str) -> None:
    settings = data("sampling", policy=policy)
    whole = by_place(TrainLoader(Greys(), settings, 54))  # type: ignore[arg-type]
    assert sorted(Counter(made[2] for made in whole.values()).values()) == [13, 13, 14, 14]
    assert len({made[0] for made in whole.values()}) == 54  # no copy is the same twice
    shared: Made = {}
    for rank in range(3):
        shared |= by_place(TrainLoader(Greys(), settings, 6, rank=rank, world=3, accumulate=2))  # type: ignore[arg-type]
    assert shared == whole
    kept = by_place(TrainLoader(Greys(), settings, 9, keep=False))  # type: ignore[arg-type]
    assert kept == whole
    late = by_place(TrainLoader(Greys(), settings, 9, keep=False), start=4)  # type: ignore[arg-type]
    assert late == {place: whole[place] for place in range(36, 54)}


# --- Recipes and words -----------------------------------------------------------------------------------


def test_what_is_said_of_it() -> None:
    source = Greys(np.repeat([0, 1, 2], [1200, 300, 60]))
    assert balance(data("none"), source) is None  # type: ignore[arg-type]
    assert balance(data("weights"), source) == (  # type: ignore[arg-type]
        "class weights: from 0.43 (a, 1,200 images) to 8.7 (c, 60 images)"
    )
    assert balance(data("sampling"), source) == (  # type: ignore[arg-type]
        "balanced sampling: an epoch draws about 520 images of each class, so that an image of a (1,200) comes 0.43 "
        "times on average, and one of c (60) 8.7 times"
    )


CONTENT = {"name": "x", "data": {"source": "digits"}, "schedule": {"epochs": 9}}


def test_recipes_and_caches_of_earlier_versions_are_the_same() -> None:
    plain = recipe_from(CONTENT)
    assert "balance" not in plain.content()["data"]
    other = recipe_from({**CONTENT, "data": {"source": "digits", "balance": "weights"}})
    assert other.fingerprint() != plain.fingerprint()
    facts = {kind: data_facts(data(kind), Greys()) for kind in ("none", "weights", "sampling")}  # type: ignore[arg-type]
    assert facts["none"] == facts["weights"] and facts["sampling"] == facts["none"] | {"data.balance": "sampling"}


def test_sampling_and_repeats_exclude_each_other() -> None:
    with pytest.raises(
        RecipeError, match=r"data.balance=sampling shows images .*; set data.augment.repeats=1, or take"
    ):
        recipe_from({**CONTENT, "data": {"source": "digits", "balance": "sampling", "augment": {"repeats": 3}}})
