"""Processes, devices and precision (through Accelerate), and stopping after a step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch.optim import Optimizer

from ..errors import CoadviseError, RunError
from ..recipe.schema import Optim, Run
from ..system.allocator import keep_freed_memory
from ..system.devices import choose_device, resolve_precision
from ..system.interrupts import StopRequest, stop_without_parent

# Steps between the moments at which several processes agree on stopping: the answer costs a synchronisation.
AGREE_EVERY = 10
T = TypeVar("T")


def start_processes(run: Run, optim: Optim) -> Accelerator:
    """Join the processes that `torchrun` or `accelerate launch` started, or run alone.

    Raises:
        RunError: a WORLD_SIZE that was not joined, a batch that does not divide, or a precision or device that this
            machine does not have.
    """
    cpu = choose_device(run.device).type == "cpu"
    if cpu:
        keep_freed_memory()
    precision = resolve_precision(run.precision, cpu)
    world = os.environ.get("WORLD_SIZE", "1")
    if not world.isdecimal() or not int(world):
        raise RunError(f"WORLD_SIZE is '{world}', which is no number of processes; unset it")
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if int(world) > 1 and missing:
        raise RunError(_not_joined(1))
    if _launched():  # a launcher that is killed leaves its processes to themselves
        stop_without_parent()
    mixed = "no" if precision == "fp32" else precision
    # Accelerate fixes the precision for the whole process; a second run from Python may want another one.
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != mixed:
        AcceleratorState._reset_state(reset_partial_state=False)
    accelerator = Accelerator(cpu=cpu, mixed_precision=mixed, gradient_accumulation_steps=optim.accumulate)
    if int(world) != accelerator.num_processes:
        raise RunError(_not_joined(accelerator.num_processes))
    share = accelerator.num_processes * optim.accumulate
    if optim.batch_size % share:
        raise RunError(
            f"optim.batch_size {optim.batch_size} cannot be shared by {accelerator.num_processes} processes × "
            f"{optim.accumulate} micro-batches; choose a multiple of {share}"
        )
    return accelerator


def _launched() -> bool:
    """Whether `torchrun` or `accelerate launch` started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def bare(optimizer: AcceleratedOptimizer) -> Optimizer:
    """The optimizer itself, to be called after the last micro-batch of an update alone; Accelerate's where it scales.

    Accelerate's searches the disk in every step for a package that most people have not installed.
    """
    inner: Optimizer = optimizer if optimizer.scaler is not None else optimizer.optimizer
    return inner


def process_count() -> int:
    """Number of processes that train together; of those that should, as long as they have not joined."""
    if AcceleratorState._shared_state:
        return int(AcceleratorState().num_processes)
    world = os.environ.get("WORLD_SIZE", "1")
    return int(world) if world.isdecimal() else 1


def on_any_process(accelerator: Accelerator, yes: bool) -> bool:
    """Whether any process says yes; the same answer on all, which wait for each other."""
    if accelerator.num_processes == 1:
        return yes
    return bool(accelerator.reduce(torch.tensor(float(yes), device=accelerator.device), "sum").item() > 0)  # type: ignore[union-attr]


@contextmanager
def on_main_process(accelerator: Accelerator, block: AbstractContextManager[T]) -> Iterator[T | None]:
    """Enter and leave a block on the main process alone. An error of ours at its entrance is raised on all of them."""
    with ExitStack() as stack:
        entered: T | None = None
        refused: CoadviseError | None = None
        if accelerator.is_main_process:
            try:
                entered = stack.enter_context(block)
            except CoadviseError as error:
                refused = error
        if accelerator.num_processes > 1:
            refused = broadcast_object_list([refused])[0]
        if refused is not None:
            refused.told = not accelerator.is_main_process
            raise refused
        yield entered


def _not_joined(joined: int) -> str:
    return (
        f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {joined} process(es) joined, so each would train alone; "
        "start with `torchrun --nproc-per-node N -m coadvise train …`, or unset WORLD_SIZE"
    )


class Stop(StopRequest):
    """A stop that all processes of a training agree on, when one of them gets a signal."""

    def __init__(self, accelerator: Accelerator) -> None:
        super().__init__(echo=2.0 if _launched() else 0.0)
        self._accelerator = accelerator

    def requested_at(self, step: int) -> bool:
        """Whether to stop after this step: several processes agree every `AGREE_EVERY` steps, and not between."""
        if self._accelerator.num_processes > 1 and step % AGREE_EVERY:
            return False
        return self.requested()

    def requested(self) -> bool:
        """Whether to stop now; the same answer on every process, which waits for all of them."""
        return on_any_process(self._accelerator, self.wanted)
