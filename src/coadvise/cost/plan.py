"""Cost of a whole run, with live teachers and with stored advice, estimated from a few measured steps."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Literal

import torch
from torch import Tensor

from ..advice.layout import Layout
from ..advice.profile import ProfileSums
from ..advice.record import RecordFormat
from ..advice.request import CacheRequest, views_of
from ..checkpoints.build import build_student
from ..checkpoints.teachers import build_teacher
from ..data.loader import TrainLoader
from ..data.sources.base import ImageSource
from ..data.sources.unlabelled import labelled_part, open_for_training
from ..errors import RecipeError
from ..models.students import student_tokens
from ..models.teachers import Teachers
from ..recipe.loss import needs_all
from ..recipe.schema import Recipe
from ..recipe.teacher import teacher_recipe
from ..run.folder import RunFolder
from ..system.devices import DTYPES, choose_device, resolve_precision
from ..system.progress import QUIET, Display
from ..training.student import make_objective
from .step import StepCost, step_cost

VIEWS = (10, 25, 50)
TOPS = (5, 10, 20, 50)
# Cosine between the gradients from all logits and from the k largest that counts as the same direction.
GOOD = 0.99
# Batches that make the teachers' profiles here; a cache takes more, which brings the cosines nearer to one.
PROFILE_BATCHES = 4


@dataclasses.dataclass(frozen=True)
class CacheCost:
    """Cost of training from a cache: its size, seconds to write it, and students from which on it is cheaper."""

    views: int
    bytes: int
    write_s: float
    students: float


@dataclasses.dataclass(frozen=True)
class TrainingCost:
    """Steps and seconds of a training, as the input and the device allow."""

    steps: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class RunCost:
    """Seconds of one student's training, with live teachers and with stored advice, and what a cache costs.

    Attributes:
        teachers: what it costs to train the teachers that are trained before the student, and are not yet.
        cosines: k → cosine of the gradients of the advice at initialisation, for every k that takes less room than
            all logits; None while teachers are to be trained, none where the loss needs all of them.
        recommended: k to keep, or all logits; None without `cosines`.
    """

    step: StepCost
    steps: int
    live_s: float
    cached_s: float
    teachers: dict[str, TrainingCost]
    ways: list[CacheCost]
    cosines: dict[int, float] | None
    recommended: int | Literal["all"] | None


def plan_run(recipe: Recipe, *, rounds: int = 3, display: Display = QUIET) -> RunCost:
    """Measure a few steps of a recipe and work out the whole.

    Raises:
        CoadviseError: settings, data and models that do not fit each other.
    """
    if recipe.schedule.time is not None:
        raise RecipeError(
            "a plan says how long some epochs take; give schedule.epochs=N in place of schedule.time (`coadvise train` "
            "says how many fit into a time before it begins)"
        )
    sources = open_for_training(recipe.data, recipe.teachers, display.say_once)
    source = sources[0]
    live_advice = recipe.advice.model_copy(update={"source": "live"})  # whatever the recipe says: both are compared
    cost = step_cost(recipe.model_copy(update={"advice": live_advice}), sources, rounds=rounds, display=display)
    images, step = len(source), cost.whole
    teachers = sum(seconds for name, seconds in cost.parts.items() if name.startswith("teacher "))
    live = _training_cost(recipe, cost, source, step)
    cached = _training_cost(recipe, cost, source, max(step - teachers, 0.0))
    first = {}
    for name, folder in _untrained(recipe).items():
        own = teacher_recipe(recipe, name, folder.path)
        own_source = labelled_part(source)
        own_cost = step_cost(own, (own_source, sources[1]), rounds=rounds, display=display)
        first[name] = _training_cost(own, own_cost, own_source, own_cost.whole)
    classes = len(source.class_names)
    cosines: dict[int, float] | None = None
    recommended: int | Literal["all"] | None = None
    if recipe.teachers and needs_all(recipe.loss):
        recipe = recipe.model_copy(update={"advice": recipe.advice.model_copy(update={"top_k": None})})
        cosines, recommended = {}, "all"
    elif recipe.teachers and (cosines := gradient_cosines(recipe, source)) is not None:
        recommended = min((top for top, cosine in cosines.items() if cosine >= GOOD), default=classes)
    record = CacheRequest.of(recipe).record(classes)
    ways = []
    for views in sorted({*(v for v in VIEWS if v < recipe.schedule.epochs), views_of(recipe.data, recipe.schedule)}):
        size = len(recipe.teachers) * Layout(images, views, record).bytes
        write = views * images * _with_input(recipe, cost, source, teachers) / cost.batch_size
        saved = live.seconds - cached.seconds
        ways.append(CacheCost(views, size, write, write / saved if saved > 0 else float("inf")))
    return RunCost(cost, live.steps, live.seconds, cached.seconds, first, ways, cosines, recommended)


def _with_input(recipe: Recipe, cost: StepCost, source: ImageSource, compute: float) -> float:
    """Seconds of a step that computes for so long: the input is made meanwhile, where there are loader processes."""
    beside = recipe.data.workers > 0 and not TrainLoader(source, recipe.data, 1).stays
    return max(cost.parts["input"], compute) if beside else cost.parts["input"] + compute


def _training_cost(recipe: Recipe, cost: StepCost, source: ImageSource, compute: float) -> TrainingCost:
    steps = recipe.schedule.epochs * (len(source) // recipe.optim.batch_size)
    return TrainingCost(steps, steps * recipe.optim.accumulate * _with_input(recipe, cost, source, compute))


def _untrained(recipe: Recipe) -> dict[str, RunFolder]:
    """Teachers that are still to be trained, and the folders of their runs."""
    folders = {name: RunFolder.of(recipe).teacher(name) for name, one in recipe.teachers.items() if one.train}
    return {name: folder for name, folder in folders.items() if not folder.finished}


def gradient_cosines(recipe: Recipe, source: ImageSource) -> dict[int, float] | None:
    """Cosine between the advice's gradients of the student, from all of the logits and from the k largest.

    At initialisation, over one batch of the training set. None where a teacher is still to be trained: what random
    weights say tells nothing.
    """
    if _untrained(recipe):
        return None
    classes = len(source.class_names)
    loaded = {}
    for name, settings in recipe.teachers.items():
        if settings.train is not None:
            best = str(RunFolder.of(recipe).teacher(name).best)
            settings = settings.model_copy(update={"checkpoint": best, "pretrained": False, "train": None})
        loaded[name] = build_teacher(name, settings, source.class_names)
    device = choose_device(recipe.run.device)
    dtype = DTYPES[resolve_precision(recipe.run.precision, device.type == "cpu")]
    teachers = Teachers(loaded, input_mean=recipe.data.mean, input_std=recipe.data.std, may_be_none=True).to(device)
    torch.manual_seed(recipe.run.seed)
    student = (
        build_student(recipe.student, recipe.tokens(), classes, recipe.data.image_size, add=recipe.adds_tokens)
        .to(device)
        .train()
    )
    tokens = student_tokens(student, recipe.data.image_size, device)
    objective = make_objective(recipe.loss, tokens, loaded, teachers.known())
    size = min(recipe.optim.batch_size // recipe.optim.accumulate, len(source), 256)
    data = recipe.data.model_copy(update={"workers": 0})
    records = [one for one in (RecordFormat(classes, top) for top in TOPS if top < classes) if not one.dense]
    profiled = any(record.profile_bytes for record in records)
    count = 1 + (PROFILE_BATCHES if profiled else 0)
    batches = itertools.islice(TrainLoader(source, data, size, device=device).epoch(0), count)
    batch = next(batches)
    sums = {name: ProfileSums(classes) for name in loaded} if profiled else {}
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        advice = teachers(batch.images)
        logits = student.forward_tokens(batch.images)  # type: ignore[operator]
        for other in batches:
            for name, z in teachers(other.images).items():
                sums[name].add(z)
    profiles = {name: one.profile().to(device) for name, one in sums.items()}
    parameters = [p for p in student.parameters() if p.requires_grad]

    def gradient(said: dict[str, Tensor]) -> Tensor:
        terms = objective(logits, said, batch.target)
        advised = sum(objective.weights.get(name, 1.0) * terms[name] for name in said)
        found = torch.autograd.grad(advised, parameters, retain_graph=True, allow_unused=True)  # type: ignore[arg-type]
        return torch.cat([g.float().flatten() for g in found if g is not None])

    exact = gradient(advice)
    cosines = {}
    for record in records:
        cut = gradient({name: record.decode(record.encode(z), profiles.get(name)) for name, z in advice.items()})
        cosines[record.top] = float(torch.cosine_similarity(exact, cut, dim=0))
    return cosines
