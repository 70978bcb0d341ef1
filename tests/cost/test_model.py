"""What models cost, against counts that others publish and counts by hand."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import coadvise
from coadvise.cost import model as cost_model
from coadvise.cost.model import matrix_peak, model_cost, multiply_adds
from coadvise.errors import ModelError
from coadvise.system.clock import peak_bytes, short_bytes


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [("regnety_040", 4.0), ("deit_small_patch16_224", 4.6), ("resnet50", 4.1), ("rednet101", 4.7), ("rednet26", 1.7)],
)
def test_multiply_adds_are_the_published_ones(name, gmacs):
    """RedNet as its paper states it (Table 2: 1.7 and 4.7 G), the others as timm's results do."""
    with torch.device("meta"):
        model = timm.create_model(name)
    assert multiply_adds(model, 224) / 1e9 == pytest.approx(gmacs, abs=0.051)


def test_the_involutions_share_by_hand():
    x, kernel = torch.randn(2, 32, 6, 6, requires_grad=True), torch.randn(2, 2 * 9, 3, 3, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        y = coadvise.involution(x, kernel, 3, 2)
    assert counter.get_total_flops() == 2 * (2 * 32 * 9 * 9)
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 2 * 2 * (2 * 32 * 9 * 9)  # as much for each of the two gradients


def test_a_model_is_measured():
    cost = model_cost("cit_tiny", image_size=32, classes=5, batch_size=2, rounds=1)
    own = timm.create_model("cit_tiny", num_classes=5, img_size=32)
    assert cost.parameters == sum(p.numel() for p in own.parameters())
    assert cost.images_per_s > 0 and cost.batch_size == 2 and cost.multiply_adds > 1e6
    with pytest.raises(ModelError, match="no model is called"):
        model_cost("cit_tinny")


@pytest.mark.parametrize(
    ("rate", "sizes"),
    [(4e9, [256, 512, 1024]), (1e12, [256, 512, 1024, 2048]), (1e8, [256])],
)
def test_matrix_products_grow_while_they_are_short(monkeypatch, rate, sizes):
    """On a CPU without units for bfloat16 the largest would take minutes."""
    seen = list[int]()

    def times(run, device, rounds):
        size = len(run())
        seen.append(size)
        return [2 * size**3 / rate, 4 * size**3 / rate]

    monkeypatch.setattr(cost_model, "times_of", times)
    assert matrix_peak(torch.device("cpu"), None) == pytest.approx(rate)
    assert seen == sizes


def test_memory_of_a_call():
    needed = peak_bytes(lambda: torch.ones(64, 2**20, dtype=torch.uint8).add_(1))
    assert needed is None or 0.9 < needed / 2**26 < 1.3
    assert [short_bytes(n) for n in (None, 5, 2048, 3 * 2**20)] == ["", "5 B", "2 KiB", "3 MiB"]
