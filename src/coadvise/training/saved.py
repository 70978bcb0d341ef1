"""The content of `last.safetensors`, read and checked whole: nothing of a file that does not fit reaches a run.

A tensor of a wrong shape would otherwise make the fused optimizer read and write outside of its memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError
from .state import Counters, State

FORMAT = "coadvise-training-1"
MOMENTS = ("exp_avg", "exp_avg_sq")


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
    """A file's tensors by part and name, and its numbers. The tensors lie in the file: copy what is to be kept."""

    path: Path
    parts: Mapping[str, Mapping[str, Tensor]]
    numbers: Numbers

    def require_fitting(self, state: State, total_steps: int) -> None:
        """Compare every name, shape and type with those of a run.

        Raises:
            CheckpointError: names the first that does not fit.
        """
        count = self.numbers.count
        if count.step > total_steps:
            raise does_not_fit(self.path, f"it is at step {count.step} of a run of {total_steps}")
        known = {"model", "ema", "optimizer", "rng", "window"}
        if unknown := sorted(self.parts.keys() - known):
            raise does_not_fit(self.path, f"nothing is known of '{unknown[0]}'")
        ema = {} if state.ema is None else state.ema.module.state_dict()
        self._require("model", state.student.state_dict())
        self._require("ema", ema)
        self._require("optimizer", dict(self._moments(state)))
        generator = torch.get_rng_state()
        ranks = range(self.numbers.world)
        cuda = {name: value for name, value in self.parts.get("rng", {}).items() if name.startswith("cuda.")}
        self._require("rng", {f"cpu.{rank}": generator for rank in ranks} | cuda)
        if unknown := sorted(cuda.keys() - {f"cuda.{rank}" for rank in ranks}):
            raise does_not_fit(self.path, f"nothing is known of 'rng.{unknown[0]}'")
        names = self.parts.get("window", {}).keys()
        self._require("window", dict.fromkeys(names, torch.tensor(0.0, dtype=torch.float64)))
        if bool(names) != bool(count.window) or not all(n == "total" or n.startswith("term.") for n in names):
            raise does_not_fit(self.path, f"losses of {count.window} batches are {', '.join(sorted(names)) or 'none'}")

    def _moments(self, state: State) -> Iterator[tuple[str, Tensor]]:
        """What the optimizer keeps of each parameter; none of one that has had no gradient."""
        kept = {name.partition(".")[0] for name in self.parts.get("optimizer", {})}
        for index, parameter in enumerate(p for group in state.optimizer.param_groups for p in group["params"]):
            if str(index) in kept:
                yield f"{index}.step", torch.tensor(0.0)
                yield from ((f"{index}.{moment}", parameter) for moment in MOMENTS)

    def _require(self, part: str, expected: Mapping[str, Tensor]) -> None:
        found = self.parts.get(part, {})
        for name, like in expected.items():
            value = found.get(name)
            if value is None:
                raise does_not_fit(self.path, f"{part}.{name} is missing")
            if value.shape != like.shape or value.dtype != like.dtype:
                was, wanted = (f"{one.dtype} {tuple(one.shape)}".removeprefix("torch.") for one in (value, like))
                raise does_not_fit(self.path, f"{part}.{name} is {was}, must be {wanted}")
        if unknown := sorted(found.keys() - expected.keys()):
            raise does_not_fit(self.path, f"nothing is known of '{part}.{unknown[0]}'")


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
            parts: dict[str, dict[str, Tensor]] = {}
            for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                prefix, _, rest = name.partition(".")
                parts.setdefault(prefix, {})[rest] = file.get_tensor(name)
        return Saved(path, parts, _NUMBERS.validate_json(header.get("state", "")))
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
