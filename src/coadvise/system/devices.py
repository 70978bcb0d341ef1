"""Devices and precisions: what this machine has, and what `auto` means on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from ..errors import RunError
from .precision import bf16_is_faster

if TYPE_CHECKING:
    from accelerate import Accelerator

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(setting: Literal["auto", "cpu", "cuda"] = "auto") -> torch.device:
    """The device of `run.device`: `auto` is a GPU where there is one.

    Raises:
        RunError: `cuda` where PyTorch sees no GPU.
    """
    found = torch.cuda.is_available()
    if setting == "cuda" and not found:
        raise RunError("run.device=cuda, but PyTorch sees no GPU here; use run.device=auto, or see `coadvise doctor`")
    return torch.device("cuda" if found and setting != "cpu" else "cpu")


def autocast_dtype(accelerator: Accelerator) -> torch.dtype | None:
    """Type of matrix products under the run's precision; None for float32."""
    return DTYPES.get(accelerator.mixed_precision)


def resolve_precision(precision: str, cpu: bool) -> str:
    """`auto` → bf16, fp16 or fp32, as the device allows; on a CPU whichever it trains faster in.

    Raises:
        RunError: fp16 on the CPU.
    """
    if precision == "auto":
        if cpu:
            return "bf16" if bf16_is_faster() else "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if precision == "fp16" and cpu:
        raise RunError("run.precision=fp16 needs a GPU; use bf16 or fp32 on the CPU")
    return precision
