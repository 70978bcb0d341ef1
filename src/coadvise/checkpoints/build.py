"""From settings to a student and to teachers."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timm.models import get_pretrained_cfg, is_model
from torch import nn

from ..errors import ModelError
from ..models import cit
from ..models.advised import add_tokens
from ..models.factory import build_model
from ..models.students import as_student
from ..models.teachers import FrozenTeacher, class_count_message, index_by_name
from ..recipe.schema import Student as StudentSettings
from ..recipe.schema import Teacher as TeacherSettings
from .bounds import local, within
from .loading import load_checkpoint, stored_classes
from .model_file import Header, read_header


def takes_tokens(model: str) -> bool:
    """Whether a model of that name has advised tokens. `transformer_tiny` is the class token alone."""
    return model.split(".")[0] in cit.default_cfgs


def build_student(
    settings: StudentSettings,
    tokens: Mapping[str, str | None],
    classes: int,
    image_size: int,
    *,
    add: bool = False,
    section: str = "student",
) -> nn.Module:
    """A student with `forward_tokens`; its weights come from the global generator or from its checkpoint.

    Args:
        tokens: advised tokens, name → bias, for a model that takes them.
        image_size: side of the images in pixels.
        add: add the tokens to a ViT of timm, too; see `models.advised`.
        section: where the user's recipe has these settings, for messages.

    Raises:
        ModelError: unknown model or option, or tokens for a model that takes none.
        CheckpointError: weights that do not fit.
    """
    options: dict[str, Any] = dict(settings.options)
    if takes_tokens(settings.model):
        options.setdefault("teachers", dict(tokens))
        add = False
    model = _built(settings, options, classes, image_size)
    if settings.checkpoint:
        load_checkpoint(
            model, settings.checkpoint, new_classifier=True, weights=settings.checkpoint_weights,
            setting=f"{section}.checkpoint_weights",
        )  # fmt: skip
    if add and tokens:
        try:
            return add_tokens(model, tokens)
        except ModelError as error:
            raise ModelError(f"student {settings.model}: {error} (loss.tokens=single), or choose a ViT") from error
    return as_student(model)


def _built(
    settings: StudentSettings | TeacherSettings, options: Mapping[str, Any], classes: int, image_size: int | None
) -> nn.Module:
    return build_model(
        settings.model, classes, image_size=image_size, small=settings.small_stem, pretrained=bool(settings.pretrained),
        options=options,
    )  # fmt: skip


def build_teacher(name: str, settings: TeacherSettings, class_names: Sequence[str]) -> FrozenTeacher:
    """A teacher from published weights or a checkpoint.

    A checkpoint of ours records its model's options, stem, image size and normalisation; they hold unless `settings`
    say otherwise. It also names its classes: those decide, whatever their order. With an index map, the teacher keeps
    all of its own classes.

    Args:
        class_names: of the data.

    Raises:
        ModelError, CheckpointError: weights, options or classes that do not fit.
    """
    header = read_header(settings.checkpoint) if settings.checkpoint else None
    if header is not None:
        settings = _as_recorded(settings, header)
    elif takes_tokens(settings.model):
        settings = settings.model_copy(update={"options": {"teachers": {}, **settings.options}})
    classes, own_classes = len(class_names), 0 if header is None else len(header.classes)
    if settings.classes is None and header is not None:
        index = index_by_name(name, header.classes, class_names)
        settings = settings.model_copy(update={"classes": index})
    if settings.classes is None:
        own_classes = classes
    elif len(settings.classes) != classes:
        raise ModelError(
            f"teachers.{name}.classes has {len(settings.classes)} entries, the data has {classes} classes; "
            "give one teacher index for each class of the data"
        )
    else:
        # With an index map the teacher keeps its own classes, at least as many as the map needs.
        published = is_model(settings.model) and get_pretrained_cfg(settings.model, allow_unregistered=True)
        own_classes = own_classes or max(published.num_classes if published else 1000, max(settings.classes) + 1)
    try:
        with contextlib.nullcontext() if header is None else within(Path(str(settings.checkpoint))):
            model = _built(settings, settings.options, own_classes, settings.image_size)
    except ModelError as error:
        if header is None:
            raise
        raise ModelError(f"teacher {name}, as {settings.checkpoint} and the recipe describe it: {error}") from error
    if settings.checkpoint:
        weights, setting = settings.checkpoint_weights, f"teachers.{name}.checkpoint_weights"
        stored = stored_classes(settings.checkpoint, model, weights, setting)
        if stored is not None and stored != own_classes:
            if settings.classes is None:
                raise ModelError(f"{settings.checkpoint}: {class_count_message(name, stored, classes)}")
            model = _built(settings, settings.options, stored, settings.image_size)
        load_checkpoint(model, settings.checkpoint, weights=weights, setting=setting)
    return FrozenTeacher(
        model, mean=settings.mean, std=settings.std, image_size=settings.image_size, classes=settings.classes
    )


def _as_recorded(settings: TeacherSettings, header: Header) -> TeacherSettings:
    """Settings completed by what the checkpoint says of its model."""
    recipe = header.recipe
    recorded: dict[str, Any] = {
        "options": dict(settings.options),
        "mean": settings.mean or recipe.data.mean,
        "std": settings.std or recipe.data.std,
        "image_size": settings.image_size or recipe.data.image_size,
    }
    if recipe.student.model == settings.model:
        student = local(recipe.student, header.built_as, Path(str(settings.checkpoint)))
        settings = settings.model_copy(update={"model": student.model})
        recorded["options"] = {**student.options, **settings.options}
        recorded["small_stem"] = settings.small_stem or recipe.student.small_stem
    if takes_tokens(settings.model):
        recorded["options"].setdefault("teachers", recipe.tokens())
    return settings.model_copy(update=recorded)
