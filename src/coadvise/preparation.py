"""What happens once, before the first step: teachers, student, optimizer and loaders of a run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from accelerate import Accelerator
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from .advice_cache import AdviceCache
from .build import build_student, build_teacher, describe_teachers
from .compiling import compile_blocks, plain_attention
from .data.base import Subset, balanced_subset
from .data.finish import Batch
from .data.loader import EvalLoader, TrainLoader
from .data.sources import ImageSource
from .errors import ModelError
from .losses import CLASS
from .models import as_student
from .progress import Display
from .recipe import Recipe
from .run_folder import RunFolder
from .teachers import FrozenTeacher, TeacherCheck, Teachers, measure_teachers, require_able
from .tracking import Tracker
from .training_state import digest


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


def prepare_teachers(
    recipe: Recipe,
    own: Mapping[str, nn.Module],
    classes: int,
    *,
    skip: Iterable[str] = (),
    ready: Mapping[str, FrozenTeacher] | None = None,
    checkpoints: Mapping[str, str] | None = None,
) -> dict[str, FrozenTeacher]:
    """Teachers of the recipe, in its order, then those given as modules.

    Args:
        own: modules from Python, by name.
        skip: names of teachers that are not trained yet.
        ready: those that an earlier call has built.
        checkpoints: weights of the teachers that were trained since.
    """
    teachers: dict[str, FrozenTeacher] = {}
    ready, checkpoints = ready or {}, checkpoints or {}
    for name, settings in recipe.teachers.items():
        if name in own or name in skip:
            continue
        if name in ready:
            teachers[name] = ready[name]
            continue
        if name in checkpoints:
            settings = settings.model_copy(update={"checkpoint": checkpoints[name], "pretrained": False})
        teachers[name] = build_teacher(name, settings, recipe, classes)
    for name, model in own.items():
        teachers[name] = model if isinstance(model, FrozenTeacher) else FrozenTeacher(model)
    return teachers


def check_teachers(
    teachers: Teachers, recipe: Recipe, val_source: ImageSource, accelerator: Accelerator, display: Display
) -> dict[str, TeacherCheck]:
    """Measure and show every teacher's accuracy; stop when advice would be worthless.

    Raises:
        ModelError: see `teachers.measure_teachers` and `teachers.require_able`.
    """
    if not teachers.names:
        return {}
    # Folders come sorted by class: the first images would be all of one kind.
    part = Subset(val_source, balanced_subset(val_source.labels, recipe.run.teacher_check_size))
    loader = EvalLoader(part, recipe.data, eval_batch_size(recipe, accelerator), device=accelerator.device)

    def batches(advance: Callable[[int], None]) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in loader:
            yield batch.images, batch.label
            advance(len(batch.label))

    with display.bar("checking teachers", len(part)) as bar, accelerator.autocast():
        checks = measure_teachers(teachers, batches(bar.advance), len(val_source.class_names))
    loader.close()
    for name, check in checks.items():
        display.say(f"teacher {name}: {check.accuracy:.1%} on {check.samples} validation images")
    if not recipe.run.allow_weak:
        require_able(checks, val_source.class_names)
    return checks


def eval_batch_size(recipe: Recipe, accelerator: Accelerator) -> int:
    """Images that one process evaluates at once: as many as it trains on, unless the recipe says otherwise."""
    share = accelerator.num_processes * recipe.optim.accumulate
    return recipe.run.eval_batch_size or max(recipe.optim.batch_size // share, 1)


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


def make_advisers(
    recipe: Recipe, teachers: Mapping[str, FrozenTeacher], accelerator: Accelerator, display: Display
) -> Teachers:
    """The teachers on the device, fused where that changes nothing but the speed."""
    advisers = Teachers(teachers, input_mean=recipe.data.mean, input_std=recipe.data.std).to(accelerator.device)
    if recipe.run.fuse_teachers:
        shape = (4, 3, recipe.data.image_size, recipe.data.image_size)
        example = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(accelerator.device)
        advisers.fuse(example, autocast_dtype(accelerator))
        for name in advisers.unfused():
            display.say(f"teacher {name} could not be fused; it advises as it is, more slowly")
    return advisers


def autocast_dtype(accelerator: Accelerator) -> torch.dtype | None:
    """Type of matrix products under the run's precision; None for float32."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)


def make_optimizer(student: nn.Module, recipe: Recipe, lr: float) -> torch.optim.Optimizer:
    """AdamW in one fused pass over the weights; no decay on norms, biases, tokens and position embeddings."""
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        student, opt="adamw", lr=lr, weight_decay=recipe.optim.weight_decay, betas=recipe.optim.betas,
        eps=recipe.optim.eps, fused=True,
    )  # fmt: skip
    if recipe.optim.token_lr != 1.0:
        _scale_token_lr(student, optimizer, recipe.optim.token_lr)
    return optimizer


def token_parameters(student: nn.Module) -> list[nn.Parameter]:
    """Class token, advised tokens and what is added to aligned ones, as far as they are trained."""
    found = [p for name, p in student.named_parameters() if name.rpartition(".")[2] in ("cls_token", "dist_token")]
    for name, module in student.named_modules():
        if isinstance(module, nn.ParameterDict) and name.rpartition(".")[2] in ("tokens", "offsets"):
            found += module.values()
    return [token for token in found if token.requires_grad]


def _scale_token_lr(student: nn.Module, optimizer: torch.optim.Optimizer, scale: float) -> None:
    """Move the tokens to groups of their own, whose `lr_scale` timm's schedulers multiply the learning rate by."""
    ids = {id(token) for token in token_parameters(student)}
    for group in list(optimizer.param_groups):
        tokens = [p for p in group["params"] if id(p) in ids]
        if tokens:
            group["params"] = [p for p in group["params"] if id(p) not in ids]
            optimizer.add_param_group({**group, "params": tokens, "lr_scale": scale})


def make_scheduler(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int, lr: float) -> CosineLRScheduler:
    """Cosine by update: linear warm-up from `warmup_lr`, then down to `min_lr` (never above the peak)."""
    return CosineLRScheduler(
        optimizer,
        t_initial=recipe.schedule.epochs * steps,
        lr_min=min(recipe.schedule.min_lr, lr),
        warmup_t=round(recipe.schedule.warmup_epochs * steps),
        warmup_lr_init=min(recipe.schedule.warmup_lr, lr),
        t_in_epochs=False,
    )


def loss_mode(recipe: Recipe, tokens: tuple[str, ...], advisers: Iterable[str]) -> Literal["own", "single"]:
    """Resolve `loss.tokens`: `auto` is `own` where every teacher has a token, `single` where none has.

    Raises:
        ModelError: some teachers have a token and some have none.
    """
    missing = [name for name in advisers if name not in tokens]
    if recipe.loss.tokens == "single" or (recipe.loss.tokens == "auto" and len(tokens) == 1):
        return "single"
    if missing:
        raise ModelError(
            f"the student has no token for teacher '{missing[0]}' (its tokens: {', '.join(tokens)}); "
            "declare it in student.tokens, or set loss.tokens=single"
        )
    return "own"


def require_batches(recipe: Recipe, source: ImageSource, processes: int) -> None:
    """Check that a recipe's batches can be drawn from the training images.

    Raises:
        DataError: too few images, or a batch that cannot be shared evenly.
    """
    TrainLoader(source, recipe.data, recipe.optim.batch_size, world=processes, accumulate=recipe.optim.accumulate)


def new_student(
    recipe: Recipe, classes: int, processes: int, own: nn.Module | None, advisers: Iterable[str]
) -> nn.Module:
    """The student before its first step, checked against the recipe before hours go into its teachers.

    Args:
        classes: number of classes.
        processes: that share a batch.
        own: module in place of the recipe's.
        advisers: names of all teachers.

    Raises:
        ModelError, CheckpointError: settings that do not fit each other.
    """
    torch.manual_seed(recipe.run.seed)
    student = build_student(recipe, classes) if own is None else as_student(own)
    if recipe.optim.token_lr != 1.0 and not token_parameters(student):
        raise ModelError("optim.token_lr: the student has no class token or advised tokens to learn; leave it out")
    _require_batch_norm_fits(student, recipe.optim.batch_size // processes // recipe.optim.accumulate)
    device = next((p.device for p in student.parameters()), torch.device("cpu"))
    loss_mode(recipe, student_tokens(student, recipe, device), advisers)
    return student


@torch.no_grad()
def student_tokens(student: nn.Module, recipe: Recipe, device: torch.device) -> tuple[str, ...]:
    """Names of the student's outputs, found by one forward pass on zeros.

    Raises:
        ModelError: the student does not take the recipe's images, or has no class output.
    """
    size = recipe.data.image_size
    was_training = student.training
    try:
        logits = student.eval().forward_tokens(torch.zeros(1, 3, size, size, device=device))  # type: ignore[operator]
    except (RuntimeError, AssertionError, ValueError, AttributeError, TypeError) as error:
        raise ModelError(f"the student cannot take images of {size}×{size}: {error}") from error
    finally:
        student.train(was_training)
    if CLASS not in logits:
        raise ModelError(f"the student's forward_tokens gives no '{CLASS}' (it gives: {', '.join(logits)})")
    return tuple(logits)


def _save_memory(student: nn.Module) -> None:
    switch: Any = getattr(student, "set_grad_checkpointing", None)
    try:
        if switch is None:
            raise AssertionError("it has no set_grad_checkpointing")
        switch(True)
    except AssertionError as error:  # how timm says so
        raise ModelError(f"run.grad_checkpointing: the student cannot do that ({error}); leave it off") from error


def _require_batch_norm_fits(student: nn.Module, per_process: int) -> None:
    batch_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in student.modules())
    if batch_norm and per_process == 1:
        raise ModelError(
            "the student has BatchNorm, which cannot learn from one image at a time; choose a larger "
            "optim.batch_size, or fewer processes or micro-batches"
        )
