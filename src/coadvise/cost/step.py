"""Cost of a training step: how long one takes as `coadvise train` runs it, where its time goes, what waits for what.

Set-up, loop and step are the training's own (`trial.on_trial`, `loop.train_epoch`, `loop.train_step`); here are only
clocks: around whole updates of the running loop, and, on a batch that is there already, around the parts of a step.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..checkpoints.build import build_student
from ..data.sources.base import ImageSource
from ..data.sources.unlabelled import open_for_training
from ..data.views.finish import Batch
from ..models.compiling import Form
from ..models.teachers import Teachers
from ..recipe.schema import Recipe
from ..system.clock import most_memory, now, seconds_of, synchronize
from ..system.devices import autocast_dtype
from ..system.progress import QUIET, Bar, Display
from ..training.loop import train_epoch, train_step
from ..training.parts import freeze
from ..training.processes import Stop, start_processes
from ..training.setup import Setup
from ..training.state import State
from ..training.teachers import on_device, teachers_to_time
from ..training.trial import constant_advice, endless, on_trial
from .model import matrix_peak
from .profile import Profile, profiled

# Images by which operations are counted; a batch has its multiple of them.
COUNTED = 2
# Seconds after which the loop is taken to be under way, and that it is measured at least and at most.
UNDER_WAY, LEAST, MOST = 5.0, 0.1, 60.0
# Steps under the profiler.
PROFILED = 3
# In words, what of a student is compiled.
FORMS: dict[Form, str] = {
    "plain": "not compiled", "blocks": "its blocks compiled", "fused": "each block one operation",
    "whole": "student and loss compiled as one", "graphs": "student and loss compiled as one, as CUDA graphs",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class StepCost:
    """Where the time of a training step goes, in seconds (medians), of one micro-batch.

    Attributes:
        parts: input (one batch from the loader, alone), each teacher, student forward (and the loss), backward,
            optimizer.
        whole: one step on a batch that is there already.
        flops: floating-point operations of teachers, forward and backward.
        peak: operations per second that a large matrix product reaches here, in the same precision.
        running: one step of the loop as it trains, its input and its log lines included; None: not measured.
        memory: bytes at the peak: of the device, or of this process on the CPU; None where it cannot be measured.
        precision, compiled: what the run chose, in a word and in words.
        stays: whether the images are kept on the device.
        profile: what a GPU does in a step.
    """

    batch_size: int
    parts: dict[str, float]
    whole: float
    flops: int
    peak: float
    running: float | None = None
    memory: int | None = None
    precision: str = "fp32"
    compiled: str = ""
    stays: bool = False
    profile: Profile | None = None

    @property
    def of_peak(self) -> float:
        """Fraction of the device's matrix speed that the step reaches."""
        return self.flops / self.whole / self.peak

    @property
    def images_per_s(self) -> float:
        """Of the training loop, from the images on disk to the updated weights."""
        return self.batch_size / (self.running or self.whole)

    @property
    def waiting(self) -> float:
        """Share of the loop's time that a step on a batch that is there already would not take; no more than the input
        takes by itself, since other work on the machine slows a loop down as well."""
        if not self.running:
            return 0.0
        return min(max(1 - self.whole / self.running, 0.0), self.parts["input"] / self.running)

    @property
    def advised(self) -> float:
        """Share of the step that the teachers take."""
        return min(sum(time for name, time in self.parts.items() if name.startswith("teacher ")) / self.whole, 1.0)


@contextmanager
def training_of(
    recipe: Recipe, sources: tuple[ImageSource, ImageSource], display: Display = QUIET
) -> Iterator[tuple[Setup, State, int]]:
    """A recipe's training, set up as `coadvise train` does it, in a folder that is deleted afterwards; and the
    floating-point operations of one step on one image, beside those of the optimizer.

    Weights that are still to be trained or downloaded are random. Stored advice is stood in for by constant logits.
    """
    accelerator = start_processes(recipe.run, recipe.optim)
    names = sources[0].class_names
    fresh = recipe.student.model_copy(update={"pretrained": False, "checkpoint": None})
    student = build_student(fresh, recipe.tokens(), len(names), recipe.data.image_size, add=recipe.adds_tokens)
    freeze(student, recipe.student.freeze_blocks)
    loaded, stored = teachers_to_time(recipe, names), recipe.advice.source == "cache"
    plain = Teachers(loaded, input_mean=recipe.data.mean, input_std=recipe.data.std, may_be_none=True)
    operations = _operations(
        student, None if stored else plain.to(accelerator.device), recipe.data.image_size, accelerator.device
    )
    ready = on_device(loaded, recipe.data, recipe.run.fuse_teachers, accelerator, display)
    advise = constant_advice(tuple(loaded), len(names)) if stored else None
    with on_trial(recipe, sources, accelerator, student, ready, advise, display) as (setup, state):
        yield setup, state, operations


def step_cost(
    recipe: Recipe,
    sources: tuple[ImageSource, ImageSource] | None = None,
    *,
    rounds: int = 5,
    display: Display = QUIET,
) -> StepCost:
    """Measure a training step of a recipe, on its own data and one process.

    Args:
        sources: its training and validation images, where they are open already.

    Raises:
        CoadviseError: settings, data and models that do not fit each other.
    """
    sources = sources or open_for_training(recipe.data, recipe.teachers, display.say_once, several=True)
    with training_of(recipe, sources, display) as (setup, state, operations):
        device, dtype = setup.accelerator.device, autocast_dtype(setup.accelerator)
        running = _running(setup, state, rounds, display)
        memory = most_memory(device)
        batch, input_s = _input(setup, rounds + 4 * recipe.data.workers, display)
        parts = {"input": input_s}
        teachers = () if recipe.advice.source == "cache" else setup.validation.teachers.names
        for name in teachers:
            parts[f"teacher {name}"] = seconds_of(partial(_advice_of, setup, batch, name), device, rounds)
        with display.bar("steps", 2 * (rounds + 1)) as bar:
            times = _parts(_with_advice(setup, batch), state, batch, rounds, bar)
            whole = _whole(setup, state, batch, rounds, bar)
        profile = None
        if device.type == "cuda":
            profile = profiled(
                lambda: _updates(setup, state, batch, PROFILED), device, PROFILED * setup.optim.accumulate
            )
        return StepCost(
            batch_size=len(batch.images),
            parts=parts | times,
            whole=whole,
            flops=operations * len(batch.images),
            peak=matrix_peak(device, dtype),
            running=running,
            memory=memory,
            precision={"no": "fp32"}.get(setup.accelerator.mixed_precision, setup.accelerator.mixed_precision),
            compiled=FORMS[setup.trained.form],
            stays=setup.loader.stays,
            profile=profile,
        )


class _Enough(Exception):
    """The loop has made as many updates as were wanted."""


class UpdateClock(Bar):
    """A bar in the training loop that reads the clock after some updates, and ends the loop.

    Args:
        enough: asked after every update with their number.
    """

    def __init__(self, enough: Callable[[int], bool]) -> None:
        super().__init__(QUIET, "", 0, 0, None)
        self._enough, self.updates = enough, 0

    def advance(self, count: int = 1) -> None:
        self.updates += count
        if self._enough(self.updates):
            raise _Enough


def run_loop(setup: Setup, state: State, enough: Callable[[int], bool]) -> None:
    """Train, epoch after epoch, until `enough` says so of a number of updates."""
    clock, stop = UpdateClock(enough), Stop(setup.accelerator)
    try:
        for epoch in itertools.count(state.count.step // setup.loader.steps_per_epoch):
            train_epoch(setup, state, epoch, stop, clock)
    except _Enough:
        return


def _running(setup: Setup, state: State, rounds: int, display: Display) -> float:
    """Mean seconds of a micro-batch in the running loop, without the first ones: workers start, the student compiles,
    queues fill."""
    device, marks = setup.accelerator.device, list[tuple[int, float]]()
    fill = 1 + 2 * setup.loader.data.workers
    begun = now(device)
    with display.bar("training", fill + rounds) as bar:

        def enough(updates: int) -> bool:
            bar.advance()
            if not marks:
                if updates >= fill or time.perf_counter() - begun > UNDER_WAY:
                    synchronize(device)
                    if device.type == "cuda":
                        torch.cuda.reset_peak_memory_stats(device)
                    marks.append((updates, now(device)))
                return False
            count = updates - marks[0][0]
            if count < rounds:
                return False
            # Without waiting for the device: a wait at every update would be another loop.
            clock = time.perf_counter()
            if clock - marks[0][1] < LEAST * rounds and clock - begun < MOST:
                return False
            marks.append((updates, now(device)))
            return True

        run_loop(setup, state, enough)
    (first, start), (last, end) = marks
    return (end - start) / (last - first) / setup.optim.accumulate


def _input(setup: Setup, count: int, display: Display) -> tuple[Batch, float]:
    """A batch, and the mean seconds of `count` batches from the loader; `count` should exceed what its workers hold."""
    device, batches = setup.accelerator.device, endless(setup)
    batch = next(batches)
    start = now(device)
    with display.bar("input", count) as bar:
        for batch in itertools.islice(batches, count):  # noqa: B007 - the last one is returned
            bar.advance()
    return batch, (now(device) - start) / count


def _advice_of(setup: Setup, batch: Batch, name: str) -> None:
    with setup.accelerator.autocast():
        setup.validation.teachers(batch.images, {name})


def _with_advice(setup: Setup, batch: Batch) -> Setup:
    """The training with advice that is there already."""
    advice = {name: one.clone() for name, one in setup.advise(batch).items()}
    return dataclasses.replace(setup, advise=lambda _: advice)


def _updates(setup: Setup, state: State, batch: Batch, count: int) -> None:
    for _ in range(count * setup.optim.accumulate):
        train_step(setup, state, batch)


def _whole(setup: Setup, state: State, batch: Batch, rounds: int, bar: Bar) -> float:
    def update() -> None:
        _updates(setup, state, batch, 1)
        bar.advance()

    return seconds_of(update, setup.accelerator.device, rounds) / setup.optim.accumulate


def _parts(setup: Setup, state: State, batch: Batch, rounds: int, bar: Bar) -> dict[str, float]:
    """Median seconds of a step's parts, of a micro-batch; the first round does not count."""
    rows = []
    for _ in range(rounds + 1):
        with _backward_marked(setup.accelerator) as marks:
            for _ in range(setup.optim.accumulate):
                marks.append(now(setup.accelerator.device))
                train_step(setup, state, batch)
                marks.append(now(setup.accelerator.device))
        times = torch.tensor(marks, dtype=torch.float64).view(-1, 4).diff(dim=1)
        rows.append(times.mean(dim=0).tolist())
        bar.advance()
    medians = (statistics.median(column) for column in zip(*rows[1:], strict=True))
    return dict(zip(("student forward", "backward", "optimizer"), medians, strict=True))


@contextmanager
def _backward_marked(accelerator: Accelerator) -> Iterator[list[float]]:
    """The moments at which backward passes begin and end."""
    marks, backward = list[float](), accelerator.backward

    def marked(loss: Tensor, **options: Any) -> None:
        marks.append(now(accelerator.device))
        backward(loss, **options)
        marks.append(now(accelerator.device))

    accelerator.backward = marked  # type: ignore[method-assign]
    try:
        yield marks
    finally:
        del accelerator.backward


def _operations(student: nn.Module, teachers: Teachers | None, side: int, device: torch.device) -> int:
    """Floating-point operations of a step on one image: before anything is fused or compiled, where all are seen."""
    images = torch.randn(COUNTED, 3, side, side, device=device)
    student = student.to(device).train()
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # the fused form of attention is not counted on every device
        if teachers is not None:
            teachers(images)
        logits = student.forward_tokens(images)  # type: ignore[operator]
        torch.stack([one.sum() for one in logits.values()]).sum().backward()
    student.zero_grad()
    return int(counter.get_total_flops()) // COUNTED
