"""What one would do instead of training a student: linear probes on the models that a run starts from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from ..checkpoints.build import build_student, takes_tokens
from ..checkpoints.model_file import read_header, save_model, weights_file
from ..data.sources.base import ImageSource
from ..data.views.augment import preserved_generators
from ..errors import CoadviseError, ModelError, RecipeError, out_of_memory
from ..evaluation.features import classifiers
from ..evaluation.probe import as_classifier, images_per_s, images_to_see, linear_probe, with_head
from ..evaluation.several_probe import SeveralProbeFit, probe_of_several
from ..models.stated import Stated, stated
from ..models.students import as_student, classifier_of
from ..models.teachers import FrozenTeacher
from ..names import ALL_HEADS, TOP1
from ..recipe.address import address
from ..recipe.schema import Advice, Data, Loss, Recipe
from ..recipe.teacher import teacher_recipe
from ..run.folder import RunFolder
from ..run.result import Baselines, Probe, SeveralProbe
from ..system.progress import Display

STUDENT, LABELS = "student", "labels"
Sources = tuple[ImageSource, ImageSource]
"""Training and validation images."""


def require_names(recipe: Recipe, names: Container[str]) -> None:
    """Refuse names of teachers and tokens under which a run's result or its folder holds something else.

    Raises:
        RecipeError: there is such a name.
    """
    taken = {} if recipe.loss.tokens == "single" else {ALL_HEADS: "the mean of all outputs"}
    if {*recipe.run.baselines} - {LABELS} and (recipe.student.pretrained or recipe.student.checkpoint):
        taken[STUDENT] = "the linear probe of what the student starts from"
    if LABELS in recipe.run.baselines:
        taken[LABELS] = "the student without its teachers (run.baselines=labels)"
    for name, what in taken.items():
        if name in names:
            raise RecipeError(f"'{name}' is the name of {what} here; give the teacher or token another one")


def measure_baselines(
    recipe: Recipe,
    folder: RunFolder,
    sources: Sources,
    student: nn.Module,
    loaded: Mapping[str, FrozenTeacher],
    own: Container[str],
    accelerator: Accelerator,
    display: Display,
) -> Baselines | None:
    """Probe the models that the run starts from, once for a run; None where there is nothing to measure.

    The main process works, and tells the others. Nothing is drawn from the generators of the training.

    Args:
        student: on the device.
        own: names of the teachers that were given from Python.
    """
    wanted = list(_wanted(recipe, loaded, own, folder))
    if not wanted:
        return None
    found: list[Baselines | None] = [None]
    if accelerator.is_main_process:
        path = folder.baselines / "measured.json"
        # Those of another start that had saved nothing, or was to measure others, are measured anew.
        if not (folder.last.is_file() and path.is_file() and _covers(Baselines.read(path), wanted)):
            with preserved_generators():
                _measured(recipe, wanted, sources, student, loaded, accelerator.device, display).write(path)
        found = [Baselines.read(path)]
    return found[0] if accelerator.num_processes == 1 else broadcast_object_list(found)[0]


def _covers(known: Baselines, wanted: Sequence[_Start]) -> bool:
    probed = {*(one.of for one in known.probes), *(one.of for one in known.several)}
    return {one.name for one in wanted} <= probed | {*known.failed}


@dataclass(frozen=True)
class _Start:
    """A model that the run starts from.

    Attributes:
        make: gives the recipe of the model alone.
        place: file for the model with its probe; None for one of another place or from Python, which no recipe of ours
            makes again.
        teacher: the model, where it is not trained on.
    """

    name: str
    make: Callable[[], Recipe]
    place: Path | None
    teacher: FrozenTeacher | None = None


def _wanted(
    recipe: Recipe, loaded: Mapping[str, FrozenTeacher], own: Container[str], folder: RunFolder
) -> Iterator[_Start]:
    asked = {*recipe.run.baselines} - {LABELS}
    if not asked:
        return
    alone = recipe.model_copy(update={"teachers": {}, "loss": Loss(), "advice": Advice()})
    place = lambda name: folder.baselines / name / "best.safetensors"
    if recipe.student.pretrained or recipe.student.checkpoint:
        # Of a ViT that others have trained only the class output counts; a CiT's weights have its tokens.
        tokens = recipe.tokens() if takes_tokens(recipe.student.model) else None
        student = recipe.student.model_copy(update={"tokens": tokens})
        yield _Start(STUDENT, lambda: alone.model_copy(update={"student": student}), place(STUDENT))
    for name, teacher in loaded.items():
        settings = None if name in own else recipe.teachers.get(name)
        if settings is None or address(settings.model):
            if settings is not None or "probe" in asked:
                yield _Start(name, lambda: alone, None, teacher)
        elif settings.train is None:
            yield _Start(name, partial(_frozen, recipe, name, place(name)), place(name), teacher)
        elif settings.pretrained or settings.checkpoint:
            yield _Start(name, partial(teacher_recipe, recipe, name, place(name).parent), place(name))


def _frozen(recipe: Recipe, name: str, place: Path) -> Recipe:
    """The recipe of a teacher that is not trained on: a file of ours says itself how its model is made."""
    settings, made = recipe.teachers[name], teacher_recipe(recipe, name, place.parent)
    header = read_header(weights_file(settings.checkpoint)) if settings.checkpoint else None
    if header is None or header.recipe.student.model != settings.model:
        return made
    tokens = header.recipe.tokens() if takes_tokens(settings.model) else None
    changes = {"tokens": tokens, "pretrained": False, "checkpoint": None}
    return made.model_copy(update={"student": header.recipe.student.model_copy(update=changes)})


def _measured(
    recipe: Recipe,
    wanted: list[_Start],
    sources: Sources,
    student: nn.Module,
    loaded: Mapping[str, FrozenTeacher],
    device: torch.device,
    display: Display,
) -> Baselines:
    probes: list[Probe] = []
    several: list[SeveralProbe] = []
    failed: dict[str, str] = {}
    models = {STUDENT: student, **{name: teacher.to(device) for name, teacher in loaded.items()}}
    speeds = {}
    for name, model in models.items():
        with suppress(CoadviseError, RuntimeError):  # a file may be made for batches of one size
            speeds[name] = images_per_s(model, recipe.data.image_size, device)
    for start in wanted:
        try:
            probe, speed = _probed(start, sources, device, display)
        except (CoadviseError, RuntimeError, MemoryError) as error:
            if not isinstance(error, CoadviseError) and not out_of_memory(error):
                raise
            failed[start.name] = str(error)
            display.say(f"no linear probe of {start.name}: {error}")
            continue
        speeds[f"probe {start.name}"] = speed
        what = f"linear probe on {probe.model} ({start.name}), what one would do instead"
        if isinstance(probe, SeveralProbe):
            several.append(probe)
            share = f"mAP {probe.mean_average_precision:.1%} on {probe.samples} validation images"
        else:
            probes.append(probe)
            share = f"right on {probe.right} of {probe.samples} validation images ({probe.accuracy:.1%})"
        display.say(f"{what}: {share}, in {probe.seconds:.0f} s")
    rounded = {name: round(speed, 1) for name, speed in speeds.items()}
    return Baselines(tuple(probes), rounded, failed, several=tuple(several))


def _probed(
    start: _Start, sources: Sources, device: torch.device, display: Display
) -> tuple[Probe | SeveralProbe, float]:
    """A probe, and the images per second of its model; the model is written with the probe as its last layer.

    Raises:
        CoadviseError: there can be none.
    """
    classes, recipe = sources[0].class_names, start.make()
    settings = recipe.student
    if start.teacher is None:
        model = build_student(settings, settings.tokens or {}, len(classes), recipe.data.image_size)
    else:
        classifiers(as_student(start.teacher.model))  # what has no last layer may be no module that can be copied
        model = as_student(copy.deepcopy(start.teacher.model))
    model, data = model.to(device).eval(), _data_for(model, start, recipe)
    ask = probe_of_several if data.labels == "several" else linear_probe
    with display.bar(f"linear probe of {start.name}", images_to_see(sources)) as bar:
        found = ask(model, sources, data, device=device, advance=bar.advance)
    if isinstance(found, SeveralProbeFit):
        metrics, replaced = {"map/class": found.mean_average_precision}, with_head(model, found.head, len(classes))
    else:
        metrics = {TOP1: found.right / found.samples}
        replaced = as_classifier(model, found.fitted, len(classes))
    if replaced and start.place is not None:
        own = recipe.model_copy(update={"data": data})
        start.place.parent.mkdir(parents=True, exist_ok=True)
        save_model(start.place, model, own, classes, weights="student", epoch=0, metrics=metrics)
    facts: dict[str, Any] = {
        "of": start.name, "model": settings.model if start.place else type(classifier_of(model)).__name__,
        "samples": found.samples, "train": found.train, "image_size": data.image_size, "features": found.features,
        "strength": found.strength, "expected": found.expected,
        "parameters": sum(p.numel() for p in model.parameters()), "seconds": found.seconds,
    }  # fmt: skip
    speed = images_per_s(model, data.image_size, device)
    if isinstance(found, SeveralProbeFit):
        return SeveralProbe(mean_average_precision=found.mean_average_precision, **facts), speed
    return Probe(right=found.right, **facts), speed


def _data_for(model: nn.Module, start: _Start, recipe: Recipe) -> Data:
    """The size and normalisation that a model was made for, in place of the student's.

    Raises:
        ModelError: it wants oblong images.
    """
    settings, data, teacher = recipe.student, recipe.data, start.teacher
    header = read_header(weights_file(settings.checkpoint)) if settings.checkpoint and start.place else None
    says: Stated | FrozenTeacher = stated(classifier_of(model)) if teacher is None else teacher
    mean, std = says.mean, says.std
    wanted = says.image_size if isinstance(says, FrozenTeacher) else says.size
    if teacher is None and header is not None:
        mean, std, wanted = header.recipe.data.mean, header.recipe.data.std, wanted or header.recipe.data.image_size
    size = wanted[0] if isinstance(wanted, tuple) else wanted
    if isinstance(wanted, tuple) and wanted[0] != wanted[1]:
        raise ModelError(f"it wants images of {wanted[0]}×{wanted[1]}, and features are of square ones")
    if size is None and start.place and not settings.small_stem:
        published = getattr(classifier_of(model), "pretrained_cfg", None) or {}
        size = max(data.image_size, *published.get("input_size", (0,))[-1:])
    return data.model_copy(
        update={"mean": mean or data.mean, "std": std or data.std, "image_size": size or data.image_size}
    )
