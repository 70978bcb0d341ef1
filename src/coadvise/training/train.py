"""Training: one loop for students and teachers, on one process or many.

Read `train` first, then `_train_epoch`: a batch comes decoded, augmented and mixed from `data/`, the teachers advise
on it, Eq. 1 gives the terms, and one update follows. A resumed run continues bit for bit on the CPU: order and
augmentation follow from the step, and everything else that decides the next step is in `last.safetensors`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from ..advice.cache import AdviceCache, kept_weights, require_fitting
from ..advice.checking import check_cache
from ..advice.layout import cache_path
from ..data.sources.base import ImageSource
from ..data.sources.opening import open_sources
from ..errors import Interrupted
from ..evaluation.teacher_check import TeacherCheck
from ..models.teachers import FrozenTeacher
from ..recipe.reading import recipe_from
from ..recipe.schema import Recipe, TeacherTraining
from ..run.folder import RunFolder, read_metrics
from ..run.provenance import manifest
from ..system.locks import one_at_a_time
from ..system.progress import Display
from .checkpoint import gather_skipped, restore, save
from .job import Job, prepare, require_batches
from .loop import _go_on, _long_unsaved, _stopped, _train_epoch, _validate
from .processes import Stop, start_processes
from .student import new_student
from .teachers import check_teachers, prepare_teachers


def train(
    recipe: Recipe,
    *,
    resume: bool = False,
    student: nn.Module | None = None,
    teachers: Mapping[str, nn.Module] | None = None,
    display: Display | None = None,
) -> dict[str, Any]:
    """Train the teachers that the recipe says to train, then its student.

    Args:
        recipe: describes the whole run; its folder is `run.output`, or `runs/NAME`.
        resume: continue an unfinished run: the same recipe, the same number of processes.
        student: own module in place of the recipe's, with `forward_tokens` or a single head.
        teachers: own modules by name, beside or in place of the recipe's.

    Returns:
        The content of `result.json`.

    Raises:
        CoadviseError: bad input; nothing is lost or overwritten.
        Interrupted: Ctrl-C or SIGTERM; the state is saved.
    """
    accelerator = start_processes(recipe)
    display = display or Display(quiet=not accelerator.is_main_process)
    folder = RunFolder(Path(recipe.run.output or f"runs/{recipe.name}"))
    folder.check(recipe, resume)
    with accelerator.local_main_process_first():  # a data set is downloaded once
        sources = open_sources(recipe.data)
    names = [*recipe.teachers, *(teachers or {})]
    if recipe.advice.source == "cache" and names:  # before hours go into teachers
        require_fitting(cache_path(recipe), recipe, sources[0])
    given = None if student is None else type(student).__name__
    student = new_student(recipe, len(sources[0].class_names), accelerator.num_processes, student, names)
    advisers = load_teachers(recipe, folder, sources, accelerator, teachers or {}, display)
    job = prepare(recipe, folder, sources, accelerator, student, advisers, display)
    job.given = given
    checks = check_teachers(job.teachers, recipe, sources[1], accelerator, display)
    if recipe.advice.source == "cache" and advisers:
        job.cache = AdviceCache(cache_path(recipe), recipe, sources[0], advisers)
        check_cache(job.cache, recipe, sources[0], job.teachers, accelerator)
        display.say(f"advice comes from {job.cache.folder}")
    if folder.last.is_file():
        restore(job)
    elif accelerator.is_main_process:
        folder.begin(recipe, manifest(fingerprint=recipe.fingerprint()))
    steps, epochs = job.loader.steps_per_epoch, recipe.schedule.epochs
    with Stop(accelerator) as stop, display.bar(recipe.name, job.total_steps, job.count.step) as bar:
        while job.count.step < job.total_steps:
            epoch = job.count.step // steps
            _train_epoch(job, epoch, bar, stop)
            evaluate_now = (epoch + 1) % recipe.run.eval_every == 0 or epoch + 1 == epochs
            if evaluate_now:
                _validate(job, epoch + 1)
            stopping = stop.requested(0)
            if evaluate_now or stopping or _long_unsaved(job):
                save(job)
            if stopping and job.count.step < job.total_steps:
                raise Interrupted(_stopped(job))
    result = _finish(job, checks)
    job.loader.close()
    job.val_loader.close()
    accelerator.free_memory()
    return result


def _finish(job: Job, checks: Mapping[str, TeacherCheck]) -> dict[str, Any]:
    """Write and return the result."""
    recipe, count = job.recipe, job.count
    gather_skipped(job)
    if count.skipped:
        job.display.say(f"{len(count.skipped)} unreadable training images were replaced, such as {count.skipped[0]}")
    if not job.metrics:  # resumed after the last evaluation was written, but not the result
        line = [line for line in read_metrics(job.folder.metrics) if line["kind"] == "eval"][-1]
        job.metrics, job.ema_metrics = line["metrics"], line["ema"]
    for name, check in checks.items():
        job.teacher_facts[name] |= {"accuracy": check.accuracy, "samples": check.samples}
    result = {
        "name": recipe.name,
        "fingerprint": recipe.fingerprint(),
        "seed": recipe.run.seed,
        "student": {
            "model": job.given or recipe.student.model,
            "parameters": sum(p.numel() for p in job.student.parameters()),
            "tokens": {name: recipe.tokens().get(name) for name in job.tokens if name != "class"},
        },
        "teachers": job.teacher_facts,
        "data": {
            "source": recipe.data.source,
            "train": job.loader.size,
            "val": job.val_size,
            "classes": list(job.class_names),
        },
        "epochs": recipe.schedule.epochs,
        "steps": count.step,
        "images_seen": count.step * recipe.optim.batch_size,
        "seconds": round(count.seconds, 1),
        "final": job.metrics,
        "ema": job.ema_metrics,
        "best": {"value": count.best, "epoch": count.best_epoch, "weights": count.best_weights},
        "skipped": {"train": len(count.skipped), "val": job.val_skipped, "names": count.skipped[:20]},
        "provenance": manifest(precision=str(job.accelerator.mixed_precision), processes=job.accelerator.num_processes),
    }
    if job.accelerator.is_main_process:
        job.folder.finish(result)
    job.tracker.close()
    return result


def load_teachers(
    recipe: Recipe,
    folder: RunFolder,
    sources: tuple[ImageSource, ImageSource],
    accelerator: Accelerator,
    own: Mapping[str, nn.Module],
    display: Display,
) -> dict[str, FrozenTeacher]:
    """Train the teachers that the recipe says to train, unless an earlier start has; then load all of them."""
    classes, world = len(sources[0].class_names), accelerator.num_processes
    # A cache keeps the teachers that were trained for it, whatever student it then serves.
    checkpoints = {n: str(p) for n, p in kept_weights(recipe).items()} if recipe.advice.source == "cache" else {}
    schoolings = {
        name: teacher_recipe(recipe, name, folder.path / "teachers" / name)
        for name, settings in recipe.teachers.items()
        if settings.train is not None and name not in own and name not in checkpoints
    }
    # What can fail, fails before the first of them is trained for hours.
    for schooling in (*schoolings.values(), recipe):
        require_batches(schooling, sources[0], world)
    for schooling in schoolings.values():
        new_student(schooling, classes, world, None, ())
    prepared = prepare_teachers(recipe, own, classes, skip=schoolings, checkpoints=checkpoints)
    for name, schooling in schoolings.items():
        place = RunFolder(folder.path / "teachers" / name)
        # Several processes that share no group, such as those that write a cache, train a teacher once.
        alone = one_at_a_time(folder.path / "teachers" / f".{name}.lock")
        with alone if accelerator.is_main_process else contextlib.nullcontext():
            accelerator.wait_for_everyone()
            if place.finished:
                place.require_same(schooling)
            else:
                display.say(f"training teacher {name} ({schooling.student.model}, {schooling.schedule.epochs} epochs)")
                try:
                    train(schooling, resume=place.last.is_file(), display=display)
                except Interrupted as stopped:  # the command it names would go on with this teacher alone
                    if accelerator.is_main_process:
                        folder.begin(recipe, manifest(fingerprint=recipe.fingerprint()))
                    raise Interrupted(f"stopped while teacher {name} was trained, {_go_on(folder, world)}") from stopped
        checkpoints[name] = str(place.best)
        accelerator.wait_for_everyone()
    return prepare_teachers(recipe, own, classes, ready=prepared, checkpoints=checkpoints)


def teacher_recipe(recipe: Recipe, name: str, output: Path) -> Recipe:
    """The recipe by which a teacher is trained: the student's data and schedule, labels only.

    What `teachers.NAME.train` gives takes the place of the recipe's own setting.
    """
    settings = recipe.teachers[name]
    train = settings.train or TeacherTraining()
    content = recipe.model_dump(mode="json")
    options = dict(settings.options)
    if train.drop_path is not None:
        options["drop_path_rate"] = train.drop_path
    content["name"] = f"{recipe.name}-{name}"
    content["teachers"], content["loss"], content["advice"] = {}, {}, {}
    content["data"]["views"] = None  # views recur for the sake of stored advice
    content["optim"]["token_lr"] = 1.0  # of the student's tokens
    content["student"] = {
        "model": settings.model,
        "options": options,
        "small_stem": settings.small_stem,
        "pretrained": settings.pretrained,
        "checkpoint": settings.checkpoint,
    }
    given = train.model_dump(mode="json", exclude_none=True)
    if train.epochs is not None:  # a shorter schedule warms up for the same part of it
        given.setdefault("warmup_epochs", recipe.schedule.warmup_epochs * train.epochs / recipe.schedule.epochs)
    for part, keys in {
        "schedule": ("epochs", "warmup_epochs"),
        "optim": ("lr", "weight_decay", "batch_size"),
    }.items():
        content[part] |= {key: given[key] for key in keys if key in given}
    if train.augment is not None:
        content["data"]["augment"] = given["augment"]
    for key in ("mean", "std", "image_size"):
        if getattr(settings, key) is not None:
            content["data"][key] = getattr(settings, key)
    content["run"] |= {
        "output": str(output),
        "seed": train.seed if train.seed is not None else recipe.run.seed,
    }
    return recipe_from(content, where=f"teachers.{name}.train")
