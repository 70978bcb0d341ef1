"""The linear probe for images of any number of classes; the oracle is scikit-learn's pipeline for each class."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from coadvise.evaluation.several_probe import fit_several


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
