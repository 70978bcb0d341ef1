"""Training: one loop for students and teachers, on one process or many.

Read `train` first, then `_train_epoch`: a batch comes decoded, augmented and mixed from `data/`, the teachers advise
on it, Eq. 1 gives the terms, and one update follows. A resumed run continues bit for bit on the CPU: order and
augmentation follow from the step, and everything else that decides the next step is in `last.safetensors`.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import nn

from .advice_cache import AdviceCache, cache_path, kept_weights, require_fitting
from .advice_writer import check_cache
from .build import teacher_recipe
from .data.sources import ImageSource, open_sources
from .errors import DataError, Interrupted, RunError
from .evaluate import evaluate
from .locks import one_at_a_time
from .losses import LossTerms, co_advise_loss
from .model_file import save_model
from .preparation import (
    Job,
    check_teachers,
    new_student,
    prepare,
    prepare_teachers,
    require_batches,
)
from .processes import Stop, start_processes
from .progress import Bar, Display, training_note
from .provenance import manifest
from .recipe import Recipe
from .resuming import diverged, gather_skipped, require_finite, restore, save
from .run_folder import RunFolder, read_metrics
from .teachers import FrozenTeacher, TeacherCheck

# An epoch that is not evaluated is saved when the last checkpoint is older than this.
SAVE_SECONDS = 60.0


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


def _train_epoch(job: Job, epoch: int, bar: Bar, stop: Stop) -> None:
    accelerator, recipe, count, steps = job.accelerator, job.recipe, job.count, job.loader.steps_per_epoch
    weights = {"class": recipe.loss.label_weight, **recipe.loss.weights}
    job.model.train()
    job.tracker.start_clock(count.step)
    started = time.monotonic()
    for batch in job.loader.epoch(epoch, start=count.step % steps):
        images, target = batch.images, batch.target
        job.scheduler.step_update(count.step)
        with accelerator.accumulate(job.model):
            terms = co_advise_loss(
                job.model(images), job.advise(batch), target, weights=weights, temperatures=recipe.loss.temperatures,
                kind=recipe.loss.advice, tokens=job.mode,
            )  # fmt: skip
            accelerator.backward(terms.total)  # divides the sum of all terms by the number of micro-batches
            if accelerator.sync_gradients and recipe.optim.clip:
                accelerator.clip_grad_norm_(job.model.parameters(), recipe.optim.clip)
            job.optimizer.step()
            job.optimizer.zero_grad()
        _remember(job, terms)
        count.skipped += [name for name in batch.skipped if name not in count.skipped]
        if not accelerator.sync_gradients:
            continue
        count.step += 1
        if job.ema is not None:
            job.ema.update(job.student)
        if count.step % recipe.run.log_every == 0 or count.step == job.total_steps:
            bar.advance(0, _log(job, epoch))
        bar.advance()
        if count.step % steps and (stop.requested(count.step) or _checkpoint_due(job)):
            count.seconds, started = count.seconds + time.monotonic() - started, time.monotonic()
            save(job)
            if stop.requested(count.step):
                raise Interrupted(_stopped(job))
    count.seconds += time.monotonic() - started


def _long_unsaved(job: Job) -> bool:
    """Whether the main process last saved a while ago: an epoch may take seconds or hours. Alike on all processes."""
    old = float(time.monotonic() - job.saved > SAVE_SECONDS and job.accelerator.is_main_process)
    return bool(job.accelerator.reduce(torch.tensor(old, device=job.accelerator.device), "sum").item() > 0)  # type: ignore[union-attr]


def _checkpoint_due(job: Job) -> bool:
    every = job.recipe.run.checkpoint_every
    return every is not None and job.count.step % every == 0


def _stopped(job: Job) -> str:
    return (
        f"stopped after step {job.count.step} of {job.total_steps}, {_go_on(job.folder, job.accelerator.num_processes)}"
    )


def _go_on(folder: RunFolder, processes: int) -> str:
    path = folder.path
    launcher = f"torchrun --nproc-per-node {processes} -m " if processes > 1 else ""
    words = ["coadvise", "train", str(path / "recipe.yaml"), f"run.output={path}", "--resume"]
    return f"everything is saved; go on with:\n  {launcher}{shlex.join(words)}"


def _remember(job: Job, terms: LossTerms) -> None:
    """Add a micro-batch's losses to the window of the next log line, without waiting for the device."""
    for name, value in {
        "total": terms.total,
        **{f"term.{name}": term for name, term in terms.items()},
    }.items():
        job.window[name] = job.window.get(name, 0) + value.detach().double()
    job.count.window += 1


def _log(job: Job, epoch: int) -> str:
    """Write the means since the last line, over all processes; the only place where losses are read.

    Raises:
        RunError: the loss is not finite.
    """
    names = list(job.window)
    sums = job.accelerator.reduce(torch.stack([job.window[name] for name in names]), "sum")
    count = job.count.window * job.accelerator.num_processes
    means = dict(zip(names, (sums / count).tolist(), strict=True))  # type: ignore[operator, union-attr]
    job.window, job.count.window = {}, 0
    terms = {name.removeprefix("term."): value for name, value in means.items() if name != "total"}
    bad = [name for name, value in terms.items() if value != value or abs(value) == float("inf")]
    if bad:
        raise RunError(diverged(f"the loss of '{bad[0]}' is", job))
    lr = job.optimizer.param_groups[0]["lr"]
    speed = job.tracker.images_per_s(job.count.step, job.recipe.optim.batch_size)
    job.tracker.train(job.count.step, epoch, lr, means["total"], terms, speed)
    return training_note(epoch, job.recipe.schedule.epochs, lr, speed, terms)


def _validate(job: Job, epoch: int) -> None:
    """Evaluate student and EMA; keep the better weights when they beat the best so far.

    The teachers take part in the last evaluation only: they never change, and it is the one that is reported.
    """
    last = epoch == job.recipe.schedule.epochs
    require_finite(job)
    _share_buffers(job)
    job.metrics = _evaluate(job, job.student, with_teachers=last)
    job.ema_metrics = _evaluate(job, job.ema.module, with_teachers=last) if job.ema is not None else None
    job.tracker.evaluation(job.count.step, epoch, job.metrics, job.ema_metrics)
    candidates = {"student": (job.metrics, job.student)}
    if job.ema is not None and job.ema_metrics is not None:
        candidates["ema"] = (job.ema_metrics, job.ema.module)
    averages = getattr(job.student, "inference", "") == "average" and len(job.tokens) > 1
    answer = "accuracy/average" if averages else "accuracy/class"
    weights = max(candidates, key=lambda name: candidates[name][0].get(answer, 0.0))
    metrics, module = candidates[weights]
    job.display.say(
        f"epoch {epoch}: "
        + ", ".join(f"{name.split('/')[1]} {value:.1%}" for name, value in metrics.items() if "accuracy" in name)
        + (" (ema)" if weights == "ema" else "")
    )
    if metrics[answer] > job.count.best:
        job.count.best, job.count.best_epoch, job.count.best_weights = metrics[answer], epoch, weights
        if job.accelerator.is_main_process:
            save_model(
                job.folder.best,
                module,
                job.recipe,
                job.class_names,
                weights=weights,
                epoch=epoch,
                metrics=metrics,
                given=job.given,
            )


def _evaluate(job: Job, module: nn.Module, with_teachers: bool) -> dict[str, float]:
    training = module.training
    module.eval()
    with job.accelerator.autocast():
        metrics, skipped = evaluate(
            module.forward_tokens,  # type: ignore[arg-type]
            job.val_loader,
            tokens=job.tokens,
            device=job.accelerator.device,
            teachers=job.teachers if with_teachers else None,
            teacher_names=job.teachers.names if with_teachers else (),
            reduce=lambda state: job.accelerator.reduce(state, "sum"),  # type: ignore[arg-type,return-value]
        )
    module.train(training)
    if skipped == job.val_size:
        raise DataError("none of the validation images can be read; repair them, or give another data.val_source")
    if skipped and not job.val_skipped:
        job.display.say(f"{skipped} unreadable validation images were left out")
    job.val_skipped = skipped
    return metrics


def _share_buffers(job: Job) -> None:
    """Give all processes the main one's BatchNorm statistics: each has gathered those of its own images."""
    if job.accelerator.num_processes > 1:
        for module in [job.student] + ([job.ema.module] if job.ema is not None else []):
            for buffer in module.buffers():
                broadcast(buffer, from_process=0)


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
