"""What a resume restores: everything that decides the next step, and nothing else.

PyTorch's random generators and the gradient scaler belong to it, too; they live elsewhere, and `checkpoint` reads and
sets them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, with_config
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer


@with_config(ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
@dataclass
class Counters:
    """Numbers of a run so far.

    Attributes:
        step: updates that were made.
        best: best top-1 in an evaluation, as a share, with its epoch and its weights (`student` or `ema`).
        skipped: names of the unreadable training images met so far.
        seconds: of training.
        window: micro-batches since the last log line.
    """

    step: Annotated[int, Field(ge=0)] = 0
    best: float = -1.0
    best_epoch: Annotated[int, Field(ge=0)] = 0
    best_weights: Literal["student", "ema"] = "student"
    skipped: list[str] = field(default_factory=list)
    seconds: Annotated[float, Field(ge=0)] = 0.0
    window: Annotated[int, Field(ge=0)] = 0


@dataclass
class State:
    """The content of `last.safetensors`.

    Attributes:
        student: the module that is trained, unwrapped.
        ema: its averaged weights, if the recipe wants them.
        window: sums of every loss term since the last log line, on the device.
    """

    student: nn.Module
    optimizer: Optimizer
    ema: ModelEmaV3 | None
    count: Counters = field(default_factory=Counters)
    window: dict[str, Tensor] = field(default_factory=dict)
