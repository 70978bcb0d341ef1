"""The last part of augmentation against NumPy and timm, image by image in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.data.mixup import mixup_target

from coadvise.data.views.draws import Mixes, Stream
from coadvise.data.views.finish import NOISE, Finish, Unfinished, mixing_table, plain_table, view_table
from coadvise.recipe.data import IMAGENET_MEAN, IMAGENET_STD, Augmentation, Data

CPU = torch.device("cpu")
SIZE = 12


def settings(**augment: object) -> Data:
    return Data(source="digits", image_size=SIZE, seed=5, augment=Augmentation(**{"policy": "light", **augment}))


def pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def normalised(image: np.ndarray) -> np.ndarray:
    return (image / 255.0 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)


def unmixed(count: int) -> torch.Tensor:
    return mixing_table(np.arange(count), Mixes(np.ones(count), np.zeros((count, 4), dtype=np.int32)))


def test_crop_flip_and_erasing_image_by_image():
    data, count = settings(erasing=0.5, pad=3), 200
    images, index = pixels(count), np.arange(count) * 7
    views = view_table(data, 4, index, np.zeros(count, dtype=np.int64), index % 10)
    made = Finish(data, 10, CPU)(Unfinished(torch.from_numpy(images), views, unmixed(count), torch.arange(count), ()))
    noise = np.random.default_rng(np.random.SeedSequence((Stream.NOISE, 5))).standard_normal(NOISE, dtype=np.float32)
    erased = 0
    for image, row, got in zip(images, views.numpy(), made.images.numpy(), strict=True):
        down, right, flip, top, bottom, left, end, at = row[1:].astype(int)
        padded = np.pad(image, ((3, 3), (3, 3), (0, 0)))
        expected = padded[3 + down :, 3 + right :][:SIZE, :SIZE]
        expected = normalised(expected[:, ::-1] if flip else expected)
        for y in range(top, bottom):
            for x in range(left, end):
                for c in range(3):
                    expected[y, x, c] = noise[(at + (y * SIZE + x) * 3 + c) % NOISE]
        erased += bottom > top
        assert np.allclose(got, expected.transpose(2, 0, 1), atol=1e-6)
    assert made.label.tolist() == (index % 10).tolist() and 60 < erased < 140
    assert {tuple(row) for row in views[:, 1:3].tolist()} > {(-3.0, -3.0), (3.0, 3.0)}
    assert {0.0, 1.0} == set(views[:, 3].tolist())


def test_mixing_against_numpy():
    images = pixels(3)
    data = settings(mixup=1, cutmix=1, erasing=0)
    mixes = Mixes(np.array([0.3, 1 - 21 / SIZE**2]), np.array([[0, 0, 0, 0], [2, 5, 1, 8]], dtype=np.int32))
    batch = Unfinished(
        torch.from_numpy(images),
        plain_table(np.array([0, 1, 3])),
        mixing_table(np.array([1, 2]), mixes),
        torch.arange(2),
        (),
    )
    made = Finish(data, 4, CPU, smoothing=0.2)(batch)
    a, b, c = (normalised(image) for image in images)
    assert np.allclose(made.images[0].numpy().transpose(1, 2, 0), 0.3 * a + 0.7 * b, atol=1e-6)
    cut = b.copy()
    cut[2:5, 1:8] = c[2:5, 1:8]
    assert np.allclose(made.images[1].numpy().transpose(1, 2, 0), cut, atol=1e-6)
    assert made.images.shape == (2, 3, SIZE, SIZE) and made.target.shape == (2, 4)
    lam = 1 - 21 / SIZE**2
    expected = [
        [0.05 + 0.8 * 0.3, 0.05 + 0.8 * 0.7, 0.05, 0.05],
        [0.05, 0.05 + 0.8 * lam, 0.05, 0.05 + 0.8 * (1 - lam)],
    ]
    assert np.allclose(made.target.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_targets_against_timm(smoothing):
    labels = torch.tensor([3, 1, 1, 0])  # timm mixes with the reverse: 3 with 0, 1 with 1
    for lam in (1.0, 0.25, 0.9):
        mixes = Mixes(np.full(4, lam), np.zeros((4, 4), dtype=np.int32))
        batch = Unfinished(
            torch.from_numpy(pixels(4)),
            plain_table(labels.numpy()),
            mixing_table(np.arange(4)[::-1], mixes),
            labels,
            (),
        )
        got = Finish(settings(), 5, CPU, smoothing)(batch).target
        assert torch.allclose(got, mixup_target(labels, 5, lam, smoothing), atol=1e-7)
        assert got.sum(1).sub(1).abs().max() < 1e-6


def test_erasing_is_noise_of_unit_variance_and_never_the_same():
    data, count = settings(erasing=1.0, pad=0, hflip=0), 300
    grey = torch.full((count, SIZE, SIZE, 3), 128, dtype=torch.uint8)
    index = np.arange(count)
    views = view_table(data, 0, index, np.zeros(count, dtype=np.int64), np.zeros(count))
    made = Finish(data, 2, CPU)(Unfinished(grey, views, unmixed(count), torch.arange(count), ()))
    plain = Finish(data, 2, CPU).images(grey[:1])
    mask = made.images != plain
    values = made.images[mask]
    assert abs(values.mean()) < 0.03 and abs(values.std() - 1) < 0.03
    firsts = [made.images[i][mask[i]][:3].tolist() for i in range(count) if mask[i].any()]
    assert len({tuple(first) for first in firsts}) > 0.99 * len(firsts) > 250


def test_nothing_waits_for_a_gpu_to_which_a_batch_goes(monkeypatch):
    """What is copied while the device works lies in pinned memory, as the CUDA runtime wants it."""
    data, count = settings(erasing=0.5, pad=3, mixup=1), 20
    index = np.arange(count)
    views = view_table(data, 0, index, np.zeros(count, dtype=np.int64), index % 10)
    mixing = mixing_table(index[::-1].copy(), Mixes(np.full(count, 0.3), np.zeros((count, 4), dtype=np.int32)))
    finish, pinned, copied, to = Finish(data, 10, CPU), list[torch.Tensor](), list[torch.Tensor](), torch.Tensor.to

    def copy(tensor, *place, non_blocking=False, **how):
        copied.extend([tensor] if non_blocking else [])
        return to(tensor) if place[:1] == (torch.device("cuda"),) else to(tensor, *place, **how)

    def pin(tensor):
        pinned.append(tensor.clone())
        return pinned[-1]

    batch = Unfinished(
        pin(torch.from_numpy(pixels(count))), views, mixing, torch.from_numpy(index), (), torch.arange(count)
    )
    monkeypatch.setattr(finish, "device", torch.device("cuda"))
    monkeypatch.setattr(finish, "_targets", lambda label, b, how: label)
    monkeypatch.setattr(finish, "_erased", lambda images, choices: images)
    monkeypatch.setattr(torch.Tensor, "to", copy)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    assert torch.equal(finish(batch).label, views[:, 0].long())
    assert len(copied) == 5 and all(any(one is other for other in pinned) for one in copied)


def test_a_batch_of_none():
    empty = Unfinished(
        torch.zeros(0, SIZE, SIZE, 3, dtype=torch.uint8), plain_table(np.zeros(0)), unmixed(0), torch.arange(0), ("a",)
    )
    made = Finish(settings(), 3, CPU)(empty)
    assert made.images.shape == (0, 3, SIZE, SIZE) and made.target.shape == (0, 3) and made.skipped == ("a",)
