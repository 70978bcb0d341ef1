"""Checkpoints of a run: everything that decides the next step goes into `last.safetensors`, and comes back exactly."""

from __future__ import annotations

import dataclasses
import time

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn.utils import get_total_norm

from .errors import CheckpointError, RunError
from .preparation import Counters, Job
from .training_state import (
    load_module,
    load_optimizer,
    load_rng,
    load_state,
    optimizer_tensors,
    rng_tensors,
    save_state,
)


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
