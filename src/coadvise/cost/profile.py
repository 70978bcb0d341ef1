"""What a device does during some steps: how busy it is, its kernels, launches, and where the host waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from ..system.clock import synchronize

# Calls of CUDA's interface that start work on the device; a whole graph is one.
LAUNCHES = ("LaunchKernel", "GraphLaunch", "MemcpyAsync", "MemsetAsync")
# What makes the host wait for the device. The profiler's own wait at its end is a `cudaDeviceSynchronize`.
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy", "aten::item", "aten::_local_scalar_dense")


@dataclass(frozen=True)
class Kernel:
    """One kind of kernel, or of operator on the CPU: its seconds in a step, and how often it runs there."""

    name: str
    seconds: float
    calls: float


@dataclass(frozen=True)
class Profile:
    """Some steps under PyTorch's profiler; all numbers are of one step.

    Attributes:
        seconds: on the clock; the profiler itself slows the host down.
        busy: share of the time in which at least one kernel ran; None on the CPU.
        kernels: of the device; of the CPU, operators.
        launches: calls that start work on the device.
        waits: calls by name with which the host waits for the device, and `.item()`, also on the CPU.
        top: the kernels, or operators, that take most of the time.
    """

    seconds: float
    busy: float | None
    kernels: float
    launches: float
    waits: dict[str, float]
    top: tuple[Kernel, ...]


def profiled(run: Callable[[], Any], device: torch.device, steps: int = 1, top: int = 12) -> Profile:
    """Profile a call that takes so many steps; it should have run before."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    synchronize(device)
    with torch.profiler.profile(activities=activities, acc_events=True) as profile:
        start = time.perf_counter()
        run()
        synchronize(device)
        seconds = time.perf_counter() - start
    events = list(profile.events() or ())
    own = DeviceType.CUDA if cuda else DeviceType.CPU
    there = [event for event in events if event.device_type == own and not event.is_user_annotation]
    spans = ((event.time_range.start, event.time_range.end) for event in there)
    names = [event.name for event in events if event.device_type == DeviceType.CPU]
    return Profile(
        seconds=seconds / steps,
        busy=covered(spans) / 1e6 / seconds if cuda else None,
        kernels=len(there) / steps,
        launches=sum(any(part in name for part in LAUNCHES) for name in names) / steps if cuda else 0.0,
        waits={name: count / steps for name in WAITS if (count := names.count(name))},
        top=_longest(there, cuda, steps)[:top],
    )


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    whole, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        whole += max(end - max(begin, reached), 0.0)
        reached = max(reached, end)
    return whole


def _longest(events: Iterable[Any], cuda: bool, steps: int) -> tuple[Kernel, ...]:
    found: dict[str, tuple[float, int]] = {}
    for event in events:
        micros = event.time_range.elapsed_us() if cuda else event.self_cpu_time_total
        seconds, calls = found.get(event.name, (0.0, 0))
        found[event.name] = (seconds + micros / 1e6, calls + 1)
    ordered = sorted(found.items(), key=lambda item: -item[1][0])
    return tuple(Kernel(name, seconds / steps, calls / steps) for name, (seconds, calls) in ordered)
