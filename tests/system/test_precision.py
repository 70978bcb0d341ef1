"""What `auto` means on a CPU: what was measured, once."""

from pathlib import Path

import pytest
import torch

from coadvise.system import precision
from coadvise.system.devices import resolve_precision

FP32, BF16 = torch.float32, torch.bfloat16


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[torch.dtype, float]]:
    """What is measured next, the last first, on a processor that has the instructions."""
    found: list[dict[torch.dtype, float]] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(precision, "has_bf16", lambda: True)
    monkeypatch.setattr(precision, "_measured", lambda: found.pop())
    return found


@pytest.mark.parametrize(("seconds", "faster"), [(1.6, False), (0.95, False), (0.5, True)])
def test_the_faster_one_is_taken_and_remembered(measured: list, seconds: float, faster: bool) -> None:
    measured.append({FP32: 1.0, BF16: seconds})
    assert precision.bf16_is_faster.__wrapped__() is faster
    assert not measured, "it was measured"
    assert precision.bf16_is_faster.__wrapped__() is faster, "and is not again"


def test_another_number_of_threads_is_another_machine(measured: list, monkeypatch: pytest.MonkeyPatch) -> None:
    measured += [{FP32: 1.0, BF16: 2.0}, {FP32: 1.0, BF16: 0.5}]
    assert precision.bf16_is_faster.__wrapped__()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert not precision.bf16_is_faster.__wrapped__()


@pytest.mark.parametrize("content", ["", "[]", '{"bf16": "x", "fp32": 1}', '{"fp32": 1}'])
def test_a_damaged_note_is_measured_anew(measured: list, tmp_path: Path, content: str) -> None:
    measured.append({FP32: 1.0, BF16: 0.5})
    assert precision.bf16_is_faster.__wrapped__()
    (note,) = (tmp_path / "coadvise").glob("precision-*.json")
    note.write_text(content)
    measured.append({FP32: 1.0, BF16: 2.0})
    assert not precision.bf16_is_faster.__wrapped__()
    assert not precision.bf16_is_faster.__wrapped__(), "it is remembered again"


def test_without_a_cache_folder_it_is_float32(measured: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of one run would each measure for themselves."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    measured.append({FP32: 1.0, BF16: 0.5})
    assert not precision.bf16_is_faster.__wrapped__()


@pytest.mark.slow
def test_the_probe_runs_in_both_types_and_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_ROUNDS", 1)  # a CPU without bfloat16 takes seconds for each
    before = torch.get_rng_state()
    found = precision._measured()
    assert found.keys() == {FP32, BF16} and all(0 < seconds < float("inf") for seconds in found.values())
    assert torch.equal(torch.get_rng_state(), before)


def test_without_the_instructions_it_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    monkeypatch.setattr(precision, "_measured", lambda: pytest.fail("measured"))
    precision.bf16_is_faster.cache_clear()
    try:
        assert resolve_precision("auto", cpu=True) == "fp32"
    finally:
        precision.bf16_is_faster.cache_clear()
