"""Everything a resume needs, in one safetensors file: no pickle, and either whole or absent.

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
from accelerate.utils import gather_object
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from ..checkpoints.writing import save_safetensors_atomic
from ..errors import CheckpointError, RunError
from .job import Counters, Job

FORMAT = "coadvise-training-1"


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


def rng_tensors(device: torch.device) -> dict[str, Tensor]:
    """State of this process's generators."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def load_rng(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Inverse of `rng_tensors`."""
    torch.set_rng_state(tensors["cpu"].cpu())
    if device.type == "cuda" and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"].cpu(), device)


def save_state(path: Path, parts: Mapping[str, Mapping[str, Tensor]], numbers: Mapping[str, Any]) -> None:
    """Write parts (prefix → tensors) and JSON-ready numbers atomically."""
    tensors = {
        f"{prefix}.{name}": value.detach().cpu().contiguous()
        for prefix, group in parts.items()
        for name, value in group.items()
    }
    save_safetensors_atomic(path, tensors, {"format": FORMAT, "state": json.dumps(numbers)})


def load_state(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read what `save_state` wrote.

    Raises:
        CheckpointError: missing, damaged, or no training state.
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
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return parts, json.loads(header["state"])


def load_module(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load a module's tensors exactly.

    Raises:
        CheckpointError: keys or shapes that differ.
    """
    try:
        module.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit the model: {error}") from error


def save(job: Job) -> None:
    """Write `last.safetensors`: what `restore` needs to continue exactly."""
    accelerator, device = job.accelerator, job.accelerator.device
    require_finite(job)
    gather_skipped(job)
    job.saved = time.monotonic()
    own = rng_tensors(device)
    states = {name: accelerator.gather(value.to(device).unsqueeze(0)) for name, value in own.items()}
    windows = {name: accelerator.reduce(value.clone(), "sum") for name, value in job.window.items()}
    if accelerator.is_main_process:
        parts: dict[str, dict[str, Tensor]] = {
            "model": job.student.state_dict(),
            "optimizer": optimizer_tensors(job.optimizer),
            "rng": {f"{n}.{rank}": s for n, all_ranks in states.items() for rank, s in enumerate(all_ranks)},
            "window": windows,  # type: ignore[dict-item]
        }
        if job.ema is not None:
            parts["ema"] = job.ema.module.state_dict()
        scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
        numbers = {
            "count": dataclasses.asdict(job.count),
            "world": accelerator.num_processes,
            "scaler": scaler,
            "origin": job.origin,
        }
        save_state(job.folder.last, parts, numbers)
    accelerator.wait_for_everyone()


def gather_skipped(job: Job) -> None:
    """Bring together the names of unreadable images that all processes met."""
    job.count.skipped = sorted(set(gather_object(job.count.skipped)))


def restore(job: Job) -> None:
    """Continue from `last.safetensors`.

    Raises:
        RunError: another number of processes.
        CheckpointError: a damaged file, or one that does not fit.
    """
    parts, numbers = load_state(job.folder.last)
    world, rank = job.accelerator.num_processes, job.accelerator.process_index
    if numbers["world"] != world:
        raise RunError(
            f"{job.folder.path} was trained by {numbers['world']} process(es), now there are {world}; "
            f"resume with --nproc-per-node {numbers['world']}"
        )
    for what, before in numbers["origin"].items():
        if job.origin.get(what) != before:
            raise RunError(
                f"{job.folder.path} was trained on other data or teachers; {what} changed from {before} to "
                f"{job.origin.get(what)}; restore them, or choose another folder with run.output=FOLDER"
            )
    load_module(job.student, parts["model"], job.folder.last)
    try:
        load_optimizer(job.optimizer, parts["optimizer"])
    except (ValueError, KeyError, IndexError) as error:
        raise CheckpointError(f"{job.folder.last} does not fit the optimizer: {error}") from error
    if job.ema is not None:
        load_module(job.ema.module, parts["ema"], job.folder.last)
    if numbers["scaler"] is not None and job.accelerator.scaler is not None:
        job.accelerator.scaler.load_state_dict(numbers["scaler"])
    job.count = Counters(**numbers["count"])
    # The saved window is the sum over all processes; the others start theirs at zero.
    device = job.accelerator.device
    job.window = {n: v.to(device) * (1.0 if rank == 0 else 0.0) for n, v in parts.get("window", {}).items()}
    states = {name.split(".")[0]: value for name, value in parts["rng"].items() if name.endswith(f".{rank}")}
    load_rng(states, device)
    if job.accelerator.is_main_process:
        job.folder.rewind(job.count.step)
    job.display.say(f"resuming {job.folder.path} at step {job.count.step} of {job.total_steps}")


def require_finite(job: Job) -> None:
    """Before anything is written: broken weights must not take the place of good ones. Alike on all processes.

    Raises:
        RunError: weights that are not finite.
    """
    if not torch.isfinite(get_total_norm([p.detach() for p in job.student.parameters()])):
        raise RunError(diverged("the weights are", job))


def diverged(what: str, job: Job) -> str:
    return (
        f"{what} not finite at step {job.count.step}; try a lower optim.lr, optim.clip=1, or run.precision=fp32 "
        f"(weights up to the last checkpoint are kept in {job.folder.path})"
    )
