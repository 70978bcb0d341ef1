"""How the probability of the classes that a record leaves out is spread: profiles against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.caches import QUIET, logits, recipe_with, refused, verify, write
from torch import Tensor

from coadvise.advice.profile import ProfileSums
from coadvise.advice.record import RecordFormat
from coadvise.losses import soft_advice
from coadvise.training.train import train


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_profile_spreads_the_rest_as_the_teacher_usually_does(temperature):
    """Against NumPy in float64: mean logits of the views whose first class is the same, and one average view more."""
    classes, top = 30, 4
    usual = logits(classes, classes, seed=3)
    views = usual[torch.randint(classes, (500,), generator=torch.Generator().manual_seed(4))] + 0.5 * logits(500, 30)
    sums = ProfileSums(classes)
    for part in views.split(170):
        sums.add(part)
    z = views.double().numpy()
    z -= z.max(axis=1, keepdims=True)
    first = z.argmax(axis=1)
    expected = np.stack(
        [(z[first == c].sum(axis=0) + z.mean(axis=0)) / (1 + (first == c).sum()) for c in range(classes)]
    )
    profile = sums.profile()
    assert profile.dtype == torch.float16 and np.allclose(profile.double().numpy(), expected, rtol=1e-3, atol=1e-3)
    record = RecordFormat(classes, top)
    found = (record.decode(record.encode(views[:8]), profile).double() / temperature).softmax(1).numpy()
    for row, got in zip(z[:8], found, strict=True):
        order = np.argsort(-row)
        rest = order[top:]
        table = expected[order[0], rest]
        whole = row.copy()
        for _ in range(3):
            table = np.minimum(
                table - np.log(np.exp(table).sum()) + np.log(np.exp(row[rest]).sum()), row[order[top - 1]]
            )
        whole[rest] = table
        p = np.exp((whole - whole.max()) / temperature)
        assert np.allclose(got, p / p.sum(), rtol=2e-2, atol=1e-6)


def test_a_profile_keeps_the_direction_of_the_gradients():
    """Of a teacher whose mass is spread widely, in a way that depends on its first class."""
    draw = torch.Generator().manual_seed(4)
    usual = 0.5 * logits(100, 100, seed=3)
    usual.diagonal().copy_(usual.max(dim=1).values + 0.5)
    views = usual[torch.randint(100, (4000,), generator=draw)] + 0.2 * torch.randn(4000, 100, generator=draw)
    sums = ProfileSums(100)
    sums.add(views[64:])
    teacher, student = views[:64], logits(64, 100, seed=2, scale=0.3).requires_grad_()
    record = RecordFormat(100, 5)
    exact = torch.autograd.grad(soft_advice(student, teacher, 1.0), student)[0]

    def cosine(profile: Tensor | None) -> float:
        cut = record.decode(record.encode(teacher), profile)
        found = torch.autograd.grad(soft_advice(student, cut, 1.0), student)[0]
        return float(torch.cosine_similarity(exact.flatten(), found.flatten(), dim=0))

    even, spread = cosine(None), cosine(sums.profile())
    assert spread > 0.99 and 1 - spread < (1 - even) / 5, (even, spread)


def test_no_profile_puts_another_class_first_or_breaks_the_order():
    """What is outside stays at or below the last of the k, whatever the profile says of it."""
    z, profile = logits(200, 40), (4 * logits(40, 40, seed=9)).half()
    record = RecordFormat(40, 3)
    found = record.decode(record.encode(z), profile)
    assert torch.equal(found.argmax(1), z.argmax(1))
    top = z.topk(3, dim=1).indices
    outside = found.scatter(1, top, -torch.inf)
    assert (outside.max(1).values <= found.gather(1, top)[:, -1] + 1e-6).all()
    masked = z.clone()
    masked[:, 7] = -1e9  # a usual way of leaving a class out
    sums = ProfileSums(40)
    sums.add(masked)
    assert sums.profile().isfinite().all() and record.decode(record.encode(masked), sums.profile()).isfinite().all()


def test_too_many_classes_for_a_profile():
    assert RecordFormat(4096, 10).profile_bytes == 2 * 4096**2 and RecordFormat(4097, 10).profile_bytes == 0
    assert RecordFormat(10, 10).profile_bytes == 0, "where all logits are stored, nothing is spread"


def test_a_profile_that_is_not_what_was_written(small, trained, tmp_path):
    recipe = recipe_with(trained, tmp_path, {"advice.source": "cache", "advice.top_k": 2})
    write(recipe)
    verify(recipe, display=QUIET)
    path = tmp_path / "cache" / "inv" / "profile.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(recipe, r"inv/profile\.bin holds something else than was written", verify)
    refused(recipe, r"inv/profile\.bin holds something else than was written")
    path.write_bytes(whole[:50])
    refused(recipe, r"inv/profile\.bin has 50 bytes, should have 200: it was cut off")
    path.unlink()
    refused(recipe, r"inv/profile\.bin has 0 bytes")
    path.write_bytes(whole)
    train(recipe, display=QUIET)
