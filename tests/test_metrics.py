"""Sums and counts against NumPy over all samples at once."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from coadvise.evaluate import metric_names
from coadvise.metrics import Sums, batch_metrics, means


def test_uneven_batches_weigh_every_sample_alike() -> None:
    rng = np.random.default_rng(0)
    tokens = {name: rng.normal(size=(11, 4)).astype(np.float32) for name in ("class", "conv", "inv")}
    teacher = rng.normal(size=(11, 4)).astype(np.float32)
    label = rng.integers(0, 4, size=11)
    names = metric_names(tokens, ["conv"])
    # Two "processes" with 7 and 4 samples, the first in batches of 5 and 2.
    state = torch.zeros(len(names), 2, dtype=torch.float64)
    for share in ([(0, 5), (5, 7)], [(7, 11)]):
        sums = Sums()
        for low, high in share:
            rows = batch_metrics(
                {name: torch.tensor(z[low:high]) for name, z in tokens.items()},
                {"conv": torch.tensor(teacher[low:high])},
                torch.tensor(label[low:high]),
            )
            assert set(rows) == set(names)
            for name, values in rows.items():
                sums.add(name, values)
        state += sums.state(names, torch.device("cpu"))
    found = means(names, state)
    assert found["accuracy/inv"] == pytest.approx((tokens["inv"].argmax(1) == label).mean())
    assert found["teacher/conv"] == pytest.approx((teacher.argmax(1) == label).mean())
    assert found["accuracy/average"] == pytest.approx((sum(tokens.values()).argmax(1) == label).mean())
    assert found["loss/class"] == pytest.approx(-log_softmax(tokens["class"], 1)[np.arange(11), label].mean(), rel=1e-5)
    p, q = softmax(teacher, 1), softmax(tokens["inv"], 1)
    assert found["kl/conv|inv"] == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-5)
    assert found["kl/inv|conv"] == pytest.approx((q * np.log(q / p)).sum(1).mean(), rel=1e-5)


def test_a_metric_without_samples_is_left_out() -> None:
    names = ["accuracy/class"]
    assert means(names, Sums().state(names, torch.device("cpu"))) == {}
