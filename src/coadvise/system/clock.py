"""Clocks and memory: how long a call takes on a device, and how many bytes it needs at its peak."""

from __future__ import annotations

import contextlib
import ctypes
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def now(device: torch.device) -> float:
    """Seconds by a clock that never goes back, after the device has finished its work."""
    synchronize(device)
    return time.perf_counter()


def times_of(run: Callable[[], Any], device: torch.device, rounds: int) -> list[float]:
    """Seconds of each of some calls, after one that does not count."""
    times = []
    for _ in range(rounds + 1):
        start = now(device)
        run()
        times.append(now(device) - start)
    return times[1:]


def seconds_of(run: Callable[[], Any], device: torch.device, rounds: int = 5) -> float:
    """Median seconds of a call, after one that does not count."""
    return statistics.median(times_of(run, device, rounds))


def peak_bytes(run: Callable[[], Any], device: str = "cpu") -> int | None:
    """Memory that a call needs at its peak, beyond what was in use before; None where it cannot be measured."""
    run()
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    try:
        c = ctypes.CDLL(None)
        c.mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD: what is freed goes back at once, and counts again when needed
        c.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts at what is resident now
        before = _status("VmRSS")
        run()
        return max(_status("VmHWM") - before, 0)
    except (OSError, AttributeError):  # not Linux
        return None
    finally:
        # The values that glibc itself reaches with large blocks; otherwise everything afterwards would be slower.
        with contextlib.suppress(OSError, AttributeError):
            c = ctypes.CDLL(None)
            c.mallopt(-3, 1 << 25)
            c.mallopt(-1, 1 << 26)  # M_TRIM_THRESHOLD


def most_memory(device: torch.device) -> int | None:
    """Bytes in use at the peak: on a GPU since its peak was reset, on the CPU of this process since it began; None
    where it cannot be measured."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        return _status("VmHWM")
    except (OSError, StopIteration):  # not Linux
        return None


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def short_bytes(count: int | None) -> str:
    """`412 MiB`; empty for None."""
    if count is None:
        return ""
    unit = min(int(math.log2(max(count, 1))) // 10, 4)
    return f"{count / 2 ** (10 * unit):.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[unit]}"


def short_time(seconds: float) -> str:
    """`3.2 h`, `12 min` or `40 s`."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def epochs_in_words(count: int) -> str:
    """`1 epoch` or `1,000 epochs`."""
    return "1 epoch" if count == 1 else f"{count:,} epochs"
