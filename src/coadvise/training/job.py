"""What happens once, before the first step: teachers, student, optimizer and loaders of a run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, Literal

import torch
from accelerate import Accelerator
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ..advice.cache import AdviceCache
from ..checkpoints.build import describe_teachers
from ..data.loader import EvalLoader, TrainLoader
from ..data.sources.base import ImageSource
from ..data.views.finish import Batch
from ..models.compiling import compile_blocks, plain_attention
from ..models.students import student_tokens
from ..models.teachers import FrozenTeacher, Teachers
from ..recipe.schema import Recipe
from ..run.folder import RunFolder
from ..run.tracking import Tracker
from ..system.devices import autocast_dtype
from ..system.digests import digest
from ..system.progress import Display
from .optimizer import make_optimizer, make_scheduler
from .student import _save_memory, loss_mode
from .teachers import eval_batch_size, make_advisers


class TokenLogits(nn.Module):
    """What is trained: `forward` is the student's `forward_tokens`, so that DDP's hooks see every call."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images (b, 3, h, w) → logits (b, k) by token name."""
        logits: dict[str, Tensor] = self.student.forward_tokens(x)  # type: ignore[operator]
        return logits


@dataclasses.dataclass
class Counters:
    """What a resume restores beside the tensors; `skipped` names the unreadable training images met so far."""

    step: int = 0
    best: float = -1.0
    best_epoch: int = 0
    best_weights: str = "student"
    skipped: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    window: int = 0


@dataclasses.dataclass
class Job:
    """All that the training loop needs.

    Attributes:
        model: the student behind `TokenLogits`, wrapped for its processes and precision.
        student: the same weights, unwrapped.
        mode: whether teachers advise tokens of their own (losses.co_advise_loss).
        window: sums of every loss term since the last log line, on the device.
        origin: what the run computes from beside its recipe: classes, labels and teachers, in short. A resume refuses
            others.
        cache: stored advice that is read in place of asking the teachers.
        given: class of a student that was given from Python.
        saved: moment of the last checkpoint, by the monotonic clock.
    """

    recipe: Recipe
    folder: RunFolder
    accelerator: Accelerator
    model: nn.Module
    student: nn.Module
    optimizer: Any
    scheduler: CosineLRScheduler
    ema: ModelEmaV3 | None
    teachers: Teachers
    teacher_facts: dict[str, dict[str, Any]]
    mode: Literal["own", "single"]
    loader: TrainLoader
    val_loader: EvalLoader
    val_size: int
    tokens: tuple[str, ...]
    class_names: tuple[str, ...]
    tracker: Tracker
    display: Display
    count: Counters = dataclasses.field(default_factory=Counters)
    window: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    ema_metrics: dict[str, float] | None = None
    val_skipped: int = 0
    given: str | None = None
    cache: AdviceCache | None = None
    origin: dict[str, str] = dataclasses.field(default_factory=dict)
    saved: float = dataclasses.field(default_factory=time.monotonic)

    def advise(self, batch: Batch) -> dict[str, Tensor]:
        """The teachers' logits (b, k) for a training batch, stored or live."""
        if self.cache is not None:
            return self.cache.read(batch.view, batch.position, self.accelerator.device)
        with self.accelerator.autocast():
            advice: dict[str, Tensor] = self.teachers(batch.images)
        return advice

    @property
    def total_steps(self) -> int:
        """Updates of the whole run."""
        return self.recipe.schedule.epochs * self.loader.steps_per_epoch


def prepare(
    recipe: Recipe,
    folder: RunFolder,
    sources: tuple[ImageSource, ImageSource],
    accelerator: Accelerator,
    student: nn.Module,
    teachers: dict[str, FrozenTeacher],
    display: Display,
) -> Job:
    """Build everything the loop needs.

    Args:
        student: from `new_student`.

    Raises:
        CoadviseError: settings, data and models that do not fit each other.
    """
    train_source, val_source = sources
    class_names = tuple(train_source.class_names)
    # From here on each process draws its own dropout and drop path.
    torch.manual_seed(recipe.run.seed + 1_000_003 * (accelerator.process_index + 1))
    if recipe.run.grad_checkpointing:
        _save_memory(student)
    student.to(accelerator.device)
    plain_attention(student, accelerator.device, autocast_dtype(accelerator))
    tokens = student_tokens(student, recipe, accelerator.device)
    lr = recipe.optim.lr * (recipe.optim.batch_size / recipe.optim.lr_batch if recipe.optim.lr_batch else 1.0)
    optimizer = make_optimizer(student, recipe, lr)
    ema = ModelEmaV3(student, decay=recipe.optim.ema) if recipe.optim.ema else None
    rank, world = accelerator.process_index, accelerator.num_processes
    loader = TrainLoader(
        train_source,
        recipe.data,
        recipe.optim.batch_size,
        rank=rank,
        world=world,
        accumulate=recipe.optim.accumulate,
        device=accelerator.device,
    )
    val_loader = EvalLoader(
        val_source,
        recipe.data,
        eval_batch_size(recipe, accelerator),
        rank=rank,
        world=world,
        device=accelerator.device,
    )
    total = recipe.schedule.epochs * loader.steps_per_epoch
    _, note = compile_blocks(student, recipe.run.compile, accelerator.device, total)
    if note:
        display.say(note)
    model, wrapped = accelerator.prepare(TokenLogits(student), optimizer)
    facts = describe_teachers(recipe, teachers)
    advisers = make_advisers(recipe, teachers, accelerator, display)
    return Job(
        recipe=recipe,
        folder=folder,
        accelerator=accelerator,
        model=model,
        student=student,
        optimizer=wrapped,
        scheduler=make_scheduler(optimizer, recipe, loader.steps_per_epoch, lr),
        ema=ema,
        teachers=advisers,
        teacher_facts=facts,
        mode=loss_mode(recipe, tokens, teachers),
        loader=loader,
        val_loader=val_loader,
        val_size=len(val_source),
        tokens=tokens,
        class_names=class_names,
        origin=_origin(class_names, train_source, val_source, teachers),
        tracker=Tracker(folder, active=accelerator.is_main_process, tensorboard=recipe.run.tensorboard),
        display=display,
    )


def _origin(
    class_names: tuple[str, ...], train: ImageSource, val: ImageSource, teachers: Mapping[str, FrozenTeacher]
) -> dict[str, str]:
    return {
        "classes": ", ".join(class_names),
        "training labels": f"{len(train)} ({digest([train.labels])})",
        "validation labels": f"{len(val)} ({digest([val.labels])})",
        **{f"weights of teacher {name}": digest(t.model.state_dict().values()) for name, t in teachers.items()},
    }


def require_batches(recipe: Recipe, source: ImageSource, processes: int) -> None:
    """Check that a recipe's batches can be drawn from the training images.

    Raises:
        DataError: too few images, or a batch that cannot be shared evenly.
    """
    TrainLoader(source, recipe.data, recipe.optim.batch_size, world=processes, accumulate=recipe.optim.accumulate)
