"""Recordings of frozen networks are kept only where they answer rightly, and faster."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import Tensor

from coadvise.models import replay

Run = Callable[[Tensor], Tensor]


def run(x: Tensor) -> Tensor:
    return x.flip(-1).cumsum(-1).flatten(1)[:, :3]


def stale(run: Run, x: Tensor) -> Run:
    """A recording that does not see what it is given."""
    kept = x.clone()
    return lambda x: run(kept)


def failing(run: Run, x: Tensor) -> Run:
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize(
    ("record", "seconds", "starting", "kept"),
    [
        (lambda run, x: lambda x: run(x), [1.0, 2.0], True, True),
        (lambda run, x: lambda x: run(x), [2.0, 1.0], True, False),  # slower
        (lambda run, x: lambda x: run(x), [1.0, 2.0], False, False),  # the device is what is waited for
        (stale, [1.0, 2.0], True, False),
        (lambda run, x: lambda x: run(x) * torch.nan, [1.0, 2.0], True, False),
        (failing, [1.0, 2.0], True, False),
    ],
)
def test_what_is_kept(record, seconds, starting: bool, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(seconds)
    monkeypatch.setattr(replay, "seconds_of", lambda run, device: next(times))
    monkeypatch.setattr(replay, "_waits_for_starts", lambda run, x: starting)
    found = replay.recorded(run, torch.arange(48.0).view(2, 1, 4, 6), 1e-4, record)
    assert (found is not None) == kept


def test_a_recording_begins_only_where_nothing_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the stream in use is taken again when it fails."""
    stream = mock.MagicMock()
    fake = mock.MagicMock(get_sync_debug_mode=lambda: 0)
    fake.stream.side_effect = lambda one: stream
    monkeypatch.setattr(replay.torch, "cuda", fake)

    def waiting(x: Tensor) -> Tensor:
        assert fake.set_sync_debug_mode.call_args.args == ("error",)
        raise RuntimeError("called a synchronizing CUDA operation")

    stream.__exit__.return_value = None
    fake.device.return_value.__exit__.return_value = None
    with pytest.raises(RuntimeError, match="synchronizing"):
        replay.Replay(waiting, torch.zeros(2, 3))
    assert fake.set_sync_debug_mode.call_args.args == (0,)
    assert not fake.graph.called and stream.__exit__.call_count == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_recording_on_a_gpu() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(50))).cuda()
    x = torch.randn(4, 8, device="cuda")
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        recording = replay.Replay(net, x)
        first, other = recording(x), torch.randn_like(x)
        torch.testing.assert_close(recording(other), net(other))
        torch.testing.assert_close(first, net(x))
