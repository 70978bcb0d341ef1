"""The teachers of a run: built or loaded, checked, and put on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..checkpoints.build import build_teacher
from ..data.loader import EvalLoader
from ..data.sources.base import ImageSource
from ..data.sources.subsets import Subset, balanced_subset
from ..evaluation.teacher_check import TeacherCheck, measure_teachers, require_able
from ..models.teachers import FrozenTeacher, Teachers
from ..recipe.schema import Data, Optim, Recipe, Run
from ..system.devices import autocast_dtype
from ..system.progress import Display


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
        teachers[name] = build_teacher(name, settings, classes)
    for name, model in own.items():
        teachers[name] = model if isinstance(model, FrozenTeacher) else FrozenTeacher(model)
    return teachers


def check_teachers(
    teachers: Teachers,
    data: Data,
    run: Run,
    val_source: ImageSource,
    batch_size: int,
    accelerator: Accelerator,
    display: Display,
) -> dict[str, TeacherCheck]:
    """Measure and show every teacher's accuracy; stop when advice would be worthless.

    Raises:
        ModelError: see `teachers.measure_teachers` and `teachers.require_able`.
    """
    if not teachers.names:
        return {}
    # Folders come sorted by class: the first images would be all of one kind.
    part = Subset(val_source, balanced_subset(val_source.labels, run.teacher_check_size))
    loader = EvalLoader(part, data, batch_size, device=accelerator.device)

    def batches(advance: Callable[[int], None]) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in loader:
            yield batch.images, batch.label
            advance(len(batch.label))

    with closing(loader), display.bar("checking teachers", len(part)) as bar, accelerator.autocast():
        checks = measure_teachers(teachers, batches(bar.advance), len(val_source.class_names))
    for name, check in checks.items():
        display.say(f"teacher {name}: {check.accuracy:.1%} on {check.samples} validation images")
    if not run.allow_weak:
        require_able(checks, val_source.class_names)
    return checks


def eval_batch_size(run: Run, optim: Optim, processes: int) -> int:
    """Images that one process evaluates at once: as many as it trains on, unless the recipe says otherwise."""
    return run.eval_batch_size or max(optim.batch_size // (processes * optim.accumulate), 1)


def on_device(
    teachers: Mapping[str, FrozenTeacher], data: Data, fuse: bool, accelerator: Accelerator, display: Display
) -> Teachers:
    """The teachers where they advise, for images as `data` makes them; fused where that changes only the speed."""
    ready = Teachers(teachers, input_mean=data.mean, input_std=data.std).to(accelerator.device)
    if fuse:
        shape = (4, 3, data.image_size, data.image_size)
        example = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(accelerator.device)
        ready.fuse(example, autocast_dtype(accelerator))
        for name in ready.unfused():
            display.say(f"teacher {name} could not be fused; it advises as it is, more slowly")
    return ready
