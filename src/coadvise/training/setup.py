"""Set-up of a run: everything the loop needs, built and wrapped once before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from accelerate import Accelerator
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn

from ..advice.identity import kept_pixels
from ..data.loader import EvalLoader, TrainLoader
from ..data.sources.base import ImageSource, label_arrays
from ..evaluation.tasks import TASKS, Task
from ..models.compiling import plain_attention
from ..models.students import answering_output, student_tokens
from ..models.teachers import FrozenTeacher, Teachers
from ..recipe.schema import Optim, Recipe, Run, Schedule
from ..run.folder import RunFolder
from ..run.tracking import Tracker, trackers_of
from ..system.devices import autocast_dtype
from ..system.digests import digest
from ..system.progress import Display
from .changed import Advise, changed
from .checkpoint import RECIPE, Checkpoint
from .choosing import Place, choose, noted_form
from .gating import Choose, all_kept, kept_by_chance
from .optimizer import make_optimizer, make_scheduler, peak_lr
from .parts import still_norms, waiting_parts
from .processes import bare
from .state import State
from .student import make_apart, make_objective
from .teachers import eval_batch_size
from .trained import Trained

LOG_EVERY = 50
"""Updates between two log lines, where the recipe does not say and the run is long."""
LOG_LINES = 50
"""Of a short run, at least: fewer points are no curve."""


@dataclass(frozen=True)
class Validation:
    """What a student is evaluated on.

    Attributes:
        source: the images, of all processes.
        tokens: names of the student's outputs.
        answering: the output that answers at inference.
        task: what is measured.
    """

    loader: EvalLoader
    source: ImageSource
    tokens: tuple[str, ...]
    teachers: Teachers
    answering: str
    task: Task

    @property
    def answer(self) -> str:
        """The metric by which weights are better than others: that of the output which answers."""
        return f"{self.task.decides}/{self.answering}"


@dataclass(frozen=True)
class Setup:
    """What the loop needs. Nothing of it is replaced once it is prepared; what changes is in `State`.

    Attributes:
        trained: the student with its loss.
        model: the same, wrapped for its processes and precision; this is what is called.
        waiting: what learns only after `schedule.head_epochs`: parameters, and BatchNorm layers.
        kept: the images of a batch on which a teacher counts by chance.
    """

    accelerator: Accelerator
    optim: Optim
    schedule: Schedule
    run: Run
    trained: Trained
    model: nn.Module
    scheduler: Scheduler
    advise: Advise
    loader: TrainLoader
    validation: Validation
    folder: RunFolder
    checkpoint: Checkpoint
    tracker: Tracker
    display: Display
    waiting: tuple[Sequence[nn.Parameter], Sequence[nn.Module]] = ((), ())
    kept: Choose = all_kept

    @property
    def total_steps(self) -> int:
        """Updates of the whole run."""
        return self.schedule.epochs * self.loader.steps_per_epoch

    @property
    def log_every(self) -> int:
        """Updates between two log lines."""
        return self.run.log_every or min(LOG_EVERY, max(1, self.total_steps // LOG_LINES))

    @cached_property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """Of the model, in its order; to walk through all modules in every step takes longer than to clip gradients."""
        return tuple(self.model.parameters())

    def __enter__(self) -> Setup:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the loader processes and the trackers, and free the memory."""
        self.loader.close()
        self.validation.loader.close()
        self.tracker.close(failed=kind is not None)
        if self.trained.form == "graphs":
            self.trained.use("plain")
        self.accelerator.free_memory()


def prepare(
    recipe: Recipe,
    folder: RunFolder,
    sources: tuple[ImageSource, ImageSource],
    accelerator: Accelerator,
    student: nn.Module,
    teachers: Teachers,
    origin: Mapping[str, str],
    advise: Advise,
    display: Display,
) -> tuple[Setup, State]:
    """Build everything the loop needs.

    Args:
        student: from `new_student`.
        teachers: on the device.

    Raises:
        CoadviseError: settings, data and models that do not fit each other.
    """
    device, optim, world = accelerator.device, recipe.optim, accelerator.num_processes
    known, at_once = teachers.known(), optim.batch_size // world // optim.accumulate
    advise = changed(advise, recipe, known, sources[0], at_once, display)
    # From here on each process draws its own dropout and drop path.
    torch.manual_seed(recipe.run.seed + 1_000_003 * (accelerator.process_index + 1))
    student.to(device)
    plain_attention(student, device, autocast_dtype(accelerator))
    tokens = student_tokens(student, recipe.data.image_size, device)
    optimizer = make_optimizer(student, optim)
    place = {"rank": accelerator.process_index, "world": world}
    loader = TrainLoader(
        sources[0], recipe.data, optim.batch_size, **place, accumulate=optim.accumulate, device=device,
        compiled=recipe.run.compile is not False, kept=kept_pixels(recipe.data, sources[0]),
    )  # fmt: skip
    batch = eval_batch_size(recipe.run, optim, world)
    val_loader = EvalLoader(sources[1], recipe.data, batch, **place, device=device)
    advisers = recipe.advice.names(teachers.names)
    objective = make_objective(recipe.loss, tokens, advisers, known, loader.labelled, recipe.data.labels).on(device)
    still = still_norms(student, recipe.student.freeze_blocks)
    trained = Trained(student, objective, tokens, advisers, still, display.say, make_apart(recipe.loss, student))
    model, wrapped = accelerator.prepare(trained, optimizer)
    # Not before: several processes begin with the weights of the first, whatever student each of them was given.
    ema = ModelEmaV3(student, decay=optim.ema) if optim.ema else None
    answering, task = answering_output(student, tokens), TASKS[recipe.data.labels]
    trackers = trackers_of(recipe.run, display)
    setup = Setup(
        accelerator=accelerator,
        optim=optim,
        schedule=recipe.schedule,
        run=recipe.run,
        trained=trained,
        model=model,
        scheduler=make_scheduler(optimizer, recipe.schedule, loader.steps_per_epoch, peak_lr(optim)),
        advise=advise,
        loader=loader,
        validation=Validation(val_loader, sources[1], tokens, teachers, answering, task),
        folder=folder,
        checkpoint=Checkpoint(folder.last, accelerator, origin),
        tracker=Tracker(folder, recipe.name, active=accelerator.is_main_process, trackers=trackers),
        display=display,
        waiting=waiting_parts(student, recipe.schedule.head_epochs),
        kept=kept_by_chance(recipe.loss, recipe.data.seed, advisers, device),
    )
    _compile(recipe, setup, teachers)
    return setup, State(student, bare(wrapped), ema)


def _compile(recipe: Recipe, setup: Setup, teachers: Teachers) -> None:
    """Choose the form in which student and loss run, and compile the teachers with them."""
    accelerator, optim, loader = setup.accelerator, setup.optim, setup.loader
    size, world = recipe.data.image_size, accelerator.num_processes
    live = accelerator.device.type == "cuda" and recipe.advice.source == "live"
    place = Place(
        setting=recipe.run.compile,
        noted=noted_form(setup.folder),
        steps=setup.total_steps * optim.accumulate,
        shape=(optim.batch_size // (world * optim.accumulate), 3, size, size),
        classes=len(loader.source.class_names),
        graphs=world == optim.accumulate == 1 and accelerator.scaler is None,
        live=len(teachers) if live else 0,
        resumed=setup.folder.last.is_file(),
    )
    setup.model.train()
    form = choose(setup.trained, recipe.advice.names(teachers.names), accelerator, place, setup.display.say)
    if form != "plain" and live:
        with accelerator.autocast():
            for name, why in teachers.compile(place.shape).items():
                setup.display.say(f"teacher {name} is not compiled: {why}")


def origin_of(
    recipe: Recipe, sources: tuple[ImageSource, ImageSource], teachers: Mapping[str, FrozenTeacher]
) -> dict[str, str]:
    """Digest of a run's inputs: its recipe, classes, labels, and the teachers' weights as loaded."""
    train, val = sources
    return {
        RECIPE: recipe.fingerprint(),
        "classes": ", ".join(train.class_names),
        "training labels": f"{len(train)} ({digest(label_arrays(train))})",
        "validation labels": f"{len(val)} ({digest(label_arrays(val))})",
        **{f"weights of teacher {name}": digest(t.model.state_dict().values()) for name, t in teachers.items()},
    }
