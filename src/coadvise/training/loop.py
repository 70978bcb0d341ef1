"""One epoch of training, the evaluation after it, and what is logged of both."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from accelerate.utils import broadcast, gather_object
from torch import nn

from ..advice.identity import images_digest
from ..data.views.finish import Batch
from ..errors import DataError, Interrupted, RunError
from ..evaluation.evaluate import evaluate
from ..evaluation.tasks import Collects
from ..run.answers import Answers
from ..run.several import SeveralAnswers
from ..system.progress import Bar
from .checkpoint import diverged, require_finite
from .processes import Stop
from .setup import Setup
from .state import Counters, State
from .trained import Losses


def train_epoch(setup: Setup, state: State, epoch: int, stop: Stop, bar: Bar) -> None:
    """Train from the current step to the end of its epoch.

    Raises:
        Interrupted: a stop was asked for; the state is saved.
        RunError: a loss or weights that are not finite.
    """
    accelerator, count, steps = setup.accelerator, state.count, setup.loader.steps_per_epoch
    every = setup.run.checkpoint_every
    setup.model.train()
    waiting, norms = setup.waiting if epoch < setup.schedule.head_epochs else ((), ())
    for norm in norms:
        norm.eval()
    setup.tracker.start_clock(count.step)
    started = time.monotonic()
    for batch in setup.loader.epoch(epoch, start=count.step % steps):
        setup.scheduler.step_update(count.step)
        _add_to_window(state, setup.trained.names, train_step(setup, state, batch, waiting))
        count.skipped += [name for name in batch.skipped if name not in count.skipped]
        if not accelerator.sync_gradients:
            continue
        count.step += 1
        if state.ema is not None:
            state.ema.update(state.student)
        if count.step % setup.log_every == 0 or count.step == setup.total_steps:
            bar.note(_log(setup, state, epoch))
        bar.advance()
        due = every is not None and count.step % every == 0
        if count.step % steps and (stop.requested_at(count.step) or due):
            count.seconds, started = count.seconds + time.monotonic() - started, time.monotonic()
            setup.checkpoint.save(state)
            if stop.requested_at(count.step):
                raise stopped(setup, state)
    count.seconds += time.monotonic() - started


def train_step(setup: Setup, state: State, batch: Batch, waiting: Sequence[nn.Parameter] = ()) -> Losses:
    """The losses of one micro-batch and their gradients; the last one of an update changes the weights.

    Nothing here, nor around it until the next log line, waits for the device.

    Args:
        waiting: parameters that do not learn yet.
    """
    accelerator, optim = setup.accelerator, setup.optim
    with accelerator.accumulate(setup.model):
        losses = setup.model(batch.images, setup.advise(batch), batch.target, setup.kept(batch))
        accelerator.backward(losses.total)  # divides the sum of all terms by the number of micro-batches
        for parameter in waiting if accelerator.sync_gradients else ():
            parameter.grad = None  # the optimizer passes it over, and keeps nothing of it
        if accelerator.sync_gradients and optim.clip:
            accelerator.clip_grad_norm_(setup.parameters, optim.clip)
        if accelerator.sync_gradients:
            state.optimizer.step()
            state.optimizer.zero_grad()
    return losses


def out_of_patience(setup: Setup, count: Counters) -> bool:
    """Whether the last `schedule.patience` evaluations, including one that is due now, were no better than the best.

    This follows from the epoch and the best epoch alone, so that a resumed run decides alike; and so do all processes,
    since they have the same metrics.
    """
    patience, every = setup.schedule.patience, setup.run.eval_every
    epoch = count.step // setup.loader.steps_per_epoch
    return patience is not None and epoch // every - count.best_epoch // every >= patience


def stopped(setup: Setup, state: State) -> Interrupted:
    """The message of a run that was stopped and saved, with the command that goes on."""
    how = setup.folder.how_to_resume(setup.accelerator.num_processes)
    return Interrupted(f"stopped after step {state.count.step} of {setup.total_steps}, {how}")


def _add_to_window(state: State, names: Sequence[str], losses: Losses) -> None:
    """Add a micro-batch's losses to the window of the next log line, without waiting for the device."""
    keys = [name if name == "total" else f"term.{name}" for name in names]
    values = losses.values.double().unbind()
    sums = [state.window.setdefault(key, torch.zeros_like(value)) for key, value in zip(keys, values, strict=True)]
    torch._foreach_add_(sums, values)
    state.count.window += 1


def _log(setup: Setup, state: State, epoch: int) -> str:
    """Write the means since the last line, over all processes, and say them for the bar; only here losses are read.

    Raises:
        RunError: the loss is not finite.
    """
    accelerator, count, names = setup.accelerator, state.count, list(state.window)
    sums = accelerator.reduce(torch.stack([state.window[name] for name in names]), "sum")
    batches = count.window * accelerator.num_processes
    means = dict(zip(names, (sums / batches).tolist(), strict=True))  # type: ignore[operator, union-attr]
    state.window, count.window = {}, 0
    terms = {name.removeprefix("term."): value for name, value in means.items() if name != "total"}
    bad = [name for name, value in terms.items() if value != value or abs(value) == float("inf")]
    if bad:
        raise RunError(diverged(f"the loss of '{bad[0]}' is", count.step, setup.folder.path))
    first = state.optimizer.param_groups[0]
    lr = first["lr"] / first.get("lr_scale", 1.0)
    speed = setup.tracker.images_per_s(count.step, setup.optim.batch_size)
    setup.tracker.train(count.step, epoch, lr, means["total"], terms, speed)
    losses = " ".join(f"{name} {value:.3f}" for name, value in terms.items())
    return f"epoch {epoch + 1}/{setup.schedule.epochs}  loss {losses}  lr {lr:.1e}  {speed:.0f} img/s"


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: metrics by name of the student and, if there are any, of its averaged weights.

    Attributes:
        weights: which of the two answer better, `student` or `ema`.
        skipped: validation images that could not be read.
    """

    metrics: dict[str, float]
    ema: dict[str, float] | None
    weights: Literal["student", "ema"] = "student"
    skipped: int = 0

    @property
    def better(self) -> dict[str, float]:
        """Metrics of the better weights."""
        return self.ema if self.weights == "ema" and self.ema is not None else self.metrics


def validate(setup: Setup, state: State, epoch: int) -> Evaluation:
    """Evaluate the student and its averaged weights after `epoch` completed epochs, and log it.

    The teachers take part in the last evaluation only, or in one that is the last if it brings no better answer: they
    never change, and the last is the one that is reported.

    Raises:
        RunError: weights that are not finite.
        DataError: no validation image can be read.
    """
    require_finite(state, setup.folder.path)
    if setup.accelerator.num_processes > 1:  # each has gathered the BatchNorm statistics of its own images
        for module in (state.student, *([] if state.ema is None else [state.ema.module])):
            for buffer in module.buffers():
                broadcast(buffer, from_process=0)
    last = epoch == setup.schedule.epochs or out_of_patience(setup, state.count)
    answer = setup.validation.answer
    collected = setup.validation.task.collect() if last else None
    metrics, skipped = evaluate_on(setup, state.student, with_teachers=last, collected=collected)
    if collected is not None:  # before anything says that this evaluation is done
        answers = collected_answers(setup, collected)
        if setup.accelerator.is_main_process:
            answers.write(setup.folder.answers)
    ema = evaluate_on(setup, state.ema.module, with_teachers=last)[0] if state.ema is not None else None
    setup.tracker.evaluation(state.count.step, epoch, metrics, ema)
    averaged = ema is not None and ema.get(answer, 0.0) > metrics.get(answer, 0.0)
    found = Evaluation(metrics, ema, "ema" if averaged else "student", skipped)
    if skipped and (last or epoch <= setup.run.eval_every):  # said at the first evaluation, and at the end
        setup.display.say(f"{skipped} unreadable validation images were left out")
    task = setup.validation.task
    decides = f"{task.decides}/"
    shares = [f"{name.split('/')[1]} {value:.1%}" for name, value in found.better.items() if name.startswith(decides)]
    setup.display.say(f"epoch {epoch}: {task.title}{', '.join(shares)}" + (" (ema)" if averaged else ""))
    return found


def collected_answers(setup: Setup, collected: Collects) -> Answers | SeveralAnswers:
    """What was answered for each validation image, over all processes."""
    source, main = setup.validation.source, setup.accelerator.is_main_process
    found = collected.answers(images_digest(source) if main else "", source.class_names, gather_object)
    return dataclasses.replace(found, answering=setup.validation.answering)


def evaluate_on(
    setup: Setup, module: nn.Module, with_teachers: bool, collected: Collects | None = None, precise: bool = False
) -> tuple[dict[str, float], int]:
    """Metrics on the validation images, and how many of these cannot be read.

    Args:
        collected: where the answers to single images are kept, if they are wanted.
        precise: in float32, whatever the run's precision.

    Raises:
        DataError: none of the images can be read.
    """
    accelerator, validation, training = setup.accelerator, setup.validation, module.training
    module.eval()
    kept = validation.task.collect() if collected is None else collected
    with nullcontext() if precise else accelerator.autocast():
        metrics, skipped = evaluate(
            module.forward_tokens,  # type: ignore[arg-type]
            validation.loader,
            tokens=validation.tokens,
            device=accelerator.device,
            teachers=validation.teachers if with_teachers else None,
            teacher_names=validation.teachers.names if with_teachers else (),
            reduce=lambda sums: accelerator.reduce(sums, "sum"),  # type: ignore[arg-type,return-value]
            keep=kept.add,
            task=validation.task,
        )
    module.train(training)
    if skipped == len(validation.source):
        raise DataError("none of the validation images can be read; repair them, or give another data.val_source")
    return metrics | kept.metrics(validation.source.class_names, gather_object), skipped
