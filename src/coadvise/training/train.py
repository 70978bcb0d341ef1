"""Training of students and teachers, on one process or many.

Read `train` first, then `loop.train_epoch`: a batch comes decoded, augmented and mixed from `data/`, the teachers
advise on it, Eq. 1 gives the terms, and one update follows. A resumed run continues bit for bit on the CPU: order and
augmentation follow from the step, and everything else that decides the next step is in `last.safetensors` (`State`).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping

from accelerate import Accelerator
from torch import nn

from ..advice.cache import kept_weights, require_fitting
from ..advice.identity import open_kept
from ..advice.request import CacheRequest
from ..checkpoints.model_file import save_model
from ..data.loader import TrainLoader
from ..data.sources.base import ImageSource
from ..data.sources.unlabelled import labelled_part, open_for_training
from ..errors import Interrupted, RecipeError, out_of_memory, require
from ..models.answers import Answer, unstated
from ..models.teachers import FrozenTeacher, check_teachers_given, require_size
from ..recipe.schema import Recipe
from ..recipe.teacher import teacher_recipe
from ..run.fitted import as_fitted_before, fitted_facts
from ..run.folder import RunFolder
from ..run.provenance import manifest
from ..run.result import RunResult
from ..run.tracking import require_trackers
from ..system.clock import epochs_in_words
from ..system.locks import one_at_a_time
from ..system.progress import Display
from .advising import stored_or_live
from .baselines import measure_baselines, require_names
from .choosing import NOTE
from .failures import explained
from .fitting import fit_epochs
from .labels import asks_for_labels, with_labels_alone, without_teachers
from .loop import Evaluation, out_of_patience, stopped, train_epoch, validate
from .memory import too_large
from .outcome import run_result, teacher_facts
from .processes import Stop, on_main_process, start_processes
from .published import settled
from .setup import Setup, origin_of, prepare
from .state import State
from .student import new_student, normalised_otherwise, require_own_weights
from .teachers import built_teacher, check_teachers, given_teacher, on_device


def train(
    recipe: Recipe,
    *,
    resume: bool = False,
    student: nn.Module | None = None,
    teachers: Mapping[str, nn.Module | Answer] | None = None,
    display: Display | None = None,
) -> RunResult:
    """Train the teachers that the recipe says to train, then its student.

    Args:
        recipe: describes the whole run; its folder is `run.output`, or `runs/NAME`.
        resume: continue an unfinished run: the same recipe, the same number of processes.
        student: own module in place of the recipe's, with `forward_tokens` or a single head.
        teachers: own modules or functions by name, beside or in place of the recipe's.

    Returns:
        The content of `result.json`.

    Raises:
        CoadviseError: bad input; nothing is lost or overwritten.
        Interrupted: Ctrl-C or SIGTERM; the state is saved.
    """
    name = repr(recipe) if isinstance(recipe, str) else "NAME"
    require(recipe, Recipe, "train's recipe", f"write coadvise.train(coadvise.load_recipe({name}))", RecipeError)
    folder = RunFolder.of(recipe)
    with explained(folder):
        return _train(recipe, folder, resume, student, teachers or {}, display)


def _train(
    recipe: Recipe,
    folder: RunFolder,
    resume: bool,
    student: nn.Module | None,
    teachers: Mapping[str, nn.Module | Answer],
    display: Display | None,
    section: str = "student",
    told: bool = False,
) -> RunResult:
    """One run. What `section` is, see `new_student`; with `told`, what can be said of the student has been."""
    require_trackers(recipe.run.trackers)
    check_teachers_given(teachers)
    require_own_weights(student, teachers)
    accelerator = start_processes(recipe.run, recipe.optim)
    display = display or Display(quiet=not accelerator.is_main_process)
    instead = asks_for_labels(recipe, student is not None, bool(recipe.teachers or teachers))
    require_names(recipe, {*recipe.teachers, *teachers, *recipe.tokens()})
    own = [f"teachers.{name}" for name in teachers] + ([] if student is None else ["student"])
    recipe = settled(recipe, folder, accelerator, display, own)
    recipe = as_fitted_before(recipe, folder)
    with on_main_process(accelerator, folder.checked(recipe, resume)):
        pass
    names = [*recipe.teachers, *teachers]
    with accelerator.local_main_process_first():  # a data set is downloaded once
        sources = open_for_training(recipe.data, names, display.say_once, several=True)
    if instead:  # what can fail, fails before anything is trained
        world, accumulate = accelerator.num_processes, recipe.optim.accumulate
        labelled = labelled_part(sources[0])
        TrainLoader(labelled, recipe.data, recipe.optim.batch_size, world=world, accumulate=accumulate)
    if recipe.advice.source == "cache" and not names:
        raise RecipeError(f"advice=cache, but recipe {recipe.name} has no teachers; add some, or leave it out")
    if recipe.advice.change != "none" and not names:
        raise RecipeError(
            f"advice.change={recipe.advice.change}, but recipe {recipe.name} has no teachers; add some, or leave it out"
        )
    if recipe.loss.gate == "harder" and len(recipe.advice.names(names)) < 2:
        advise = "one advises" if names else "there is none"
        mend = "add another" if recipe.advice.change != "mean" else "leave out advice.change=mean"
        raise RecipeError(f"loss.gate=harder chooses between teachers, and {advise}; {mend}, or leave it out")
    # Before hours go into teachers.
    open_kept(recipe.data, sources[0], display.say_once)
    if recipe.advice.source == "cache":
        require_fitting(CacheRequest.of(recipe), sources[0])
    given, fitted = None if student is None else type(student).__name__, None
    if recipe.schedule.time is not None:
        fitted = fit_epochs(recipe, folder, sources, accelerator, student, teachers, display)
        recipe = fitted.applied(recipe)
    classes = len(sources[0].class_names)
    resumes, world = resume and folder.last.is_file(), accelerator.num_processes
    student = new_student(recipe, classes, world, student, names, section, resumes=resumes)
    if given is None and not (resumes or told) and (warning := normalised_otherwise(recipe, student, section)):
        display.say(warning)
    with on_main_process(accelerator, folder.owned(recipe, resume)) as locked:
        if locked is False:
            display.say(f"{folder.path} is on a file system without locks; take care not to start this run twice")
        if fitted is not None and accelerator.is_main_process:  # before its teachers: another start measures no more
            folder.begin(recipe, manifest(fingerprint=recipe.fingerprint(), fitted=dataclasses.asdict(fitted)))
        result = _train_student(recipe, folder, sources, accelerator, student, given, teachers, display)
        if instead:
            result = _train_labels_alone(recipe, folder, result, accelerator, display)
        if accelerator.is_main_process:
            folder.finish(result)
    return result


def _train_student(
    recipe: Recipe,
    folder: RunFolder,
    sources: tuple[ImageSource, ImageSource],
    accelerator: Accelerator,
    student: nn.Module,
    given: str | None,
    own: Mapping[str, nn.Module | Answer],
    display: Display,
) -> RunResult:
    """Train the teachers and then the student of a run that this call owns.

    Args:
        given: the student's class if it came from Python.
        own: teachers that did.
    """
    loaded = load_teachers(recipe, folder, sources, accelerator, own, display)
    ready = on_device(loaded, recipe.data, recipe.run.fuse_teachers, accelerator, display)
    checks = check_teachers(ready, recipe.data, recipe.run, recipe.optim, sources[1], accelerator, display)
    advise = stored_or_live(recipe, sources[0], loaded, ready, accelerator, display)
    origin = origin_of(recipe, sources, loaded)
    setup, state = prepare(recipe, folder, sources, accelerator, student, ready, origin, advise, display)
    with setup:
        if folder.last.is_file():
            setup.checkpoint.restore(state, setup.total_steps)
            if accelerator.is_main_process:
                folder.rewind(state.count.step)
            display.say(f"resuming {folder.path} at step {state.count.step} of {setup.total_steps}")
        elif accelerator.is_main_process:
            facts = {NOTE: setup.trained.form, **fitted_facts(folder, recipe)}
            folder.begin(recipe, manifest(fingerprint=recipe.fingerprint(), **facts))
        labelled = (labelled_part(sources[0]), sources[1])
        instead = measure_baselines(recipe, folder, labelled, state.student, loaded, own, accelerator, display)
        last = _train_epochs(recipe, setup, state, given)
        advisers = teacher_facts(recipe, loaded, checks, sources[1].labels, own=own)
        return run_result(recipe, setup, state, last, sources, advisers, given, instead)


def _train_epochs(recipe: Recipe, setup: Setup, state: State, given: str | None) -> Evaluation | None:
    """Train the remaining epochs and evaluate where the recipe says so; the last evaluation, None if none remained."""
    steps, epochs, count, last = setup.loader.steps_per_epoch, recipe.schedule.epochs, state.count, None
    with Stop(setup.accelerator) as stop, setup.display.bar(recipe.name, setup.total_steps, count.step) as bar:
        while count.step < setup.total_steps and not out_of_patience(setup, count):
            epoch = count.step // steps
            try:
                train_epoch(setup, state, epoch, stop, bar)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                raise too_large(setup, state, error) from None
            evaluate_now = (epoch + 1) % recipe.run.eval_every == 0 or epoch + 1 == epochs
            if evaluate_now:
                last = validate(setup, state, epoch + 1)
                _keep_best(recipe, setup, state, last, epoch + 1, given)
            stopping, every = stop.requested(), recipe.run.checkpoint_every
            due = every is not None and count.step % every == 0
            if evaluate_now or stopping or due or setup.checkpoint.old:
                setup.checkpoint.save(state)
            if stopping and count.step < setup.total_steps and not out_of_patience(setup, count):
                raise stopped(setup, state)
    return last


def _keep_best(recipe: Recipe, setup: Setup, state: State, found: Evaluation, epoch: int, given: str | None) -> None:
    """Write the better weights of an evaluation when they beat the best so far."""
    value, count = found.better[setup.validation.answer], state.count
    if value <= count.best:
        return
    count.best, count.best_epoch, count.best_weights = value, epoch, found.weights
    if setup.accelerator.is_main_process:
        module = state.ema.module if found.weights == "ema" and state.ema is not None else state.student
        classes = setup.loader.source.class_names
        save_model(
            setup.folder.best, module, recipe, classes, weights=found.weights, epoch=epoch, metrics=found.better,
            given=given,
        )  # fmt: skip


def load_teachers(
    recipe: Recipe,
    folder: RunFolder,
    sources: tuple[ImageSource, ImageSource],
    accelerator: Accelerator,
    own: Mapping[str, nn.Module | Answer],
    display: Display,
) -> dict[str, FrozenTeacher]:
    """Train the teachers that the recipe says to train, unless an earlier start has; then load all of them."""
    classes, world = sources[0].class_names, accelerator.num_processes
    # A cache keeps the teachers that were trained for it, whatever student it then serves.
    weights = kept_weights(CacheRequest.of(recipe)) if recipe.advice.source == "cache" else {}
    to_train = {
        name: teacher_recipe(recipe, name, folder.teacher(name).path)
        for name, settings in recipe.teachers.items()
        if settings.train is not None and name not in own and name not in weights
    }
    # What can fail, fails before the first of them is trained for hours.
    for one in (*to_train.values(), recipe):
        source = sources[0] if one is recipe else labelled_part(sources[0])
        TrainLoader(source, one.data, one.optim.batch_size, world=world, accumulate=one.optim.accumulate)
    for name, one in to_train.items():
        begun = folder.teacher(name).finished or folder.teacher(name).last.is_file()
        new_student(one, len(classes), world, None, (), f"teachers.{name}", resumes=begun)
    loaded = {name: given_teacher(name, model, classes) for name, model in own.items()}
    for name in (name for name, teacher in loaded.items() if unstated(teacher.model)):
        display.say(
            f"teacher {name} is a function: neither a resume nor a cache notices when it answers otherwise; give it an "
            "attribute `digest`, a text that changes with its answers"
        )
    for name in recipe.teachers:
        if name not in own and name not in to_train:
            loaded[name] = built_teacher(recipe, name, weights.get(name), classes)
    side = recipe.data.image_size
    for name, teacher in loaded.items():
        require_size(name, teacher, (side, side))
    for name, one in to_train.items():
        place = folder.teacher(name)
        # Several processes that share no group, such as those that write a cache, train a teacher once.
        alone = one_at_a_time(folder.teachers / f".{name}.lock")
        with alone if accelerator.is_main_process else contextlib.nullcontext():
            accelerator.wait_for_everyone()
            if place.finished:
                place.require_same(one)
            else:
                start = recipe.teachers[name].checkpoint
                from_file = f" from {start}; teachers.{name}.train=false takes it as it is" if start else ""
                display.say(
                    f"training teacher {name} ({one.student.model}, {epochs_in_words(one.schedule.epochs)}){from_file}"
                )
                try:
                    _train(one, place, place.last.is_file(), None, {}, display, f"teachers.{name}")
                except Interrupted as interrupted:  # the command it names would go on with this teacher alone
                    if accelerator.is_main_process:
                        facts = fitted_facts(folder, recipe)
                        folder.begin(recipe, manifest(fingerprint=recipe.fingerprint(), **facts))
                    raise _while(f"teacher {name} was trained", folder, world) from interrupted
        accelerator.wait_for_everyone()
        loaded[name] = built_teacher(recipe, name, place.best, classes)
    names = [name for name in recipe.teachers if name not in own]
    return {name: loaded[name] for name in (*names, *own)}


def _train_labels_alone(
    recipe: Recipe, folder: RunFolder, result: RunResult, accelerator: Accelerator, display: Display
) -> RunResult:
    """Train the student of a run without its teachers, unless an earlier start has; the result that knows of it."""
    one, place = without_teachers(recipe, folder, result.data.train, result.data.unlabelled)
    if place.finished:
        place.require_same(one)
    else:
        epochs = epochs_in_words(one.schedule.epochs)
        display.say(f"training the student on labels alone ({epochs}), to see what the advice adds")
        try:
            _train(one, place, place.last.is_file(), None, {}, display, told=True)
        except Interrupted as interrupted:
            raise _while("the student was trained on labels alone", folder, accelerator.num_processes) from interrupted
    accelerator.wait_for_everyone()
    return with_labels_alone(result, folder.answers, place)


def _while(what: str, folder: RunFolder, processes: int) -> Interrupted:
    """The message of a run that was stopped in one of those that lie inside it."""
    return Interrupted(f"stopped while {what}, {folder.how_to_resume(processes)}")
