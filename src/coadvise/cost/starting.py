"""`coadvise init`: from a look at a data set to a recipe that fits it, this machine and a time."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shlex
import time
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch
from torch import nn

from ..checkpoints.build import takes_tokens
from ..checkpoints.naming import NamedFile, named_file
from ..data.sources.base import ImageSource
from ..data.sources.opening import open_sources
from ..data.survey import Duplicates, Survey, find_duplicates, survey
from ..errors import DataError, NoWeights, RecipeError
from ..evaluation.probed import probed_teacher
from ..models.advised import why_no_tokens
from ..models.bias import bias_of
from ..models.factory import whole_patches
from ..models.hub import require_reachable
from ..models.stated import Stated, stated
from ..models.timm_names import published_cfg
from ..recipe.commented import commented
from ..recipe.data import IMAGENET_MEAN, IMAGENET_STD, Data
from ..recipe.reading import apply_setting, recipe_from, validated
from ..run.provenance import cpu_name
from ..system.clock import epochs_in_words, short_time
from ..system.devices import choose_device
from ..system.progress import Display
from .fitting import FEWEST, FittedProposal, asked_for, fit_proposal
from .proposal import DataFacts, GivenStudent, GivenTeacher, image_size, propose, teacher_size

PRETRAINED = "efficientnet_lite0"
"""Light network whose published weights are asked for where none are given."""
STUDENTS = {
    "cpu": ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", 96),
    "cuda": ("vit_small_patch16_224.augreg_in21k_ft_in1k", 224),
}
"""Transformer whose published weights are asked for on a device, and the side of the images that it affords, about:
patches have to fill them."""
SMALL = 64
"""Shorter side in pixels below which photographs tell a network for larger ones little."""


ENOUGH = 200
"""Validation images from which on an accuracy is known to a few points."""
UNEVEN = 3
"""Times as many images as the smallest class has, from which on the largest makes classes uneven."""


_SAYING_NOTHING = {"csv", "folder", "hf", "parquet", "tar", "torchvision", "train", "wds"}  # parts of sources
_ENDING = re.compile(r"\.(csv|parquet|tar|tsv|txt)$")


@dataclass(frozen=True)
class Looked:
    """A data set that was looked at: its training and its validation images."""

    data: Data
    sources: tuple[ImageSource, ImageSource]
    surveys: tuple[Survey, Survey]
    duplicates: Duplicates


@dataclass(frozen=True)
class Proposal:
    """A recipe.

    Attributes:
        text: with its comments.
        notes: sentences for the user.
        run: folder of the run.
    """

    text: str
    notes: list[str]
    run: str


def name_of(source: str) -> str:
    """Name of a run on a source: the last part of its path that says something, in letters that any shell takes."""
    place = os.path.abspath(source) if os.path.isdir(source) else source.split(":image=")[0]
    said = ""
    for part in re.split(r"[/\\:]+", place):
        plain = unicodedata.normalize("NFKD", part).encode("ascii", "ignore").decode()
        word = re.sub(r"[^A-Za-z0-9_-]+", "-", _ENDING.sub("", plain))[:60].strip("-_")
        said = said if not word or word in _SAYING_NOTHING else word
    return said or "mine"


def look_at(source: str, settings: Sequence[str], images: int, display: Display) -> Looked:
    """Open a source and look at its images.

    Args:
        settings: `key=value`; those of `data` count.
        images: of each split that are looked at, at most, classes in balance.

    Raises:
        CoadviseError: a source that cannot be opened, or with a single class; settings that are none.
        DataError: no image of a split can be read.
    """
    given = {key: value for key, value in asked_for(settings).items() if key.startswith("data.")}
    content = {key.removeprefix("data."): value for key, value in given.items() if key.count(".") == 1}
    data = validated(Data, {"source": source, **content}, "the settings", list(given))
    sources = open_sources(data, display.say_once)
    surveys = []
    for word, one in zip(("training", "validation"), sources, strict=True):
        count = min(len(one), images)
        with display.bar(f"looking at {word} images", count) as bar:
            surveys.append(survey(word, one, None if count == len(one) else count, bar.advance))
        if not len(surveys[-1].looked):
            first = next(iter(surveys[-1].unreadable.values()))
            raise DataError(f"none of the {word} images can be read, the first one because {first}")
    train, validation = surveys
    return Looked(data, sources, (train, validation), find_duplicates(surveys))


def facts_of(looked: Looked) -> DataFacts:
    """What a proposal depends on."""
    train, validation = looked.surveys
    counts = train.counts
    return DataFacts(
        source=looked.data.source,
        train=len(train.source),
        validation=len(validation.source),
        classes=len(counts),
        fewest=int(counts.min()),
        most=int(counts.max()),
        side=int(np.median(train.sizes.min(axis=1))),
        unreadable=len(train.unreadable) + len(validation.unreadable),
    )


def propose_recipe(
    looked: Looked,
    target: Path,
    weights: Path,
    settings: Sequence[str],
    checkpoint: str | None,
    student_checkpoint: str | None,
    started: float,
    minutes: float,
    display: Display,
) -> Proposal:
    """A recipe for a data set, with its epochs fitted to the time.

    Args:
        target: file of the recipe, whose name the run gets.
        weights: where a teacher's file goes, if one has to be made.
        settings: `key=value` that replace what is proposed.
        checkpoint: weights of a pretrained teacher, see `named_file`.
        student_checkpoint: those of a student.
        started: when the time began, on the monotonic clock.
        minutes: from then to the end of the training.

    Raises:
        CoadviseError: settings, weights and data that do not fit each other.
    """
    facts = facts_of(looked)
    chosen = choose_device()
    device: Literal["cpu", "cuda"] = "cuda" if chosen.type == "cuda" else "cpu"
    student, said = _student(device, student_checkpoint, facts.side)
    size = image_size(facts.side, device).image if student is None else student.image_size
    asked = asked_for(settings)
    size = asked.get("data.image_size") or size
    # As the recipe will have it: what is loaded sees images as recipe `finetune` has them.
    crop = asked.get("data.eval_crop") or (1.0 if student is None else Data.model_fields["eval_crop"].default)
    want = _Want(looked, weights, size, crop, chosen, display)
    with _removed_after_failure(weights):
        teacher, notes = _teacher(want, checkpoint)
        notes = [*said, *notes]
        proposed = propose(facts, device, teacher, target.stem, student)
        fitted = fit_proposal(proposed, settings, looked.sources, started + 60 * minutes, display)
    notes += [*_of_data(facts), *_cost(fitted, time.monotonic() - started)]
    head = [
        f"A co-advised student for {facts.source}: proposed by `coadvise init`",
        f"data: {facts.train:,} training and {facts.validation:,} validation images of {facts.classes:,} classes, "
        f"{facts.fewest:,}{'' if facts.fewest == facts.most else f' to {facts.most:,}'} of each in training",
        f"cost: {_cost_words(fitted)} on {_machine(device)}",
        f"command: {shlex.join(['coadvise', 'train', str(target)])}",
    ]
    run = fitted.recipe.run.output or f"runs/{fitted.recipe.name}"
    return Proposal(commented(head, fitted.settings), notes, run)


@contextlib.contextmanager
def _removed_after_failure(made: Path) -> Iterator[None]:
    """Remove a file that was not there before, and that nothing names after a failure."""
    try:
        yield
    except BaseException:
        made.unlink(missing_ok=True)
        raise


def require_sound(settings: Sequence[str], source: str, checkpoint: str | None, student_checkpoint: str | None) -> None:
    """Refuse settings and weights that cannot be used, before images are looked at; settings of teachers come later.

    Raises:
        RecipeError, CheckpointError: see `recipe_from` and `named_file`; or a student that takes no advised tokens.
    """
    content: dict[str, Any] = {"name": "x", "data": {"source": source}}
    given = [apply_setting(content, text) for text in settings if not text.strip().startswith("teachers")]
    recipe_from(content, "the settings", given)
    if checkpoint is not None:
        named_file(checkpoint)
    if student_checkpoint is not None:
        model = named_file(student_checkpoint).model
        if "loss.tokens" not in asked_for(settings) and (reason := _why_no_student(model)):
            raise RecipeError(
                f"--student-checkpoint {student_checkpoint}: {reason}; give weights of a ViT of timm's, or those of a "
                "teacher with --checkpoint"
            )


def _why_no_student(model: str) -> str:
    """Why a network of that name takes no advised tokens; empty where it does, or where only its weights tell."""
    if takes_tokens(model) or not timm.is_model(model) or (bare := _without_weights(model)) is None:
        return ""
    return why_no_tokens(bare)


def _without_weights(model: str) -> nn.Module | None:
    """A model of that name on the meta device; None where it cannot be made there."""
    try:
        with torch.device("meta"):
            return timm.create_model(model)
    except Exception:  # third-party code, some of which needs data to be made
        return None


@dataclass(frozen=True)
class _Want:
    """What a pretrained teacher is made for.

    Attributes:
        path: of its file, where a probe has to be fitted first.
        size: side of the student's images.
        crop: part of an image that its evaluation looks at.
    """

    looked: Looked
    path: Path
    size: int
    crop: float
    device: torch.device
    display: Display


def _student(
    device: Literal["cpu", "cuda"], checkpoint: str | None, shorter: int
) -> tuple[GivenStudent | None, list[str]]:
    """A student with weights, and what is to be said of it; None where none can be had, or images are too small."""
    model, side = STUDENTS[device]
    if checkpoint is None and shorter < SMALL:
        return None, []
    if checkpoint is None:
        try:
            require_reachable(model, True)
        except NoWeights as error:
            return None, [
                f"no pretrained student: {error.why}",
                "so a small one starts from random weights, which learns far less from few images; give weights of a "
                "ViT of timm's with --student-checkpoint MODEL=FILE",
            ]
        return _of_others(model, None, side), []
    file = named_file(checkpoint)
    if file.header is not None:
        data, options = file.header.recipe.data, file.header.recipe.student.options
        return GivenStudent(file.model, str(file.path), options, data.image_size, data.mean, data.std), []
    return _of_others(file.model, str(file.path), side), []


def _of_others(model: str, checkpoint: str | None, side: int) -> GivenStudent:
    """A student with timm's weights: normalised as these want it, with images that its patches fill."""
    cfg, bare = published_cfg(model), _without_weights(model)
    says = Stated() if bare is None else stated(bare, ask_size=False)
    mean, std = (says.mean, says.std) if cfg is None else (cfg.mean, cfg.std)
    return GivenStudent(model, checkpoint, {}, _filled(bare, side), mean or IMAGENET_MEAN, std or IMAGENET_STD)


def _filled(bare: nn.Module | None, side: int) -> int:
    """A side from this one on that the patches of a model fill."""
    return side if bare is None else whole_patches(bare, side)


def _teacher(want: _Want, checkpoint: str | None) -> tuple[GivenTeacher | None, list[str]]:
    """A pretrained teacher, and what is to be said of it; None where none can be had."""
    if checkpoint is not None:
        return _given(want, named_file(checkpoint))
    try:
        require_reachable(PRETRAINED, True)
    except NoWeights as error:
        return None, [
            f"no pretrained teacher: {error.why}",
            "so two small teachers are trained from random weights first, which learn little from few images; give "
            "weights of a network of timm's with --checkpoint MODEL=FILE",
        ]
    return _probed(want, PRETRAINED, None)


def _given(want: _Want, file: NamedFile) -> tuple[GivenTeacher, list[str]]:
    classes = want.looked.sources[0].class_names
    if file.header is not None and set(file.header.classes) == set(classes):
        size = file.header.recipe.data.image_size
        return GivenTeacher(file.model, bias_of(file.model), str(file.path), None, False, size), []
    return _probed(want, file.model, file)


def _probed(want: _Want, model: str, file: NamedFile | None) -> tuple[GivenTeacher, list[str]]:
    if file is not None and file.header is not None:
        size = file.header.recipe.data.image_size
    else:
        size = _filled(_without_weights(model), teacher_size(want.size, "cpu" if want.device.type == "cpu" else "cuda"))
    # Which images cannot be read has been told.
    data = want.looked.data.model_copy(update={"image_size": want.size, "eval_crop": want.crop, "on_error": "skip"})
    found = probed_teacher(
        model, file, want.looked.sources, data, size, want.path, device=want.device, display=want.display
    )
    of = f"{found.samples} validation images" + (" (a part, its classes in balance)" if found.part else "")
    note = (
        f"a linear probe on {model}'s features is right on {found.accuracy:.1%} of {of}: "
        f"it becomes the teacher ({want.path}), and is what the student has to be measured by"
    )
    whole = None if found.part else found.accuracy
    return GivenTeacher(found.model, bias_of(found.model), str(want.path), whole, True, size), [note]


def _of_data(facts: DataFacts) -> Iterator[str]:
    """What a user should know of the data before a result is read."""
    if facts.validation < ENOUGH:
        spread = 100 * 0.5 / facts.validation**0.5  # at most, of a share
        yield (
            f"{facts.validation} validation images tell an accuracy to about ±{spread:.0f} points only; give more, or "
            "hold out a larger part of the training images where they come from these (data.val_fraction=0.3)"
        )
    if facts.most > UNEVEN * facts.fewest:
        yield (
            f"the classes are uneven ({facts.fewest:,} to {facts.most:,} training images): look at the results of each "
            "class, not at the accuracy alone"
        )


def _machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} cores of {cpu_name()}"


def _cost_words(fitted: FittedProposal) -> str:
    first = "".join(f"teacher {name} {short_time(seconds)}, " for name, seconds in fitted.teachers.items())
    student = f"{epochs_in_words(fitted.epochs)} of the student {short_time(fitted.student)}"
    return f"about {short_time(fitted.seconds)} ({first}{student})"


def _cost(fitted: FittedProposal, spent: float) -> list[str]:
    notes = [f"the run will take {_cost_words(fitted)}"]
    if fitted.epochs < FEWEST:
        minutes = math.ceil((spent + fitted.enough) / 60)
        notes.append(
            f"{epochs_in_words(fitted.epochs)} {'is' if fitted.epochs == 1 else 'are'} too little to learn much: give "
            f"--minutes {minutes} for {FEWEST}, or use fewer images (data.train_size=N), with another --output or "
            "after removing what was written"
        )
    return notes
