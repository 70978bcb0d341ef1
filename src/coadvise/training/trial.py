"""Training steps on trial: the real ones, in a folder that is deleted afterwards; nothing of a run is touched."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..data.sources.base import ImageSource
from ..data.sources.subsets import Subset, balanced_subset
from ..data.views.finish import Batch
from ..models.teachers import FrozenTeacher, Teachers
from ..recipe.schema import Recipe
from ..run.folder import RunFolder
from ..system.clock import now
from ..system.progress import QUIET, Display
from .advising import live
from .changed import Advise
from .loop import evaluate_on, train_step
from .processes import on_any_process
from .setup import Setup, prepare
from .state import State
from .teachers import eval_batch_size, on_device

# Updates, and seconds, that are measured at least, after those in which workers start and their queues fill.
STEPS, SECONDS = 10, 2.0
# Batches of validation images whose evaluation is measured.
EVALUATED = 4


@contextmanager
def on_trial(
    recipe: Recipe,
    sources: tuple[ImageSource, ImageSource],
    accelerator: Accelerator,
    student: nn.Module,
    ready: Teachers,
    advise: Advise | None = None,
    display: Display = QUIET,
) -> Iterator[tuple[Setup, State]]:
    """All that a training needs, without the run's folder and without trackers.

    Args:
        student: is trained, so it should be a copy.
        ready: the teachers, on the device.
        advise: in place of the teachers.
        display: hears what is said of the set-up.
    """
    run = recipe.run.model_copy(update={"tensorboard": False, "trackers": ()})
    with tempfile.TemporaryDirectory(prefix="coadvise-trial-") as place:
        setup, state = prepare(
            recipe.model_copy(update={"run": run}), RunFolder(Path(place)), sources, accelerator, student, ready, {},
            advise or live(ready, accelerator), display,
        )  # fmt: skip
        with setup:
            setup.model.train()
            yield setup, state


def endless(setup: Setup) -> Iterator[Batch]:
    """Micro-batches of one epoch after the other."""
    return chain.from_iterable(map(setup.loader.epoch, itertools.count()))


@dataclass(frozen=True)
class Pace:
    """Seconds that the parts of a training take.

    Attributes:
        start: until the first update is done: loader processes start, small sets are read.
        epoch: of all updates of an epoch, and its share of an evaluation and of the checkpoint after it.
        teachers: what the teachers add to the run: their check before it, and the last evaluation.
        evaluation: of a whole evaluation and the checkpoint after it, of which every epoch has its share.
    """

    start: float
    epoch: float
    teachers: float
    evaluation: float = 0.0

    def of(self, epochs: int) -> float:
        """Seconds of a whole training."""
        return self.start + epochs * self.epoch + self.teachers


def measure_pace(
    recipe: Recipe,
    sources: tuple[ImageSource, ImageSource],
    accelerator: Accelerator,
    student: nn.Module,
    teachers: Mapping[str, FrozenTeacher],
    limit: float,
) -> Pace:
    """Train some steps, and evaluate some images.

    Stored advice is stood in for by constant logits: reading it costs next to nothing beside a step.

    Args:
        student: is trained.
        limit: seconds after which no further step is begun.
    """
    train, val = sources
    share = eval_batch_size(recipe.run, recipe.optim, accelerator.num_processes) * accelerator.num_processes
    part = Subset(val, balanced_subset(val.labels, EVALUATED * share))
    stored = recipe.advice.source == "cache"
    stand_in = constant_advice(tuple(teachers), len(train.class_names)) if stored else None
    ready = on_device(teachers, recipe.data, recipe.run.fuse_teachers, accelerator, QUIET)
    with on_trial(recipe, (train, part), accelerator, student, ready, stand_in) as (setup, state):
        start, step = _steps(setup, state, recipe.data.workers, limit)
        alone, advised = (_evaluation(setup, state, with_teachers) for with_teachers in (False, bool(teachers)))
        saved = now(accelerator.device)
        setup.checkpoint.save(state)
        saved = now(accelerator.device) - saved
        per_epoch = step * setup.loader.steps_per_epoch
    whole = len(val) / len(part)
    evaluated = alone * whole * (1 if state.ema is None else 2)
    checked = min(recipe.run.teacher_check_size, len(val)) / len(val)
    extra = max(advised - alone, 0.0) * whole * (1 + checked) if teachers else 0.0
    return Pace(start, per_epoch + (evaluated + saved) / recipe.run.eval_every, extra, evaluated + saved)


def constant_advice(names: tuple[str, ...], classes: int) -> Advise:
    """Stands in for stored advice, which costs next to nothing to read beside a step."""

    def advise(batch: Batch) -> Mapping[str, Tensor]:
        return {name: torch.zeros(len(batch.images), classes, device=batch.images.device) for name in names}

    return advise


def _steps(setup: Setup, state: State, workers: int, limit: float) -> tuple[float, float]:
    """Seconds until the first update is done, and of an update after the first ones. Alike on all processes."""
    device, batches = setup.accelerator.device, endless(setup)
    begun = now(device)
    _update(setup, state, batches)
    start = now(device) - begun
    for _ in range(1 + 2 * workers):
        if on_any_process(setup.accelerator, now(device) - begun > limit / 2):
            break
        _update(setup, state, batches)
    since, count = now(device), 0
    while True:
        _update(setup, state, batches)
        count += 1
        seconds, whole = now(device) - since, now(device) - begun
        if on_any_process(setup.accelerator, whole > limit or (count >= STEPS and seconds >= SECONDS)):
            return start, seconds / count


def _update(setup: Setup, state: State, batches: Iterator[Batch]) -> None:
    for _ in range(setup.optim.accumulate):
        train_step(setup, state, next(batches))
    if state.ema is not None:
        state.ema.update(state.student)


def _evaluation(setup: Setup, state: State, with_teachers: bool) -> float:
    """Seconds of an evaluation; the first, for which loader processes start, does not count."""
    seconds = 0.0
    for _ in range(2):
        start = now(setup.accelerator.device)
        evaluate_on(setup, state.student, with_teachers=with_teachers)
        seconds = now(setup.accelerator.device) - start
    return seconds
