"""Cost of a training step: where its time goes."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Container, Mapping
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..checkpoints.build import build_student
from ..data.loader import TrainLoader
from ..data.sources.base import ImageSource
from ..data.sources.unlabelled import open_for_training
from ..data.views.finish import Batch
from ..losses import Objective
from ..models.compiling import WORTHWHILE_STEPS, compile_blocks, plain_attention
from ..models.students import student_tokens
from ..models.teachers import Teachers
from ..recipe.schema import Recipe
from ..system.clock import now, seconds_of
from ..system.devices import DTYPES, choose_device, resolve_precision
from ..system.progress import QUIET, Display
from ..training.optimizer import make_optimizer
from ..training.parts import freeze
from ..training.student import make_objective
from ..training.teachers import teachers_to_time
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


@dataclasses.dataclass(frozen=True)
class _Step:
    """One training step, in the parts that are timed."""

    teachers: Teachers
    student: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    batch: Batch
    autocast: torch.autocast

    def advise(self, names: Container[str] | None = None) -> Mapping[str, Tensor]:
        with self.autocast:
            return self.teachers.forward(self.batch.images, names)

    def loss(self, advice: Mapping[str, Tensor]) -> Tensor:
        with self.autocast:
            logits = self.student.forward_tokens(self.batch.images)  # type: ignore[operator]
        return self.objective(logits, advice, self.batch.target).total

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def whole(self) -> None:
        self.loss(self.advise()).backward()
        self.update()


def step_cost(
    recipe: Recipe, source: ImageSource | None = None, *, rounds: int = 5, display: Display = QUIET
) -> StepCost:
    """Measure a training step of a recipe, on its own data and one process. Teachers that are still to be trained or
    downloaded get random weights.

    Args:
        source: its training images, where they are open already.

    Raises:
        CoadviseError: settings, data and models that do not fit each other.
    """
    device = choose_device(recipe.run.device)
    dtype = DTYPES[resolve_precision(recipe.run.precision, device.type == "cpu")]
    if source is None:
        source, _ = open_for_training(recipe.data, recipe.teachers, display.say_once)
    names, batch_size = source.class_names, recipe.optim.batch_size // recipe.optim.accumulate
    loaded = teachers_to_time(recipe, names)
    teachers = Teachers(loaded, input_mean=recipe.data.mean, input_std=recipe.data.std, may_be_none=True).to(device)
    fresh = recipe.student.model_copy(update={"pretrained": False, "checkpoint": None})
    student = (
        build_student(fresh, recipe.tokens(), len(names), recipe.data.image_size, add=recipe.adds_tokens)
        .to(device)
        .train()
    )
    freeze(student, recipe.student.freeze_blocks)
    plain_attention(student, device, dtype)
    compile_blocks(student, recipe.run.compile, device, WORTHWHILE_STEPS)
    tokens = student_tokens(student, recipe.data.image_size, device)
    loader = TrainLoader(source, recipe.data, batch_size, device=device)
    objective = make_objective(recipe.loss, tokens, teachers.names, teachers.known(), loader.labelled)
    batch, input_s = _timed_input(loader, rounds + 4 * recipe.data.workers, device, display)
    if recipe.run.fuse_teachers:
        teachers.fuse(batch.images[:2], dtype)
    autocast = torch.autocast(device.type, dtype, enabled=dtype is not None)
    step = _Step(teachers, student, objective, make_optimizer(student, recipe.optim), batch, autocast)
    parts = {"input": input_s}
    for name in teachers.names:
        parts[f"teacher {name}"] = seconds_of(partial(step.advise, {name}), device, rounds)
    with display.bar("steps", rounds + 1) as bar:
        times = _timed_steps(step, device, rounds, bar.advance)
    whole = times.pop("whole")
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        step.loss(step.advise()).backward()
    step.optimizer.zero_grad()
    return StepCost(batch_size, parts | times, whole, counter.get_total_flops(), matrix_peak(device, dtype))


def _timed_input(loader: TrainLoader, count: int, device: torch.device, display: Display) -> tuple[Batch, float]:
    """A batch, and the mean seconds of `count` batches from a loader; `count` should exceed what its workers hold."""
    batches = chain.from_iterable(map(loader.epoch, itertools.count()))
    batch = next(batches)  # workers start, small sets are read
    start = now(device)
    with display.bar("input", count) as bar:
        for batch in itertools.islice(batches, count):  # noqa: B007 - the last one is returned
            bar.advance()
    seconds = (now(device) - start) / count
    loader.close()
    return batch, seconds


def _timed_steps(step: _Step, device: torch.device, rounds: int, advance: Callable[[], None]) -> dict[str, float]:
    """Median seconds of a step's parts and of whole steps, in turn; the first round does not count."""
    times: dict[str, list[float]] = {"student forward": [], "backward": [], "optimizer": [], "whole": []}
    advice = step.advise()
    for _ in range(rounds + 1):
        marks = [now(device)]
        loss = step.loss(advice)
        marks.append(now(device))
        for part in (loss.backward, step.update, step.whole):
            part()
            marks.append(now(device))
        for name, (start, end) in zip(times, itertools.pairwise(marks), strict=True):
            times[name].append(end - start)
        advance()
    return {name: statistics.median(seconds[1:]) for name, seconds in times.items()}
