"""Checkpoints for exact resume: one safetensors file, without pickle, written atomically.

Tensors carry a prefix: `model.`, `ema.`, `optimizer.INDEX.`, `rng.cpu.RANK`, `rng.cuda.RANK`, `window.`. Numbers
are JSON in the file's header.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from ..checkpoints.writing import save_safetensors_atomic
from ..errors import CheckpointError, RunError
from .processes import on_any_process
from .state import Counters, State

FORMAT = "coadvise-training-1"
# An epoch that is not evaluated is saved when the last checkpoint is older than this.
SAVE_SECONDS = 60.0


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """State of an optimizer as flat tensors, `INDEX.key`; parameter groups follow from the recipe."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": torch.as_tensor(value) for i, entry in state.items() for key, value in entry.items()}


def load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`; learning rates and decay stay those of the recipe."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:  # a fused update walks through memory, which may be channels-last
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _load_state(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The file's parts (prefix → tensors) and numbers."""
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise CheckpointError(f"{path} is no training state of this version of coadvise")
            parts: dict[str, dict[str, Tensor]] = {}
            for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                prefix, _, rest = name.partition(".")
                parts.setdefault(prefix, {})[rest] = file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return parts, json.loads(header["state"])


def _load_module(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit the model: {error}") from error


class Checkpoint:
    """`last.safetensors` of a run: written atomically, and read back exactly.

    Args:
        path: of the file.
        origin: what the run computes from beside its recipe (classes, labels, teachers), in short; a resume refuses
            another.
    """

    def __init__(self, path: Path, accelerator: Accelerator, origin: Mapping[str, str]) -> None:
        self.path, self._accelerator, self._origin = path, accelerator, origin
        self._saved = time.monotonic()

    @property
    def old(self) -> bool:
        """Whether the main process last saved more than `SAVE_SECONDS` ago. The same answer on all processes."""
        old = time.monotonic() - self._saved > SAVE_SECONDS
        return on_any_process(self._accelerator, old and self._accelerator.is_main_process)

    def save(self, state: State) -> None:
        """Write what `restore` needs.

        Raises:
            RunError: weights that are not finite; the file stays as it was.
        """
        accelerator, device = self._accelerator, self._accelerator.device
        require_finite(state, self.path.parent)
        gather_skipped(state.count)
        self._saved = time.monotonic()
        states = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(device)
        generators = {name: accelerator.gather(state.to(device).unsqueeze(0)) for name, state in states.items()}
        windows = {name: accelerator.reduce(value.clone(), "sum") for name, value in state.window.items()}
        if accelerator.is_main_process:
            parts: dict[str, Mapping[str, Tensor]] = {
                "model": state.student.state_dict(),
                "optimizer": optimizer_tensors(state.optimizer),
                "rng": {f"{n}.{rank}": s for n, all_ranks in generators.items() for rank, s in enumerate(all_ranks)},
                "window": windows,  # type: ignore[dict-item]
            }
            if state.ema is not None:
                parts["ema"] = state.ema.module.state_dict()
            numbers = {
                "count": dataclasses.asdict(state.count),
                "world": accelerator.num_processes,
                "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
                "origin": dict(self._origin),
            }
            tensors = {f"{prefix}.{name}": value for prefix, part in parts.items() for name, value in part.items()}
            save_safetensors_atomic(self.path, tensors, {"format": FORMAT, "state": json.dumps(numbers)})
        accelerator.wait_for_everyone()

    def restore(self, state: State) -> None:
        """Set everything to where `save` was called.

        Raises:
            RunError: another number of processes, other data or other teachers.
            CheckpointError: a damaged file, or one that does not fit.
        """
        parts, numbers = _load_state(self.path)
        self._require_same(numbers)
        rank, device = self._accelerator.process_index, self._accelerator.device
        _load_module(state.student, parts["model"], self.path)
        try:
            load_optimizer(state.optimizer, parts["optimizer"])
        except (ValueError, KeyError, IndexError) as error:
            raise CheckpointError(f"{self.path} does not fit the optimizer: {error}") from error
        if state.ema is not None:
            _load_module(state.ema.module, parts["ema"], self.path)
        if numbers["scaler"] is not None and self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(numbers["scaler"])
        state.count = Counters(**numbers["count"])
        # The saved window is the sum over all processes; the others start theirs at zero.
        share = 1.0 if rank == 0 else 0.0
        state.window = {name: value.to(device) * share for name, value in parts.get("window", {}).items()}
        torch.set_rng_state(parts["rng"][f"cpu.{rank}"])
        if device.type == "cuda" and f"cuda.{rank}" in parts["rng"]:
            torch.cuda.set_rng_state(parts["rng"][f"cuda.{rank}"], device)

    def _require_same(self, numbers: Mapping[str, Any]) -> None:
        folder, world = self.path.parent, self._accelerator.num_processes
        if numbers["world"] != world:
            raise RunError(
                f"{folder} was trained by {numbers['world']} process(es), now there are {world}; "
                f"resume with --nproc-per-node {numbers['world']}"
            )
        for what, before in numbers["origin"].items():
            if self._origin.get(what) != before:
                raise RunError(
                    f"{folder} was trained on other data or teachers; {what} changed from {before} to "
                    f"{self._origin.get(what)}; restore them, or choose another folder with run.output=FOLDER"
                )


def gather_skipped(count: Counters) -> None:
    """Bring together the names of unreadable images that all processes met."""
    count.skipped = sorted(set(gather_object(count.skipped)))


def require_finite(state: State, folder: Path) -> None:
    """Before anything is written: broken weights must not take the place of good ones. The same on all processes.

    Raises:
        RunError: weights that are not finite.
    """
    if not torch.isfinite(get_total_norm([p.detach() for p in state.student.parameters()])):
        raise RunError(diverged("the weights are", state.count.step, folder))


def diverged(what: str, step: int, folder: Path) -> str:
    """Message for a run whose loss or weights are no longer finite."""
    return (
        f"{what} not finite at step {step}; try a lower optim.lr, optim.clip=1, or run.precision=fp32 "
        f"(weights up to the last checkpoint are kept in {folder})"
    )
