"""From a recipe to its student and its teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.models import create_model, get_pretrained_cfg, is_model
from torch import nn

from ..errors import ModelError
from ..models import cit, rednet, students
from ..models.factory import build_model
from ..models.students import as_student
from ..models.teachers import FrozenTeacher, class_count_message
from ..recipe.reading import recipe_from
from ..recipe.schema import Recipe, guess_bias
from ..recipe.schema import Teacher as TeacherSettings
from .loading import load_checkpoint, stored_classes
from .model_file import read_header


def model_names() -> list[str]:
    """Names of coadvise's own models."""
    return sorted({*cit.default_cfgs, *rednet.default_cfgs, *students.default_cfgs})


def parameter_count(model: str) -> int:
    """Parameters of a model with the classes it is made for; no weights are made."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in create_model(model).parameters())


def takes_tokens(model: str) -> bool:
    """Whether a model of that name has advised tokens. `transformer_tiny` is the class token alone."""
    return model.split(".")[0] in cit.default_cfgs


def build_student(recipe: Recipe, classes: int) -> nn.Module:
    """The student of a recipe, with `forward_tokens`; weights by the global generator or its checkpoint.

    Raises:
        ModelError: unknown model or option, or tokens for a model that takes none.
        CheckpointError: weights that do not fit.
    """
    settings = recipe.student
    options: dict[str, Any] = dict(settings.options)
    if takes_tokens(settings.model):
        options.setdefault("teachers", recipe.tokens())
    elif settings.tokens:
        raise ModelError(
            f"student.tokens: {settings.model} has no advised tokens; choose a CiT model, or leave tokens out"
        )
    elif recipe.loss.tokens == "own" and recipe.teachers:
        raise ModelError(f"loss.tokens=own: {settings.model} has no advised tokens; use single, or a CiT model")
    model = build_model(
        settings.model,
        classes,
        image_size=recipe.data.image_size,
        small=settings.small_stem,
        pretrained=settings.pretrained,
        options=options,
    )
    if settings.checkpoint:
        load_checkpoint(model, settings.checkpoint, new_classifier=True)
    return as_student(model)


def build_teacher(name: str, settings: TeacherSettings, recipe: Recipe, classes: int) -> FrozenTeacher:
    """A teacher from published weights or a checkpoint.

    A checkpoint of ours records its model's options, stem, resolution and normalisation; they hold unless the recipe
    says otherwise. With an index map, the teacher keeps all of its own classes.

    Raises:
        ModelError, CheckpointError: weights, options or classes that do not fit.
    """
    header = read_header(settings.checkpoint) if settings.checkpoint else {}
    recorded = (
        recipe_from(header["recipe"], where=f"the header of {settings.checkpoint}") if "recipe" in header else None
    )
    own_classes = classes
    if settings.classes is not None:
        if len(settings.classes) != classes:
            raise ModelError(
                f"teachers.{name}.classes has {len(settings.classes)} entries, the data has {classes} classes; "
                "give one teacher index for each class of the data"
            )
        own_classes = len(header.get("classes", ())) or published_classes(settings.model, settings.classes)
    options, small = dict(settings.options), settings.small_stem
    mean, std, image_size = settings.mean, settings.std, settings.image_size
    if recorded is not None:
        mean, std = mean or recorded.data.mean, std or recorded.data.std
        image_size = image_size or recorded.data.image_size
        if recorded.student.model == settings.model:
            options, small = {**recorded.student.options, **options}, small or recorded.student.small_stem
    if takes_tokens(settings.model):
        options.setdefault("teachers", recorded.tokens() if recorded is not None else {})

    def build(number: int) -> nn.Module:
        return build_model(
            settings.model, number, image_size=image_size, small=small, pretrained=settings.pretrained, options=options
        )

    model = build(own_classes)
    if settings.checkpoint:
        stored = stored_classes(settings.checkpoint, model)
        if stored is not None and stored != own_classes:
            if settings.classes is None:
                raise ModelError(f"{settings.checkpoint}: {class_count_message(name, stored, classes)}")
            model = build(stored)
        load_checkpoint(model, settings.checkpoint)
    return FrozenTeacher(model, mean=mean, std=std, image_size=image_size, classes=settings.classes)


def published_classes(model: str, classes: Sequence[int]) -> int:
    """Number of classes of a model's published weights; at least as many as an index map needs."""
    cfg = get_pretrained_cfg(model, allow_unregistered=True) if is_model(model) else None
    return max(cfg.num_classes if cfg is not None else 1000, max(classes) + 1)


def bias_of(settings: TeacherSettings) -> str | None:
    """Bias of a teacher, as declared or by its model's name."""
    return settings.bias or guess_bias(settings.model)


def describe_teachers(recipe: Recipe, teachers: Mapping[str, FrozenTeacher]) -> dict[str, dict[str, Any]]:
    """Model, bias and parameters of every teacher, for results."""
    described = {}
    for name, member in teachers.items():
        settings = recipe.teachers.get(name)
        described[name] = {
            "model": settings.model if settings else type(member.model).__name__,
            "bias": bias_of(settings) if settings else recipe.tokens().get(name),
            "parameters": sum(p.numel() for p in member.model.parameters()),
        }
    return described
