"""One epoch of training, the evaluation after it, and what is logged of both."""

from __future__ import annotations

import shlex
import time

import torch
from accelerate.utils import broadcast
from torch import nn

from ..checkpoints.model_file import save_model
from ..errors import DataError, Interrupted, RunError
from ..evaluation.evaluate import evaluate
from ..losses import LossTerms, co_advise_loss
from ..run.folder import RunFolder
from ..system.progress import Bar, training_note
from .checkpoint import diverged, require_finite, save
from .job import Job
from .processes import Stop

# An epoch that is not evaluated is saved when the last checkpoint is older than this.
SAVE_SECONDS = 60.0


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
