"""The teachers of a run: checked, and put on the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..checkpoints.model_file import BEST, read_header, weights_file
from ..checkpoints.teachers import build_teacher
from ..data.loader import EvalLoader
from ..data.sources.base import ImageSource, strata
from ..data.sources.subsets import Subset, balanced_subset
from ..errors import ModelError
from ..evaluation.several import SeveralCheck, check_several, require_able_of_several
from ..evaluation.teacher_check import TeacherCheck, measure_teachers, require_able
from ..models.answers import Answer, named_classes
from ..models.teachers import FrozenTeacher, Teachers, index_by_name
from ..recipe.address import address
from ..recipe.schema import Data, Optim, Recipe, Run
from ..system.devices import autocast_dtype
from ..system.progress import Display


def given_teacher(name: str, model: nn.Module | Answer, class_names: Sequence[str]) -> FrozenTeacher:
    """A module or a function that was given from Python as a teacher for data of these classes.

    Raises:
        ModelError: its file named other classes.
    """
    teacher = model if isinstance(model, FrozenTeacher) else FrozenTeacher(model)
    own = named_classes(teacher) if teacher.classes is None else None
    index = None if own is None else index_by_name(name, own, class_names)
    return teacher if index is None else teacher.again(index)


def built_teacher(recipe: Recipe, name: str, weights: Path | None, classes: Sequence[str]) -> FrozenTeacher:
    """A teacher of the recipe, with the weights that its training gave, if it was trained."""
    settings = recipe.teachers[name]
    _require_same_labels(recipe, name, weights)
    if weights is not None:
        settings = settings.model_copy(update={"checkpoint": str(weights), "pretrained": False})
    return build_teacher(name, settings, classes)


def _require_same_labels(recipe: Recipe, name: str, weights: Path | None) -> None:
    """Refuse a teacher that answers another question: which one class, or which classes an image has.

    Raises:
        ModelError: its file, or where it comes from, says so.
    """
    settings, wanted = recipe.teachers[name], recipe.data.labels
    place = address(settings.model)
    file = weights or (place[1] if place and place[0] == "run" else settings.checkpoint)
    header = read_header(weights_file(file)) if file else None
    if header is not None and header.recipe.data.labels == wanted:
        return
    if header is None and wanted == "one":
        return
    if header is not None or place or settings.pretrained:
        words = {"one": "one class for each image", "several": "any number of classes for each image"}
        other = "several" if wanted == "one" else "one"
        raise ModelError(
            f"teacher '{name}' answers with {words[other]}, and data.labels={wanted} asks for {words[wanted]}; train "
            f"it on these images first (teachers.{name}.train), or choose one that was trained so"
        )


def teachers_to_time(recipe: Recipe, class_names: Sequence[str]) -> dict[str, FrozenTeacher]:
    """Teachers of the right shape; their weights do not matter."""
    teachers = {}
    for name, settings in recipe.teachers.items():
        # What a checkpoint says of its model counts; one that is not there yet, or is downloaded, does not.
        files = [Path(settings.checkpoint), Path(settings.checkpoint) / BEST] if settings.checkpoint else []
        known = settings.checkpoint if any(file.is_file() for file in files) else None
        bare = settings.model_copy(update={"pretrained": False, "checkpoint": known, "train": None})
        teachers[name] = build_teacher(name, bare, class_names)
    return teachers


def check_teachers(
    teachers: Teachers,
    data: Data,
    run: Run,
    optim: Optim,
    val_source: ImageSource,
    accelerator: Accelerator,
    display: Display,
) -> dict[str, TeacherCheck] | dict[str, SeveralCheck]:
    """Measure and show every teacher's accuracy, or its mAP where images have any number of classes.

    It stops where advice would be worthless.

    Raises:
        ModelError: see `teacher_check.measure_teachers` and `teacher_check.require_able`.
    """
    if not teachers.names:
        return {}
    # Folders come sorted by class: the first images would be all of one kind.
    part = Subset(val_source, balanced_subset(strata(val_source), run.teacher_check_size))
    batch = eval_batch_size(run, optim, accelerator.num_processes)
    loader = EvalLoader(part, data, batch, device=accelerator.device)

    classes, several = len(val_source.class_names), data.labels == "several"
    with closing(loader), display.bar("checking teachers", len(part)) as bar, accelerator.autocast():

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for batch in loader:
                yield batch.images, batch.target if several else batch.label
                bar.advance(len(batch.label))

        if several:
            return _checked_on_several(check_several(teachers, batches(), classes), run, display)
        checks = measure_teachers(teachers, batches(), classes)
    for name, check in checks.items():
        some = teachers.known().get(name)
        of = "" if some is None else f" of the {len(some)} of {classes} classes that it knows and advises on"
        display.say(f"teacher {name}: {check.accuracy:.1%} on {check.samples} validation images{of}")
    if not run.allow_weak:
        require_able(checks, val_source.class_names)
    return checks


def _checked_on_several(checks: dict[str, SeveralCheck], run: Run, display: Display) -> dict[str, SeveralCheck]:
    for name, check in checks.items():
        display.say(f"teacher {name}: mAP {check.mean_average_precision:.1%} on {check.samples} validation images")
    if not run.allow_weak:
        require_able_of_several(checks)
    return checks


def eval_batch_size(run: Run, optim: Optim, processes: int) -> int:
    """Images that one process evaluates at once: as many as it trains on, unless the recipe says otherwise."""
    return run.eval_batch_size or max(optim.batch_size // (processes * optim.accumulate), 1)


def on_device(
    teachers: Mapping[str, FrozenTeacher], data: Data, fuse: bool, accelerator: Accelerator, display: Display
) -> Teachers:
    """The teachers where they advise, for images as `data` makes them; fused where that changes only the speed."""
    ready = Teachers(teachers, input_mean=data.mean, input_std=data.std, may_be_none=True).to(accelerator.device)
    if fuse:
        shape = (4, 3, data.image_size, data.image_size)
        example = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(accelerator.device)
        ready.fuse(example, autocast_dtype(accelerator))
        for name in ready.unfused():
            display.say(f"teacher {name} could not be fused; it advises as it is, more slowly")
    return ready
