"""Set-up of a run: everything the loop needs, built and wrapped once before the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ..data.loader import EvalLoader, TrainLoader
from ..data.sources.base import ImageSource, label_arrays
from ..data.views.finish import Batch
from ..evaluation.tasks import TASKS, Task
from ..losses import Objective
from ..models.compiling import compile_blocks, plain_attention
from ..models.students import student_tokens
from ..models.teachers import FrozenTeacher, Teachers
from ..names import CLASS
from ..recipe.schema import Optim, Recipe, Run, Schedule
from ..run.folder import RunFolder
from ..run.tracking import Tracker
from ..system.devices import autocast_dtype
from ..system.digests import digest
from ..system.progress import Display
from .checkpoint import RECIPE, Checkpoint
from .optimizer import make_optimizer, make_scheduler, peak_lr
from .parts import still_norms, waiting_parts
from .state import State
from .student import make_objective, save_memory
from .teachers import eval_batch_size

Advise = Callable[[Batch], Mapping[str, Tensor]]
"""The teachers' logits (b, k) by name for a training batch, live or stored."""


class TokenLogits(nn.Module):
    """What is trained: `forward` is the student's `forward_tokens`, so that DDP's hooks see every call.

    Args:
        still: modules of the student that never leave evaluation mode.
    """

    def __init__(self, student: nn.Module, still: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self.student = student
        self._still = tuple(still)

    def train(self, mode: bool = True) -> TokenLogits:
        super().train(mode)
        for module in self._still:
            module.eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images (b, 3, h, w) → logits (b, k) by token name."""
        return self.student.forward_tokens(x)  # type: ignore[operator]


@dataclass(frozen=True)
class Validation:
    """What a student is evaluated on.

    Attributes:
        source: the images, of all processes.
        tokens: names of the student's outputs.
        answer: the metric by which weights are better than others: that of the output which answers at inference.
        task: what is measured.
    """

    loader: EvalLoader
    source: ImageSource
    tokens: tuple[str, ...]
    teachers: Teachers
    answer: str
    task: Task


@dataclass(frozen=True)
class Setup:
    """What the loop needs. Nothing of it is replaced once it is prepared; what changes is in `State`.

    Attributes:
        model: the student behind `TokenLogits`, wrapped for its processes and precision.
        waiting: what learns only after `schedule.head_epochs`: parameters, and BatchNorm layers.
    """

    accelerator: Accelerator
    optim: Optim
    schedule: Schedule
    run: Run
    model: nn.Module
    scheduler: CosineLRScheduler
    objective: Objective
    advise: Advise
    loader: TrainLoader
    validation: Validation
    folder: RunFolder
    checkpoint: Checkpoint
    tracker: Tracker
    display: Display
    waiting: tuple[Sequence[nn.Parameter], Sequence[nn.Module]] = ((), ())

    @property
    def total_steps(self) -> int:
        """Updates of the whole run."""
        return self.schedule.epochs * self.loader.steps_per_epoch

    def __enter__(self) -> Setup:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the loader processes and the trackers, and free the memory."""
        self.loader.close()
        self.validation.loader.close()
        self.tracker.close(failed=kind is not None)
        self.accelerator.free_memory()


def prepare(
    recipe: Recipe,
    folder: RunFolder,
    sources: tuple[ImageSource, ImageSource],
    accelerator: Accelerator,
    student: nn.Module,
    teachers: Teachers,
    origin: Mapping[str, str],
    advise: Advise,
    display: Display,
) -> tuple[Setup, State]:
    """Build everything the loop needs.

    Args:
        student: from `new_student`.
        teachers: on the device.

    Raises:
        CoadviseError: settings, data and models that do not fit each other.
    """
    device, optim = accelerator.device, recipe.optim
    # From here on each process draws its own dropout and drop path.
    torch.manual_seed(recipe.run.seed + 1_000_003 * (accelerator.process_index + 1))
    if recipe.run.grad_checkpointing:
        save_memory(student)
    student.to(device)
    plain_attention(student, device, autocast_dtype(accelerator))
    tokens = student_tokens(student, recipe.data.image_size, device)
    optimizer = make_optimizer(student, optim)
    ema = ModelEmaV3(student, decay=optim.ema) if optim.ema else None
    place = {"rank": accelerator.process_index, "world": accelerator.num_processes}
    loader = TrainLoader(sources[0], recipe.data, optim.batch_size, **place, accumulate=optim.accumulate, device=device)
    batch = eval_batch_size(recipe.run, optim, accelerator.num_processes)
    val_loader = EvalLoader(sources[1], recipe.data, batch, **place, device=device)
    _, note = compile_blocks(student, recipe.run.compile, device, recipe.schedule.epochs * loader.steps_per_epoch)
    if note:
        display.say(note)
    trained = TokenLogits(student, still_norms(student, recipe.student.freeze_blocks))
    model, wrapped = accelerator.prepare(trained, optimizer)
    answers = "average" if getattr(student, "inference", "") == "average" and len(tokens) > 1 else CLASS
    task = TASKS[recipe.data.labels]
    trackers = ("tensorboard", *recipe.run.trackers) if recipe.run.tensorboard else recipe.run.trackers
    setup = Setup(
        accelerator=accelerator,
        optim=optim,
        schedule=recipe.schedule,
        run=recipe.run,
        model=model,
        scheduler=make_scheduler(optimizer, recipe.schedule, loader.steps_per_epoch, peak_lr(optim)),
        objective=make_objective(
            recipe.loss, tokens, teachers.names, teachers.known(), loader.labelled, recipe.data.labels
        ),
        advise=advise,
        loader=loader,
        validation=Validation(val_loader, sources[1], tokens, teachers, f"{task.decides}/{answers}", task),
        folder=folder,
        checkpoint=Checkpoint(folder.last, accelerator, origin),
        tracker=Tracker(folder, recipe.name, active=accelerator.is_main_process, trackers=trackers),
        display=display,
        waiting=waiting_parts(student, recipe.schedule.head_epochs),
    )
    return setup, State(student, wrapped, ema)


def origin_of(
    recipe: Recipe, sources: tuple[ImageSource, ImageSource], teachers: Mapping[str, FrozenTeacher]
) -> dict[str, str]:
    """Digest of a run's inputs: its recipe, classes, labels, and the teachers' weights as loaded."""
    train, val = sources
    return {
        RECIPE: recipe.fingerprint(),
        "classes": ", ".join(train.class_names),
        "training labels": f"{len(train)} ({digest(label_arrays(train))})",
        "validation labels": f"{len(val)} ({digest(label_arrays(val))})",
        **{f"weights of teacher {name}": digest(t.model.state_dict().values()) for name, t in teachers.items()},
    }
