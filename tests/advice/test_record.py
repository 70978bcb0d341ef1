"""Stored logits: the format of a record against float64."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
import torch
from helpers.caches import logits

from coadvise.advice.profile import ProfileSums
from coadvise.advice.record import RecordFormat
from coadvise.losses import co_advise_loss, soft_advice


@pytest.mark.parametrize(("classes", "top"), [(100, 10), (1000, 10), (1000, 50), (40_000, 5), (70_000, 4)])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_record_keeps_the_distribution_with_the_rest_spread_evenly(classes, top, temperature):
    z = logits(6, classes)
    record = RecordFormat(classes, top)
    stored = record.encode(z)
    assert not record.dense and stored.shape == (6, record.bytes) and stored.dtype == torch.uint8
    found = (record.decode(stored).double() / temperature).softmax(1)
    for row, got in zip(z.double().numpy(), found.numpy(), strict=True):
        order = np.argsort(-row)
        kept, rest = order[:top], order[top:]
        outside = np.log(np.exp(row[rest] - row.max()).sum()) + row.max()
        expected = np.full(classes, outside - np.log(classes - top))
        expected[kept] = row[kept]
        p = np.exp((expected - expected.max()) / temperature)
        assert np.allclose(got, p / p.sum(), rtol=1e-2, atol=1e-9)
        assert set(np.argsort(-got)[:top]) == set(kept)


def test_all_logits_are_stored_where_that_takes_no_more_room():
    for classes, top, dense, size in (
        (10, 10, True, 20),
        (10, 3, False, 14),
        (21, 10, True, 42),
        (100, 100, True, 200),
    ):
        record = RecordFormat(classes, top)
        assert (record.dense, record.bytes) == (dense, size)
    z = logits(5, 100, scale=5)
    found = RecordFormat(100, 100).decode(RecordFormat(100, 100).encode(z))
    expected = z.double() - z.double().max(1, keepdim=True).values
    assert (found.double() - expected).abs().max() < 2**-11 * expected.abs().max()


def test_the_rest_survives_a_confident_teacher():
    """exp(−12) of the mass outside the top: as a difference of whole sums in half precision it would be nothing."""
    z = torch.full((1, 50), -14.0)
    z[0, 7] = 0.0
    found = RecordFormat(50, 2).decode(RecordFormat(50, 2).encode(z)).double().softmax(1)
    exact = z.double().softmax(1)
    assert found[0, 3] == pytest.approx(exact[0, 3].item(), rel=0.02)


def test_extreme_logits_stay_finite():
    z = torch.tensor([[0.0, -1e6, 3e5, 3e5]])
    for classes, top in ((70_000, 5), (70_000, 4), (40_000, 3)):  # one image alone: its bytes start anywhere
        one = RecordFormat(classes, top)
        assert one.decode(one.encode(logits(1, classes))).isfinite().all()
    for record in (RecordFormat(4, 4), RecordFormat(4, 1)):
        assert record.decode(record.encode(z)).isfinite().all()


def test_gradients_of_cut_advice_point_the_same_way():
    """Ten of 100 classes, at initialisation: a teacher as sure as trained ones are."""
    teacher = logits(64, 100, seed=1)
    student = logits(64, 100, seed=2, scale=0.3).requires_grad_()
    record = RecordFormat(100, 10)
    exact = torch.autograd.grad(soft_advice(student, teacher, 1.0), student)[0]
    cut = torch.autograd.grad(soft_advice(student, record.decode(record.encode(teacher)), 1.0), student)[0]
    assert torch.cosine_similarity(exact.flatten(), cut.flatten(), dim=0) > 0.99


def test_eq1_from_decoded_advice():
    z = {"class": logits(4, 10, 3), "conv": logits(4, 10, 4)}
    teacher, target = {"conv": logits(4, 10, 5)}, torch.tensor([1, 2, 3, 4])
    record = RecordFormat(10, 10)
    live = co_advise_loss(z, teacher, target)
    stored = co_advise_loss(z, {"conv": record.decode(record.encode(teacher["conv"]))}, target)
    assert stored.total.item() == pytest.approx(live.total.item(), rel=1e-3)


@pytest.mark.parametrize(("classes", "top"), [(10, 10), (300, 5), (1000, 1), (70_000, 3)])
def test_damaged_records_are_told_from_those_that_were_written(classes: int, top: int) -> None:
    """Against the numbers themselves, decoded by hand: 16-bit floats, then classes, then one float."""
    record = RecordFormat(classes, top)
    written = record.encode(torch.cat([logits(40, classes), torch.zeros(1, classes), logits(2, classes, scale=1e9)]))
    raw = written.numpy()
    assert not record.damaged(raw).any()
    rng = np.random.default_rng(0)
    noise = raw.copy()
    noise[rng.random(raw.shape) < 0.05] = rng.integers(0, 256)
    noise[0], noise[1] = 0, 255
    width = 2 if classes < 2**16 else 4
    for row, found in zip(noise, record.damaged(noise), strict=True):
        stored = row.tobytes()
        count = classes if record.dense else top
        kept = struct.unpack(f"<{count}e", stored[: 2 * count])
        bad = any(not -65504 <= value <= 0 for value in kept)
        if not record.dense:
            index = struct.unpack(f"<{top}{'H' if width == 2 else 'I'}", stored[2 * top : (2 + width) * top])
            (rest,) = struct.unpack("<e", stored[(2 + width) * top :])
            bad |= any(value >= classes for value in index) or (top > 1 and index[0] == index[1])
            # Each of the others is at most the last that is kept.
            bad |= not -65504 <= rest <= math.log(classes - top) + kept[-1] + 0.1 + 0.002 * abs(kept[-1])
        assert bool(found) == bad


@pytest.mark.parametrize(("classes", "top"), [(20, 10), (300, 10), (300, 200)])
def test_classes_that_a_teacher_masks_stay_without_probability(classes, top):
    """Of 300 classes 150 are masked; where more are kept than left, nothing lies outside."""
    z = logits(6, classes)
    z[:, ::2] = -torch.inf
    record, sums = RecordFormat(classes, top), ProfileSums(classes)
    sums.add(z)
    profile = sums.profile()
    expected = z.double().softmax(1)
    for table in (None, profile) if not record.dense else (None,):
        found = record.decode(record.encode(z), table)
        loss = soft_advice(torch.zeros(6, classes), found, 2.0)
        assert torch.isfinite(found).all() and torch.isfinite(loss)
        if table is not None or record.dense or top > classes // 2:
            assert found.double().softmax(1)[:, ::2].max() < 1e-6
            assert (found.double().softmax(1) - expected).abs().sum(1).max() < 0.3


def test_a_record_whose_others_outweigh_the_last_is_damaged() -> None:
    """Spread below the last, they would have no room: 0 · ∞."""
    record = RecordFormat(10, 2)
    raw = record.encode(logits(3, 10)).numpy().copy()
    raw[1, 2:4] = np.frombuffer(struct.pack("<e", -512.0), np.uint8)  # the second logit
    raw[1, 8:10] = np.frombuffer(struct.pack("<e", 2.0), np.uint8)  # all others together
    assert record.damaged(raw).tolist() == [False, True, False]
    profile = torch.zeros(10, 10, dtype=torch.float16)
    assert not torch.isfinite(record.decode(torch.from_numpy(raw), profile)[1]).all(), "so it must not be read"
