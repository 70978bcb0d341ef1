"""What models cost: parameters, multiply-adds, memory, images per second; and where a training step's time goes."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..checkpoints.build import build_student, build_teacher
from ..data.loader import TrainLoader
from ..data.sources.opening import open_sources
from ..data.views.finish import Batch
from ..models.compiling import WORTHWHILE_STEPS, compile_blocks, plain_attention
from ..models.students import student_tokens
from ..models.teachers import FrozenTeacher, Teachers
from ..recipe.schema import Recipe
from ..system.clock import _now, seconds_of
from ..system.devices import DTYPES, resolve_precision
from ..system.progress import Display
from ..training.optimizer import make_optimizer
from ..training.student import make_objective
from .model import matrix_peak


@dataclasses.dataclass(frozen=True)
class StepCost:
    """Where the time of a training step goes, in seconds (medians).

    Attributes:
        parts: input (one batch from the loader, alone), each teacher, student forward, backward, optimizer.
        whole: one step on a batch that is there already.
        flops: floating-point operations of teachers, forward and backward.
        peak: operations per second that a large matrix product reaches here, in the same precision.
    """

    batch_size: int
    parts: dict[str, float]
    whole: float
    flops: int
    peak: float

    @property
    def of_peak(self) -> float:
        """Fraction of the device's matrix speed that the step reaches."""
        return self.flops / self.whole / self.peak


def step_cost(recipe: Recipe, *, rounds: int = 5, display: Display | None = None) -> StepCost:
    """Measure a training step of a recipe, on its own data and one process. Teachers that are still to be trained or
    downloaded get random weights.

    Raises:
        CoadviseError: settings, data and models that do not fit each other.
    """
    display = display or Display(quiet=True)
    device = torch.device("cuda" if torch.cuda.is_available() and recipe.run.device != "cpu" else "cpu")
    dtype = DTYPES[resolve_precision(recipe.run.precision, device.type == "cpu")]
    train_source, _ = open_sources(recipe.data)
    classes, batch_size = len(train_source.class_names), recipe.optim.batch_size // recipe.optim.accumulate
    members = _teachers_to_time(recipe, classes)
    teachers = Teachers(members, input_mean=recipe.data.mean, input_std=recipe.data.std).to(device)
    fresh = recipe.student.model_copy(update={"pretrained": False, "checkpoint": None})
    student = build_student(recipe.model_copy(update={"student": fresh}), classes).to(device).train()
    plain_attention(student, device, dtype)
    compile_blocks(student, recipe.run.compile, device, WORTHWHILE_STEPS)
    tokens = student_tokens(student, recipe, device)
    objective = make_objective(recipe.loss, tokens, members)
    optimizer = make_optimizer(student, recipe.optim)
    loader = TrainLoader(train_source, recipe.data, batch_size, device=device)
    batch, input_s = _timed_input(loader, rounds + 4 * recipe.data.workers, device, display)
    parts = {"input": input_s}
    if recipe.run.fuse_teachers:
        teachers.fuse(batch.images[:2], dtype)
    autocast = torch.autocast(device.type, dtype, enabled=dtype is not None)

    def advise() -> dict[str, Tensor]:
        with autocast:
            advice: dict[str, Tensor] = teachers(batch.images)
        return advice

    def forward(advice: Mapping[str, Tensor]) -> Tensor:
        with autocast:
            logits = student.forward_tokens(batch.images)  # type: ignore[operator]
        return objective(logits, advice, batch.target).total

    for name, member in zip(teachers.names, teachers.members, strict=True):
        parts[f"teacher {name}"] = seconds_of(partial(_advised, member, batch.images, autocast), device, rounds)
    advice = advise()

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad()

    def whole() -> None:
        forward(advise()).backward()
        update()

    with display.bar("steps", rounds) as bar:
        times = _timed_steps(partial(forward, advice), update, whole, device, rounds, bar.advance)
    whole_s = times.pop("whole")
    parts |= times
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        forward(advise()).backward()
    optimizer.zero_grad()
    return StepCost(batch_size, parts, whole_s, counter.get_total_flops(), matrix_peak(device, dtype))


def _teachers_to_time(recipe: Recipe, classes: int) -> dict[str, FrozenTeacher]:
    """Teachers of the right shape; their weights do not matter."""
    members = {}
    for name, settings in recipe.teachers.items():
        # What a checkpoint says of its model counts; one that is not there yet, or is downloaded, does not.
        known = settings.checkpoint if settings.checkpoint and Path(settings.checkpoint).is_file() else None
        bare = settings.model_copy(update={"pretrained": False, "checkpoint": known, "train": None})
        members[name] = build_teacher(name, bare, recipe, classes)
    return members


def _timed_input(loader: TrainLoader, count: int, device: torch.device, display: Display) -> tuple[Batch, float]:
    """A batch, and the mean seconds of `count` batches from a loader; `count` should exceed what its workers hold."""
    batches = chain.from_iterable(map(loader.epoch, itertools.count()))
    batch = next(batches)  # workers start, small sets are read
    start = _now(device)
    with display.bar("input", count) as bar:
        for batch in itertools.islice(batches, count):  # noqa: B007 - the last one is returned
            bar.advance()
    seconds = (_now(device) - start) / count
    loader.close()
    return batch, seconds


def _timed_steps(
    forward: Callable[[], Tensor],
    update: Callable[[], None],
    whole: Callable[[], None],
    device: torch.device,
    rounds: int,
    advance: Callable[[], None],
) -> dict[str, float]:
    """Median seconds of a step's parts and of whole steps, in turn; the first round does not count."""
    times: dict[str, list[float]] = {"student forward": [], "backward": [], "optimizer": [], "whole": []}
    for number in range(rounds + 1):
        marks = [_now(device)]
        loss = forward()
        marks.append(_now(device))
        loss.backward()
        marks.append(_now(device))
        update()
        marks.append(_now(device))
        whole()
        marks.append(_now(device))
        if number:
            for name, start, end in zip(times, marks[:-1], marks[1:], strict=True):
                times[name].append(end - start)
        advance()
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def _advised(member: nn.Module, images: Tensor, autocast: torch.autocast) -> None:
    with torch.no_grad(), autocast:
        member(images)
