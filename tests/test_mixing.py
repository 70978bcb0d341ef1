"""Order, pairs and mixing, recomputed in NumPy and compared with timm where both do the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.data.mixup import cutmix_bbox_and_lam, mixup_target

from coadvise.data.mixing import MixParameters, epoch_order, mix, mix_parameters, partner, soft_target
from coadvise.recipe import Augmentation

ON = Augmentation(mixup=0.8, cutmix=1.0)


@pytest.mark.parametrize("n", [1, 2, 7, 10, 33, 1000])
def test_an_epoch_is_a_permutation(n):
    order = epoch_order(n, 1, 0, 0)
    assert order.shape == (n, 2) and order.dtype == np.int64
    assert sorted(order[:, 0]) == list(range(n)) and not order[:, 1].any()
    if n > 9:
        assert not np.array_equal(order, epoch_order(n, 1, 0, 1))
        assert not np.array_equal(order, epoch_order(n, 1, 1, 0))
    assert np.array_equal(order, epoch_order(n, 1, 0, 0))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10, 33, 100, 101])
@pytest.mark.parametrize("repeats", [2, 3, 5])
def test_repeats(n, repeats):
    order = [tuple(row) for row in epoch_order(n, repeats, 3, 4).tolist()]
    once = epoch_order(n, 1, 3, 4)[:, 0].tolist()
    expected = []  # by the definition, one step at a time
    for at in range(0, n, 2):
        for copy in range(repeats):
            expected += [(index, copy) for index in once[at : at + 2]]
    assert order == expected[:n]
    assert len(set(order)) == n


@pytest.mark.parametrize("n", [1, 2, 7, 10, 33, 1000])
def test_partners_are_mutual_and_adjacent(n):
    mates = partner(n, 5, 6)
    alone = np.flatnonzero(mates < 0)
    assert len(alone) == n % 2
    for index, mate in enumerate(mates):
        if mate >= 0:
            assert mates[mate] == index and mate != index
    order = epoch_order(n, 1, 5, 6)[:, 0]
    for at in range(0, n - 1, 2):
        assert mates[order[at]] == order[at + 1]
    if n > 9:
        assert not np.array_equal(mates, partner(n, 5, 7))
    with pytest.raises(ValueError, match="read-only"):
        mates[0] = 0


def draws(augment: Augmentation, count: int = 4000, size: int = 32) -> list[MixParameters]:
    return [mix_parameters(augment, size, 0, 0, index, 0) for index in range(count)]


def test_kinds_come_as_often_as_asked():
    kinds = [params.kind for params in draws(ON)]
    # A cutmix box of no pixels (λ close to 1) leaves the sample unmixed: about one in 32² of them.
    assert abs(kinds.count("mixup") / 4000 - 0.5) < 0.03 and kinds.count("none") < 20
    kinds = [params.kind for params in draws(ON.model_copy(update={"mix_switch": 0.2, "mix_probability": 0.7}))]
    assert abs(kinds.count("none") / 4000 - 0.3) < 0.03
    assert abs(kinds.count("cutmix") / 4000 - 0.7 * 0.2) < 0.03
    assert {p.kind for p in draws(Augmentation(mixup=0, cutmix=1))} <= {"cutmix", "none"}
    assert {p.kind for p in draws(Augmentation(mixup=1, cutmix=0))} == {"mixup"}
    assert {p.kind for p in draws(Augmentation(mixup=0, cutmix=0), 50)} == {"none"}


def test_mixup_lambda_follows_its_beta_distribution():
    from scipy.stats import beta, kstest

    lam = [p.lam for p in draws(Augmentation(mixup=0.8, cutmix=0))]
    assert kstest(lam, beta(0.8, 0.8).cdf).pvalue > 1e-3


def test_cutmix_distribution_is_timms():
    ours = np.array([p.lam for p in draws(Augmentation(mixup=0, cutmix=1), size=224)])
    np.random.seed(0)  # noqa: NPY002 - timm draws from it
    timms = np.array([cutmix_bbox_and_lam((3, 224, 224), np.random.beta(1, 1))[1] for _ in range(4000)])  # noqa: NPY002
    from scipy.stats import ks_2samp

    assert ks_2samp(ours, timms).pvalue > 1e-3


def test_cutmix_lambda_is_the_share_of_pixels_that_stay():
    ones, zeros = torch.ones(3, 32, 32), torch.zeros(3, 32, 32)
    for params in draws(Augmentation(mixup=0, cutmix=1), 300):
        mixed = mix(ones, zeros, params)
        assert mixed.mean().item() == pytest.approx(params.lam, abs=1e-6)
        assert ones.min() == 1  # not in place


def test_mix_against_numpy():
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((2, 3, 8, 8)).astype(np.float32)
    got = mix(torch.from_numpy(a), torch.from_numpy(b), MixParameters("mixup", 0.3, (0, 0, 0, 0))).numpy()
    assert np.allclose(got, 0.3 * a.astype(np.float64) + 0.7 * b, atol=1e-6)
    expected = a.copy()
    expected[:, 2:5, 1:8] = b[:, 2:5, 1:8]
    got = mix(torch.from_numpy(a), torch.from_numpy(b), MixParameters("cutmix", 43 / 64, (2, 5, 1, 8))).numpy()
    assert np.array_equal(got, expected)


def test_parameters_depend_on_the_key_and_nothing_else():
    keys = [(s, v, i, r) for s in range(2) for v in range(2) for i in range(20) for r in range(2)]
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    mixup = Augmentation(mixup=0.8, cutmix=0)  # cutmix's λ are fractions of pixels, which recur by chance
    first = [mix_parameters(mixup, 32, *key) for key in keys]
    second = [mix_parameters(mixup, 32, *key) for key in reversed(keys)]
    assert first == second[::-1]
    assert len({params.lam for params in first}) == len(keys)
    assert torch.equal(state[0], torch.get_rng_state())
    assert np.array_equal(state[1], np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_targets_against_timm(smoothing):
    labels = torch.tensor([3, 1, 1, 0])  # timm mixes with the reverse: 3 with 0, 1 with 1
    for lam in (1.0, 0.25, 0.9):
        expected = mixup_target(labels, 5, lam, smoothing)
        got = [soft_target(int(a), int(b), lam, 5, smoothing) for a, b in zip(labels, labels.flip(0), strict=True)]
        assert torch.allclose(torch.stack(got), expected, atol=1e-7)
        assert torch.stack(got).sum(1).sub(1).abs().max() < 1e-6
