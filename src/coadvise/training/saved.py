"""The content of `last.safetensors`, read and checked whole: nothing of a file that does not fit reaches a run.

A tensor of a wrong shape would otherwise make the fused optimizer read and write outside of its memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from accelerate.optimizer import AcceleratedOptimizer
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from safetensors import SafetensorError, safe_open
from timm.optim import Lamb
from torch import Tensor
from torch.optim import SGD, Optimizer

from ..errors import CheckpointError
from .state import Counters, State

FORMAT = "coadvise-training-1"
GROUP = "group-"
# Of either sign; all else that an optimizer keeps is not.
SIGNED = ("exp_avg", "momentum_buffer")


@with_config(ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
@dataclass(frozen=True)
class Numbers:
    """What stands in the file's header as JSON.

    Attributes:
        world: number of processes.
        scaler: state of the gradient scaler, under fp16.
        origin: what the run computes from, in short.
    """

    count: Counters
    world: Annotated[int, Field(ge=1)]
    scaler: dict[str, int | float] | None
    origin: dict[str, str]


_NUMBERS = TypeAdapter(Numbers)


@dataclass(frozen=True)
class Saved:
    """A file's tensors by name, and its numbers. The tensors lie in the file: copy what is to be kept."""

    path: Path
    tensors: Mapping[str, Tensor]
    numbers: Numbers

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under a prefix, by the rest of their names."""
        found = {name.partition(".")[::2]: tensor for name, tensor in self.tensors.items()}
        return {rest: tensor for (first, rest), tensor in found.items() if first == prefix}

    def require_fitting(self, state: State, total_steps: int) -> None:
        """Compare every name, shape and type with those of a run, and look for numbers that no training writes.

        Raises:
            CheckpointError: names the first that does not fit.
        """
        count, losses, expected = self.numbers.count, self.part("window"), dict(self._expected(state))
        if count.step > total_steps:
            raise does_not_fit(self.path, f"it is at step {count.step} of a run of {total_steps}")
        if unknown := sorted(self.tensors.keys() - expected.keys()):
            raise does_not_fit(self.path, f"nothing is known of '{unknown[0]}'")
        if count.step and not self.part("optimizer"):
            raise does_not_fit(self.path, f"it is at step {count.step} without a state of the optimizer")
        for name, like in expected.items():
            value = self.tensors.get(name)
            if value is None:
                raise does_not_fit(self.path, f"{name} is missing")
            if value.shape != like.shape or value.dtype != like.dtype:
                was, wanted = (f"{one.dtype} {tuple(one.shape)}".removeprefix("torch.") for one in (value, like))
                raise does_not_fit(self.path, f"{name} is {was}, must be {wanted}")
        if bool(losses) != bool(count.window) or not all(n == "total" or n.startswith("term.") for n in losses):
            raise does_not_fit(self.path, f"losses of {count.window} batches are {', '.join(sorted(losses)) or 'none'}")
        self._require_sound(state)

    def _require_sound(self, state: State) -> None:
        """Weights are saved where they are finite alone, and an optimizer's mean of squares is never negative.

        Such numbers would end the run some steps later, where the learning rate is blamed for them.
        """
        modules = {"model": state.student} | ({} if state.ema is None else {"ema": state.ema.module})
        # A model's buffers may be infinite, as masks are.
        trained = {f"{prefix}.{name}" for prefix, one in modules.items() for name, _ in one.named_parameters()}
        for name, value in self.tensors.items():
            of_optimizer = name.startswith("optimizer.")
            if not (of_optimizer or name in trained) or not value.is_floating_point() or not value.numel():
                continue
            least, most = (float(one) for one in torch.aminmax(value))  # NaN where there is one
            if not (math.isfinite(least) and math.isfinite(most)):
                raise does_not_fit(self.path, f"{name} has numbers that are not finite, it is damaged")
            if of_optimizer and least < 0 and name.rpartition(".")[2] not in SIGNED:
                raise does_not_fit(self.path, f"{name} has negative numbers, it is damaged")

    def _expected(self, state: State) -> Iterator[tuple[str, Tensor]]:
        """Every name that belongs into the file, and a tensor of the form that is wanted there."""
        modules = {"model": state.student} | ({} if state.ema is None else {"ema": state.ema.module})
        for prefix, module in modules.items():
            yield from ((f"{prefix}.{name}", value) for name, value in module.state_dict().items())
        updated = {name.partition(".")[0] for name in self.part("optimizer")}  # those that have had a gradient
        for index, parameter in enumerate(p for group in state.optimizer.param_groups for p in group["params"]):
            for key in _kept(state.optimizer) if str(index) in updated else ():
                yield f"optimizer.{index}.{key}", torch.tensor(0.0) if key == "step" else parameter
        if isinstance(plain(state.optimizer), Lamb) and updated:
            for index in range(len(state.optimizer.param_groups)):
                yield f"optimizer.{GROUP}{index}.step", torch.tensor(0.0)
        for rank in range(self.numbers.world):
            yield f"rng.cpu.{rank}", torch.get_rng_state()
            if (name := f"rng.cuda.{rank}") in self.tensors:
                yield name, self.tensors[name]
        yield from ((f"window.{name}", torch.tensor(0.0).double()) for name in self.part("window"))


def plain(optimizer: Optimizer) -> Optimizer:
    """The optimizer itself, where Accelerate has wrapped it."""
    return optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer


def _kept(optimizer: Optimizer) -> tuple[str, ...]:
    """What is kept of each weight that has been updated."""
    match plain(optimizer):
        case SGD():
            return ("momentum_buffer",)
        case Lamb():
            return ("exp_avg", "exp_avg_sq")
        case _:
            return ("step", "exp_avg", "exp_avg_sq")


def read_saved(path: Path) -> Saved:
    """Read a file.

    Raises:
        CheckpointError: it is damaged, of another version, or its numbers are not of the right types.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise CheckpointError(f"{path} is no training state of this version of coadvise")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        return Saved(path, tensors, _NUMBERS.validate_json(header.get("state", "")))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "its header"
        raise does_not_fit(path, f"{place}: {first['msg'].lower()}") from error


def does_not_fit(path: Path, why: str) -> CheckpointError:
    """The message about a file that is not the state of this run."""
    return CheckpointError(
        f"{path} does not fit this run: {why}; put back the file that the run wrote, or delete it to begin anew"
    )
