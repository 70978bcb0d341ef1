"""Processes, devices and precision (through Accelerate), and stopping after a step."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list
from torch.optim import Optimizer

from ..errors import CoadviseError, RunError
from ..recipe.schema import Optim, Run
from ..system.allocator import keep_freed_memory
from ..system.devices import choose_device, resolve_precision
from ..system.interrupts import StopRequest, stop_without_parent

# Steps between the moments at which several processes agree on stopping, at most: the answer costs a synchronisation.
AGREE_EVERY = 10
# Seconds between them that are aimed at where steps are long: torchrun kills 30 s after SIGTERM what has not ended.
AGREE_SECONDS = 3.0
# How long processes wait for one that downloads images or fits a probe. PyTorch's ten minutes on GPUs are too few for
# that, and a process that dies is noticed without it: its launcher ends the others.
WAIT = timedelta(hours=6)
# What `accelerate launch` may be configured for, and what splits a model or takes over its optimizer.
_OTHER_WAYS = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor or context parallelism",
}
T = TypeVar("T")


def start_processes(run: Run, optim: Optim) -> Accelerator:
    """Join the processes that `torchrun` or `accelerate launch` started, or run alone.

    Raises:
        RunError: a WORLD_SIZE that was not joined, more processes than GPUs, a batch that does not divide, a way to
            share a model other than DistributedDataParallel, or a precision or device that this machine does not have.
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
    _require_whole_models()
    if not cpu:
        _require_gpus()
    if _launched():  # a launcher that is killed leaves its processes to themselves
        stop_without_parent()
    mixed = "no" if precision == "fp32" else precision
    _forget_another_run(cpu, mixed)
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=mixed,
        gradient_accumulation_steps=optim.accumulate,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT)],
    )
    if int(world) != accelerator.num_processes:
        raise RunError(_not_joined(accelerator.num_processes))
    share = accelerator.num_processes * optim.accumulate
    if optim.batch_size % share:
        raise RunError(
            f"optim.batch_size {optim.batch_size} cannot be shared by {accelerator.num_processes} processes × "
            f"{optim.accumulate} micro-batches; choose a multiple of {share}"
        )
    return accelerator


def _forget_another_run(cpu: bool, mixed: str) -> None:
    """Make Accelerate look again where a second run from Python wants another device or precision.

    It fixes both for the whole process with the first run.
    """
    if PartialState._shared_state and (PartialState().device.type == "cpu") != cpu:
        if PartialState().num_processes > 1:
            raise RunError("processes that train together have one device; start anew for another run.device")
        AcceleratorState._reset_state(reset_partial_state=True)
    elif AcceleratorState._shared_state and AcceleratorState().mixed_precision != mixed:
        AcceleratorState._reset_state(reset_partial_state=False)


def _require_whole_models() -> None:
    """`accelerate launch` says by variables what its configuration asks for."""
    for variable, word in _OTHER_WAYS.items():
        if os.environ.get(variable, "").lower() in ("true", "1"):
            raise RunError(
                f"`accelerate launch` is configured for {word}, and this package trains with DistributedDataParallel; "
                "start with `torchrun --nproc-per-node N -m coadvise train …` or `accelerate launch --multi_gpu …`"
            )


def _require_gpus() -> None:
    """Each process of a machine has a GPU of its own: two on one fail much later, in words of NCCL."""
    local, gpus = os.environ.get("LOCAL_WORLD_SIZE", "1"), torch.cuda.device_count()
    if local.isdecimal() and int(local) > gpus > 0:
        raise RunError(
            f"{local} processes were started on a machine with {gpus} GPU{'s' if gpus > 1 else ''}; start with "
            f"`torchrun --nproc-per-node {gpus} -m coadvise train …`"
        )


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
        self._asked, self._next, self._answer, self._clock = 0, 0, False, time.monotonic()

    def requested_at(self, step: int) -> bool:
        """Whether to stop after this step, asked once or more after each.

        Several processes agree every `AGREE_EVERY` steps, or earlier where steps are long, and not between.
        """
        if self._accelerator.num_processes == 1:
            return self.requested()
        if step == self._asked:
            return self._answer
        if step < self._next:
            return False
        seconds, self._clock = time.monotonic() - self._clock, time.monotonic()
        # The same numbers on all processes: sums of what each has seen.
        mine = torch.tensor([float(self.wanted), seconds], device=self._accelerator.device)
        wanted, total = self._accelerator.reduce(mine, "sum").tolist()  # type: ignore[union-attr]
        self._answer = wanted > 0
        each = total / self._accelerator.num_processes / max(1, step - self._asked)
        self._asked, self._next = step, step + steps_between(each)
        return self._answer

    def requested(self) -> bool:
        """Whether to stop now; the same answer on every process, which waits for all of them."""
        return on_any_process(self._accelerator, self.wanted)


def steps_between(seconds: float) -> int:
    """Steps until processes agree again on whether to stop, where a step takes so many seconds."""
    return max(1, min(AGREE_EVERY, int(AGREE_SECONDS / max(seconds, 1e-9))))
