"""The linear probe for images of any number of classes; the oracle is scikit-learn's pipeline for each class."""

import numpy as np
import pytest
import timm
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from coadvise.data.sources.base import strata
from coadvise.data.sources.opening import open_sources
from coadvise.data.sources.subsets import Subset, balanced_subset
from coadvise.evaluation import several_probe
from coadvise.evaluation.features import features_of
from coadvise.evaluation.several_probe import fit_several, probe_of_several
from coadvise.models.students import as_student
from coadvise.recipe.schema import Data


def test_each_class_is_a_regression_of_its_own() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(2.0, 3.0, size=(80, 6))
    truth = values @ rng.normal(size=(6, 4)) + rng.normal(size=(80, 4)) > 0
    truth[:, 3] = False
    head = fit_several(values, truth, 0.1)
    for place in range(3):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500)).fit(values, truth[:, place])
        expected = model.decision_function(values)
        assert values @ head.weight[place] + head.bias[place] == pytest.approx(expected, abs=1e-9)
    assert (values @ head.weight[3] + head.bias[3] < 0).all()


class Even(Subset):
    """Digits, of each whether it is even, below five, and zero."""

    def __init__(self, source: Subset, chosen: np.ndarray) -> None:
        super().__init__(source, np.flatnonzero(chosen))
        self.class_names, digit = ("even", "low", "zero"), np.arange(10)
        self.sets = np.column_stack([digit % 2 == 0, digit < 5, digit == 0])


def test_it_ranks_all_validation_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for the student, and no part of them in which classes are in balance; the oracle is scikit-learn's mAP."""
    data = Data(source="digits", image_size=8, eval_crop=1.0, workers=0)
    one, other = open_sources(data)
    train, val = Even(one, one.labels >= 0), Even(other, (other.labels == 7) | (np.arange(len(other)) % 9 == 0))
    monkeypatch.setattr(several_probe, "MOST", 100)
    torch.manual_seed(0)
    model = as_student(timm.create_model("resnet10", channels=[8, 8, 16, 16], num_classes=3).eval())
    found = probe_of_several(model, (train, val), data)
    assert (found.train, found.samples) == (100, len(val)) and len(val) > 100
    part = Subset(train, balanced_subset(strata(train), 100))
    seen, asked = (features_of(model, source, data) for source in (part, val))
    truth, known = train.sets[seen.label], val.sets[asked.label]
    scores = [
        make_pipeline(StandardScaler(), LogisticRegression(C=found.strength, max_iter=500))
        .fit(seen.values.numpy(), there).decision_function(asked.values.numpy())
        for there in truth.T
    ]  # fmt: skip
    assert found.mean_average_precision == pytest.approx(average_precision_score(known, np.transpose(scores)), abs=1e-6)
