"""The result of a finished run."""

from __future__ import annotations

from collections.abc import Container, Mapping
from contextlib import suppress

import numpy as np

from ..checkpoints.model_file import read_header, weights_file
from ..data.sources.base import ImageSource
from ..data.sources.unlabelled import labelled_part
from ..errors import CheckpointError
from ..evaluation.attention import looks_of
from ..evaluation.pictures import pictures_of, tracked_images
from ..evaluation.several import SeveralCheck
from ..evaluation.teacher_check import TeacherCheck
from ..models.answers import kind_of
from ..models.bias import bias_of
from ..models.teachers import FrozenTeacher
from ..names import CLASS
from ..recipe.address import address
from ..recipe.schema import Recipe, Teacher
from ..run.answers import Answers
from ..run.folder import read_metrics
from ..run.pictures import write_pictures
from ..run.provenance import manifest
from ..run.result import (
    Baselines,
    Best,
    DataFacts,
    EarlyStop,
    RunResult,
    SeveralFacts,
    Skipped,
    StudentFacts,
    TeacherFacts,
)
from ..run.several import SeveralAnswers
from ..shapes import Int64
from .checkpoint import gather_skipped
from .delivered import delivered_weights, measure_delivered
from .loop import Evaluation
from .setup import Setup
from .state import State


def teacher_facts(
    recipe: Recipe,
    loaded: Mapping[str, FrozenTeacher],
    checks: Mapping[str, TeacherCheck] | Mapping[str, SeveralCheck],
    val_labels: Int64[np.ndarray, " n"],
    own: Container[str],
) -> dict[str, TeacherFacts]:
    """Facts about every teacher, for the result; `own` names those that were given from Python."""
    facts = {}
    for name, teacher in loaded.items():
        settings, check = None if name in own else recipe.teachers.get(name), checks[name]
        facts[name] = TeacherFacts(
            model=settings.model if settings else kind_of(teacher.model),
            bias=settings.bias or bias_of(settings.model) if settings else recipe.tokens().get(name),
            parameters=sum(p.numel() for p in teacher.model.parameters()),
            accuracy=check.accuracy if isinstance(check, TeacherCheck) else None,
            samples=check.samples,
            asked=None
            if teacher.known is None or isinstance(check, SeveralCheck)
            else int(np.isin(val_labels, teacher.known).sum()),
            **({} if settings is None or settings.train else _place_of(settings)),
        )
    return facts


def _place_of(settings: Teacher) -> dict[str, str]:
    """Where a teacher that is used as it is came from, and what `coadvise predict` opens of it."""
    if place := address(settings.model):
        kind, where = place
        return {"source": settings.model} | ({"opens": where} if kind in ("run", "onnx") else {})
    if settings.checkpoint is None:
        return {"source": settings.model}
    ours = False
    with suppress(CheckpointError):  # it was there hours ago, and the run needs it no more
        ours = read_header(weights_file(settings.checkpoint)) is not None
    return {"source": settings.checkpoint} | ({"opens": settings.checkpoint} if ours else {})


def run_result(
    recipe: Recipe,
    setup: Setup,
    state: State,
    last: Evaluation | None,
    sources: tuple[ImageSource, ImageSource],
    teachers: Mapping[str, TeacherFacts],
    given: str | None,
    baselines: Baselines | None = None,
) -> RunResult:
    """The result of a run whose last step is done; on every process, as unreadable images are gathered from all."""
    count, (train_source, val_source) = state.count, sources
    gather_skipped(count)
    if count.skipped:
        setup.display.say(f"{len(count.skipped)} unreadable training images were replaced, such as {count.skipped[0]}")
    epochs, schedule = count.step // setup.loader.steps_per_epoch, recipe.schedule
    early = None
    if epochs < schedule.epochs and schedule.patience is not None:
        early = EarlyStop(schedule.epochs, schedule.patience)
        setup.display.say(
            f"stopped early, after {epochs} of {schedule.epochs} epochs: {early.in_vain} "
            f"no better than {count.best:.1%} after epoch {count.best_epoch}, whose weights are kept"
        )
    if last is None:  # resumed after the last evaluation was written, but not the result
        line = [line for line in read_metrics(setup.folder.metrics) if line["kind"] == "eval"][-1]
        last = Evaluation(line["metrics"], line["ema"])
    with delivered_weights(setup, state) as student:
        delivered = measure_delivered(setup, state, student)
        labelled = len(labelled_part(train_source))
        seen, tokens = delivered.answers, recipe.tokens()
        several = SeveralFacts(seen.average_precision(), seen.chance) if isinstance(seen, SeveralAnswers) else None
        if isinstance(seen, Answers) and setup.accelerator.is_main_process:
            pictures = pictures_of(seen, val_source)
            write_pictures(setup.folder.pictures, pictures)
            setup.tracker.images(count.step, lambda: tracked_images(seen, pictures))
            looks_of(student, seen, val_source, recipe.data, setup.accelerator.device).write(setup.folder.looks)
    return RunResult(
        name=recipe.name,
        fingerprint=recipe.fingerprint(),
        seed=recipe.run.seed,
        student=StudentFacts(
            model=given or recipe.student.model,
            parameters=sum(p.numel() for p in state.student.parameters()),
            tokens={name: tokens.get(name) for name in setup.validation.tokens if name != CLASS},
        ),
        teachers=teachers,
        data=DataFacts(
            recipe.data.source, labelled, len(val_source), tuple(train_source.class_names), len(train_source) - labelled
        ),
        epochs=epochs,
        steps=count.step,
        images_seen=count.step * recipe.optim.batch_size,
        seconds=round(count.seconds, 1),
        final=last.metrics,
        ema=last.ema,
        best=Best(count.best, count.best_epoch, count.best_weights),
        skipped=Skipped(len(count.skipped), last.skipped, tuple(count.skipped[:20])),
        provenance=manifest(
            precision=str(setup.accelerator.mixed_precision), processes=setup.accelerator.num_processes
        ),
        baselines=baselines,
        per_class=seen.counts(),
        stopped_early=early,
        delivered=delivered.metrics,
        several=several,
        answering=setup.validation.answering,
    )
