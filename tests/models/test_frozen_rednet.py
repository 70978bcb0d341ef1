"""Frozen RedNets: the same numbers with fewer passes, and kernels made in place only where that is right and faster."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import timm
import torch
from models.test_fuse import with_statistics
from torch import Tensor, nn

import coadvise  # noqa: F401  (registers the models)
from coadvise.models import frozen_rednet
from coadvise.models.frozen_rednet import FrozenBottleneck, FrozenInvolution, choose_kernels
from coadvise.models.fuse import fused
from coadvise.ops import convolution


def network() -> nn.Module:
    torch.manual_seed(0)
    return with_statistics(timm.create_model("rednet26", layers=(1, 2, 1), width=32, num_classes=5))


@pytest.fixture
def frozen() -> nn.Module:
    made = fused(network(), torch.randn(2, 3, 48, 40))
    assert made is not None
    return made


def count(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


def test_convolutions_take_relu_and_shortcut_with_them(frozen: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit what single operations give, in batches of which PyTorch, too, computes by oneDNN."""
    assert count(frozen, FrozenBottleneck) == 4 and count(frozen, FrozenInvolution) == 5  # and the stem's
    x = torch.randn(16, 3, 48, 40)
    kept, by_onednn = x.clone(), []
    plain = convolution._by_onednn
    monkeypatch.setattr(convolution, "_by_onednn", lambda conv, x: by_onednn.append(plain(conv, x)) or by_onednn[-1])
    with torch.no_grad():
        found = frozen(x)
        assert by_onednn == [True] * (5 + 2 * 4)  # the stem's involution, and of each block's four all but one
        maps = frozen.forward_intermediates(x, intermediates_only=True)
        monkeypatch.setattr(convolution, "_by_onednn", lambda conv, x: False)
        assert torch.equal(frozen(x), found) and torch.equal(x, kept)
        alone = frozen.forward_intermediates(x, intermediates_only=True)
        assert all(torch.equal(a, b) for a, b in zip(maps, alone, strict=True))  # nothing that is read was overwritten
        assert (network().double()(x.double()) - found).abs().max() < 1e-4 * found.abs().max()


def test_gradients_and_autocast_take_single_operations(frozen: nn.Module) -> None:
    x = torch.randn(16, 3, 32, 32, requires_grad=True)
    frozen(x).sum().backward()
    assert x.grad is not None and bool(x.grad.any())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert frozen(x).dtype == torch.bfloat16


def choose(monkeypatch: pytest.MonkeyPatch, model: nn.Module, seconds: list[float]) -> int:
    """Choose as on a device where kernels in memory and kernels made in place take so many seconds in turn."""
    times = iter(seconds * 100)
    monkeypatch.setattr(frozen_rednet, "seconds_of", lambda run, device: run() is None or next(times))
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.to(torch.bfloat16)
    return choose_kernels(model, torch.randn(2, 3, 48, 40), torch.bfloat16)


def test_kernels_are_made_in_place_where_that_is_faster(
    frozen: nn.Module, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    x = torch.randn(3, 3, 48, 40)
    calls: list[Any] = []
    operator = frozen_rednet.generated_involution

    def counted(*args: Any) -> Tensor:
        calls.append(args[0].shape)
        return operator(*args)

    monkeypatch.setattr(frozen_rednet, "generated_involution", counted)
    assert choose(monkeypatch, frozen, [2.0, 1.0]) == 5
    calls.clear()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = frozen(x).float()
        assert len(calls) == 5
        expected = network()(x).float()
    exact = network().double()(x.double()).detach()
    assert (found - exact).abs().max() < 2 * (expected - exact).abs().max() + 1e-3
    assert not caplog.records
    assert choose(monkeypatch, fused(network(), x), [1.0, 2.0]) == 0 and not caplog.records  # type: ignore[arg-type]


def test_what_is_wrong_or_fails_is_not_used_and_said_once(
    frozen: nn.Module, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*args: Any) -> Tensor:
        raise RuntimeError("no such\n  processor")

    caplog.set_level(logging.WARNING, "coadvise")
    monkeypatch.setattr(frozen_rednet, "generated_involution", lambda x, hidden, *rest: x[:, :, :1, :1] + 1)
    assert choose(monkeypatch, frozen, [2.0, 1.0]) == 0
    monkeypatch.setattr(frozen_rednet, "generated_involution", fails)
    assert choose(monkeypatch, frozen, [2.0, 1.0]) == 0
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "they differ by" in said[0] and "no such processor" in said[1]
