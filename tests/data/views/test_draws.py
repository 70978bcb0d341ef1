"""Random choices: Philox's published answers, distributions as timm's, and nothing but the key decides."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from scipy.stats import beta, ks_2samp, kstest
from timm.data.mixup import cutmix_bbox_and_lam
from timm.data.random_erasing import RandomErasing

from coadvise.data.views.draws import Mixes, Stream, crops, erasures, mixes, philox, uniforms
from coadvise.recipe.schema import Augmentation

ON = Augmentation(mixup=0.8, cutmix=1.0)
MANY = np.arange(4000), np.zeros(4000, dtype=np.int64)


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_answers(counter, key, answer):
    got = philox(np.array([words(counter)] * 3, dtype=np.uint32), tuple(words(key)))
    assert got.tolist() == [words(answer)] * 3


def test_uniforms_are_uniform_and_independent():
    u = uniforms(Stream.MIX, 7, 3, np.arange(20000), np.zeros(20000, dtype=np.int64), 6)
    assert u.shape == (20000, 6) and u.min() > 0 and u.max() < 1
    assert all(kstest(column, "uniform").pvalue > 1e-3 for column in u.T)
    assert np.abs(np.corrcoef(u.T) - np.eye(6)).max() < 0.03
    assert np.abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 0.03


def test_the_key_and_nothing_else_decides():
    index, repeat = np.arange(30), np.arange(30) % 3
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    whole = uniforms(Stream.CROP, 1, 2, index, repeat, 5)
    assert np.array_equal(uniforms(Stream.CROP, 1, 2, index[::-1], repeat[::-1], 5), whole[::-1])
    assert np.array_equal(uniforms(Stream.CROP, 1, 2, index[7:8], repeat[7:8], 2), whole[7:8, :2])
    others = [
        uniforms(Stream.MIX, 1, 2, index, repeat, 5),
        uniforms(Stream.CROP, 2, 2, index, repeat, 5),
        uniforms(Stream.CROP, 1, 3, index, repeat, 5),
        uniforms(Stream.CROP, 1, 2, index, repeat + 1, 5),
        uniforms(Stream.CROP, 1, 2, index + 1000, repeat, 5),
    ]
    assert all(not np.isin(other, whole).any() for other in others)
    assert states[0] == random.getstate() and np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(states[2], torch.get_rng_state())


def test_crops_reach_every_offset_evenly():
    offsets, flip = crops(0, 0, *MANY, pad=2, hflip=0.3)
    for column in offsets.T:
        values, counts = np.unique(column, return_counts=True)
        assert values.tolist() == [-2, -1, 0, 1, 2] and abs(counts / 4000 - 0.2).max() < 0.03
    assert abs(flip.mean() - 0.3) < 0.03
    offsets, flip = crops(0, 0, *MANY, pad=0, hflip=0.0)
    assert not offsets.any() and not flip.any()


def kinds(augment: Augmentation) -> tuple[float, float, float]:
    """Shares of mixup, cutmix and unmixed samples."""
    drawn = mixes(augment, 32, 0, 0, *MANY)
    cut = drawn.box.any(axis=1)
    assert np.array_equal(drawn.mixed, (drawn.lam < 1) | cut)
    return float((drawn.mixed & ~cut).mean()), float(cut.mean()), float((~drawn.mixed).mean())


def test_kinds_come_as_often_as_asked():
    # A cutmix box of no pixels (λ close to 1) leaves the sample unmixed: about one in 32² of them.
    assert kinds(ON) == pytest.approx((0.5, 0.5, 0), abs=0.03)
    changed = ON.model_copy(update={"mix_switch": 0.2, "mix_probability": 0.7})
    assert kinds(changed) == pytest.approx((0.56, 0.14, 0.3), abs=0.03)
    assert kinds(Augmentation(mixup=0, cutmix=1))[0] == 0 and kinds(Augmentation(mixup=1, cutmix=0))[0] == 1
    assert kinds(Augmentation(mixup=0, cutmix=0))[2] == 1


def test_mixup_lambda_follows_its_beta_distribution():
    for alpha in (0.2, 0.8, 1.0, 3.0):
        lam = mixes(Augmentation(mixup=alpha, cutmix=0), 32, 0, 0, *MANY).lam
        assert kstest(lam, beta(alpha, alpha).cdf).pvalue > 1e-3


def test_cutmix_distribution_is_timms():
    ours: Mixes = mixes(Augmentation(mixup=0, cutmix=1), 224, 0, 0, *MANY)
    np.random.seed(0)  # noqa: NPY002 - timm draws from it
    timms = np.array([cutmix_bbox_and_lam((3, 224, 224), np.random.beta(1, 1))[1] for _ in range(4000)])  # noqa: NPY002
    assert ks_2samp(ours.lam, timms).pvalue > 1e-3
    top, bottom, left, right = ours.box.T
    assert np.allclose(ours.lam, 1 - (bottom - top) * (right - left) / 224**2)


def test_erased_rectangles_are_timms():
    boxes = erasures(0, 0, *MANY, size=64, probability=1.0)
    random.seed(0)  # timm draws from it
    timms = []
    for _ in range(4000):
        image = torch.zeros(1, 64, 64)
        RandomErasing(1.0, mode="pixel", max_count=1, device="cpu")._erase(image, 1, 64, 64, torch.float32)
        rows, columns = (torch.nonzero(image[0].any(dim=d))[:, 0].tolist() or [0] for d in (1, 0))
        timms.append((rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
    for measure in (lambda b: b[:, 1] - b[:, 0], lambda b: b[:, 3] - b[:, 2], lambda b: b[:, 0], lambda b: b[:, 2]):
        assert ks_2samp(measure(boxes), measure(np.array(timms))).pvalue > 1e-3
    some = erasures(0, 0, *MANY, size=64, probability=0.25)
    assert abs(some.any(axis=1).mean() - 0.25) < 0.03
    assert boxes.min() >= 0 and boxes.max() <= 64
    assert erasures(0, 0, *MANY, size=64, probability=0.0).sum() == 0
