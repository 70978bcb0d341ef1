"""Checkpoints for exact resume: one safetensors file, without pickle, written atomically.

Tensors carry a prefix: `model.`, `ema.`, `optimizer.INDEX.`, `optimizer.group-INDEX.`, `rng.cpu.RANK`,
`rng.cuda.RANK`, `window.`. Numbers are JSON in the file's header.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from ..checkpoints.writing import save_safetensors_atomic
from ..errors import RunError, one_line
from ..system.digests import digest
from .processes import on_any_process
from .saved import FORMAT, GROUP, Numbers, does_not_fit, read_saved
from .state import Counters, State

# What is recorded of a teacher without weights.
NOTHING = digest([])
# Key of the recipe's fingerprint in a run's origin.
RECIPE = "recipe"
# An epoch that is not evaluated is saved when the last checkpoint is older than this.
SAVE_SECONDS = 60.0


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """State of an optimizer as flat tensors, `INDEX.key`; parameter groups follow from the recipe, but for the steps
    that LAMB counts there, `group-INDEX.step`."""
    content = optimizer.state_dict()
    entries = {str(i): entry for i, entry in content["state"].items()}
    entries |= {
        f"{GROUP}{i}": {"step": group["step"]} for i, group in enumerate(content["param_groups"]) if "step" in group
    }
    return {f"{i}.{key}": torch.as_tensor(value) for i, entry in entries.items() for key, value in entry.items()}


def load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`; learning rates and decay stay those of the recipe. The tensors are copied."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    groups = optimizer.state_dict()["param_groups"]
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        if index.startswith(GROUP):
            groups[int(index.removeprefix(GROUP))][key] = value.clone()
            continue
        parameter = parameters[int(index)]
        # A fused update walks through memory, which may be channels-last.
        place = torch.empty_like(parameter if value.shape == parameter.shape else value, dtype=value.dtype)
        state.setdefault(int(index), {})[key] = place.copy_(value)
    optimizer.load_state_dict({"state": state, "param_groups": groups})


class Checkpoint:
    """`last.safetensors` of a run: written atomically, and read back exactly.

    Args:
        path: of the file.
        origin: what the run computes from beside its recipe (classes, labels, teachers) and the recipe's fingerprint,
            in short; a resume refuses another.
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

    def restore(self, state: State, total_steps: int) -> None:
        """Set everything to where `save` was called, or nothing where the file does not fit.

        Raises:
            RunError: another number of processes, other data or other teachers.
            CheckpointError: a damaged file, or one that does not fit.
        """
        saved = read_saved(self.path)
        numbers = saved.numbers
        self._require_same(numbers)
        saved.require_fitting(state, total_steps)
        rank, device, scaler = self._accelerator.process_index, self._accelerator.device, self._accelerator.scaler
        generator = saved.tensors[f"rng.cpu.{rank}"]
        on_device = saved.tensors.get(f"rng.cuda.{rank}") if device.type == "cuda" else None
        try:
            torch.Generator().set_state(generator)  # on trial
            if on_device is not None:
                torch.Generator(device).set_state(on_device)
            if numbers.scaler is not None and scaler is not None:
                scaler.load_state_dict(numbers.scaler)
        except (RuntimeError, TypeError, KeyError) as error:
            raise does_not_fit(self.path, one_line(error)) from error
        state.student.load_state_dict(saved.part("model"))
        load_optimizer(state.optimizer, saved.part("optimizer"))
        if state.ema is not None:
            state.ema.module.load_state_dict(saved.part("ema"))
        state.count = numbers.count
        # The saved window is the sum over all processes; the others start theirs at zero.
        share = 1.0 if rank == 0 else 0.0
        state.window = {name: value.to(device) * share for name, value in saved.part("window").items()}
        torch.set_rng_state(generator)
        if on_device is not None:
            torch.cuda.set_rng_state(on_device, device)

    def _require_same(self, numbers: Numbers) -> None:
        folder, world = self.path.parent, self._accelerator.num_processes
        if numbers.world != world:
            raise RunError(
                f"{folder} was trained by {numbers.world} process(es), now there are {world}; "
                f"resume with {_as_many(numbers.world)}"
            )
        for what, before in numbers.origin.items():
            now = self._origin.get(what)
            if before == NOTHING:  # a program as teacher had no weights in earlier versions
                continue
            if now != before and what == RECIPE:
                raise does_not_fit(self.path, f"it is of another recipe, whose fingerprint is {before} and not {now}")
            if now != before:
                raise RunError(
                    f"{folder} was trained on other data or teachers; {what} changed from {before} to {now}; restore "
                    "them, or choose another folder with run.output=FOLDER"
                )


def _as_many(world: int) -> str:
    if world == 1:
        return "one process, without torchrun"
    return f"{world} processes in all (--nproc-per-node {world} on one machine)"


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
