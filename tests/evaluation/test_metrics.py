"""Sums and counts against NumPy over all samples at once."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from coadvise.evaluation.metrics import Sums, batch_metrics, kl_rows, means, metric_names


def test_uneven_batches_weigh_every_sample_alike() -> None:
    rng = np.random.default_rng(0)
    tokens = {name: rng.normal(size=(11, 4)).astype(np.float32) for name in ("class", "conv", "inv")}
    teacher, other = (rng.normal(size=(11, 4)).astype(np.float32) for _ in range(2))
    label = rng.integers(0, 4, size=11)
    names = metric_names(tokens, ["conv", "inv"])
    # Two "processes" with 7 and 4 samples, the first in batches of 5 and 2.
    state = torch.zeros(len(names), 2, dtype=torch.float64)
    for share in ([(0, 5), (5, 7)], [(7, 11)]):
        sums = Sums()
        for low, high in share:
            rows = batch_metrics(
                {name: torch.tensor(z[low:high]) for name, z in tokens.items()},
                {"conv": torch.tensor(teacher[low:high]), "inv": torch.tensor(other[low:high])},
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
    # Every teacher and every token, both directions: tokens carry their teachers' names.
    for name, z in {"conv": teacher, "inv": other}.items():
        for token, z_token in tokens.items():
            p, q = softmax(z, 1), softmax(z_token, 1)
            assert found[f"kl/{name}|{token}"] == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-5)
            assert found[f"kl_reverse/{name}|{token}"] == pytest.approx((q * np.log(q / p)).sum(1).mean(), rel=1e-5)


def test_a_metric_without_samples_is_left_out() -> None:
    names = ["accuracy/class"]
    assert means(names, Sums().state(names, torch.device("cpu"))) == {}


def test_divergence_from_masked_logits() -> None:
    """Over the classes that are left, in float64; what puts mass on a masked class is infinitely far."""
    p, q = np.random.default_rng(0).normal(size=(2, 4, 5))
    p[:, 2] = -np.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p = p - np.log(np.exp(p).sum(1, keepdims=True))
        log_q = q - np.log(np.exp(q).sum(1, keepdims=True))
        expected = np.nansum(np.exp(log_p) * (log_p - log_q), axis=1)
    found = kl_rows(torch.tensor(p), torch.tensor(q))
    assert np.allclose(found.numpy(), expected, rtol=1e-5)
    assert torch.isinf(kl_rows(torch.tensor(q), torch.tensor(p))).all()
    assert kl_rows(torch.tensor(p), torch.tensor(p)).tolist() == [0, 0, 0, 0]
