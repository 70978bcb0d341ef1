"""Cost of a model: parameters, multiply-adds, images per second, memory."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from ..errors import ModelError
from ..models.factory import build_model
from ..system.clock import peak_bytes, seconds_of, times_of
from ..system.devices import DTYPES, choose_device, resolve_precision

# The batch is doubled while that brings a tenth more images per second, up to so many images.
LARGEST_BATCH = {"cpu": 64, "cuda": 2048}
LONG_PRODUCT = 0.1
"""Seconds of a matrix product after which no larger one is tried."""


@register_flop_formula(torch.ops.coadvise.involution)  # type: ignore[untyped-decorator]
def _involution_flops(x: tuple[int, ...], kernel: tuple[int, ...], size: int, stride: int, **_: Any) -> int:
    b, c = x[:2]
    return 2 * b * c * size**2 * kernel[2] * kernel[3]


@register_flop_formula(torch.ops.coadvise.involution_backward)  # type: ignore[untyped-decorator]
def _involution_backward_flops(
    grad: tuple[int, ...], x: tuple[int, ...], kernel: tuple[int, ...], size: int, stride: int, **_: Any
) -> int:
    return 2 * _involution_flops(x, kernel, size, stride)


def multiply_adds(model: nn.Module, image_size: int) -> int:
    """Multiply-adds of one image through a model, its involutions included. Nothing is computed."""
    model = copy.deepcopy(model).to("meta")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, sdpa_kernel(SDPBackend.MATH):
        model.eval()(torch.empty(1, 3, image_size, image_size, device="meta"))
    return counter.get_total_flops() // 2


@dataclasses.dataclass(frozen=True)
class ModelCost:
    """One row of `coadvise bench`: multiply-adds of one image, median images/s in evaluation mode.

    Attributes:
        memory: bytes at the peak beside the weights, None where it cannot be measured.
    """

    name: str
    parameters: int
    multiply_adds: int
    batch_size: int
    images_per_s: float
    memory: int | None


def model_cost(
    name: str,
    *,
    image_size: int = 224,
    classes: int = 1000,
    batch_size: int | None = None,
    precision: str = "auto",
    device: torch.device | None = None,
    rounds: int = 5,
) -> ModelCost:
    """Measure a model by its name.

    Args:
        batch_size: images at a time; None searches the smallest one that is about as fast as any.
        precision: fp32, bf16, fp16 or auto.

    Raises:
        ModelError: no model of that name, or it does not take images of that size.
        RunError: a precision that the device does not have.
    """
    device = device or choose_device()
    dtype = DTYPES[resolve_precision(precision, device.type == "cpu")]
    model = build_model(name, classes, image_size=image_size).eval()
    try:
        count = multiply_adds(model, image_size)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"{name} cannot take images of {image_size}×{image_size}: {error}") from error
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def answer(batch: int) -> Callable[[], Any]:
        x = torch.randn(batch, 3, image_size, image_size, device=device).to(memory_format=torch.channels_last)

        @torch.inference_mode()
        def run() -> None:
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                model(x)

        return run

    def images_per_s(batch: int) -> float:
        return batch / seconds_of(answer(batch), device, rounds)

    search, batch_size = batch_size is None, batch_size or 1
    speed = images_per_s(batch_size)
    while search and batch_size < LARGEST_BATCH[device.type]:
        try:
            faster = images_per_s(2 * batch_size)
        except torch.OutOfMemoryError:
            break
        if faster < 1.1 * speed:
            break
        batch_size, speed = 2 * batch_size, faster
    memory = peak_bytes(answer(batch_size), device.type)
    return ModelCost(name, sum(p.numel() for p in model.parameters()), count, batch_size, speed, memory)


def matrix_peak(device: torch.device, dtype: torch.dtype | None) -> float:
    """Floating-point operations per second of a large matrix product; the best of a few sizes and calls.

    Sizes grow while a product is short: bfloat16 on a CPU that has no units for it can be 1,000 times as slow.
    """
    size, largest, best = 256, 8192 if device.type == "cuda" else 2048, 0.0
    while True:
        a = torch.randn(size, size, device=device, dtype=dtype or torch.float32)
        seconds = min(times_of(partial(torch.mm, a, a), device, 5))
        best = max(best, 2 * size**3 / seconds)
        if size == largest or seconds > LONG_PRODUCT:
            return best
        size *= 2
