"""From settings to a frozen teacher."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timm.models import is_model
from timm.models.deit import VisionTransformerDistilled
from torch import nn

from ..errors import CheckpointError, ModelError
from ..models.advised import add_tokens
from ..models.class_names import imagenet_classes, places_of
from ..models.elsewhere import Found
from ..models.from_onnx import open_onnx
from ..models.from_torchvision import open_torchvision
from ..models.from_transformers import open_transformers
from ..models.teachers import FrozenTeacher, class_count_message, index_by_name
from ..models.timm_names import published_cfg
from ..recipe.address import address
from ..recipe.schema import Teacher
from .bounds import local, within
from .build import from_settings, of_tokens, takes_tokens
from .loading import load_checkpoint, stored_classes
from .model_file import Header, read_header, weights_file
from .trained import load_trained


def build_teacher(name: str, settings: Teacher, class_names: Sequence[str]) -> FrozenTeacher:
    """A teacher from published weights, from a checkpoint, or from another place.

    A checkpoint of ours records its model's options, stem, image size and normalisation; they hold unless `settings`
    say otherwise. It also names its classes: those decide, whatever their order. With an index map, the teacher keeps
    all of its own classes.

    Args:
        class_names: of the data.

    Raises:
        ModelError, CheckpointError: weights, options or classes that do not fit.
    """
    if place := address(settings.model):
        return _elsewhere(name, settings, *place, class_names)
    if settings.checkpoint:
        settings = settings.model_copy(update={"checkpoint": str(_file_of(name, settings))})
    header = read_header(settings.checkpoint) if settings.checkpoint else None
    if header is not None:
        settings = _as_recorded(settings, header)
    elif takes_tokens(settings.model):
        settings = settings.model_copy(update={"options": {"teachers": {}, **settings.options}})
    classes, own_classes = len(class_names), 0 if header is None else len(header.classes)
    index: Sequence[int | None] | None = settings.classes
    if index is not None:
        _require_one_each(name, index, classes)
    elif header is not None:
        index = index_by_name(name, header.classes, class_names)
    elif settings.pretrained:
        index = _by_published_names(name, settings.model, class_names)
    if index is None:
        own_classes = classes
    else:
        # With an index map the teacher keeps its own classes, at least as many as the map needs.
        published = is_model(settings.model) and published_cfg(settings.model)
        needed = 1 + max(-1 if place is None else place for place in index)
        own_classes = own_classes or max(published.num_classes if published else 1000, needed)
    try:
        with contextlib.nullcontext() if header is None else within(Path(str(settings.checkpoint))):
            model = from_settings(settings, settings.options, own_classes, settings.image_size)
    except ModelError as error:
        if header is None:
            raise
        raise ModelError(f"teacher {name}, as {settings.checkpoint} and the recipe describe it: {error}") from error
    if settings.checkpoint:
        weights, setting = settings.checkpoint_weights, f"teachers.{name}.checkpoint_weights"
        stored = stored_classes(settings.checkpoint, model, weights, setting)
        if stored is not None and stored != own_classes:
            if index is None and (names := imagenet_classes(settings.model)) and len(names) == stored:
                index = index_by_name(name, names, class_names)
            if index is None:
                raise ModelError(f"{settings.checkpoint}: {class_count_message(name, stored, classes)}")
            model = from_settings(settings, settings.options, stored, settings.image_size)
        load_checkpoint(model, settings.checkpoint, weights=weights, setting=setting)
        model = _answering(model, header)
    return FrozenTeacher(model, mean=settings.mean, std=settings.std, image_size=settings.image_size, classes=index)


def _answering(model: nn.Module, header: Header | None) -> nn.Module:
    """A model of a file of ours, which answers as its run does: a distilled DeiT whose own token was advised by the
    head of its class token."""
    tokens = header.recipe.tokens() if header is not None and header.recipe.adds_tokens else {}
    if tokens and isinstance(model, VisionTransformerDistilled):
        return add_tokens(model, dict([*tokens.items()][:1]))
    return model


def _by_published_names(name: str, model: str, class_names: Sequence[str]) -> list[int | None] | None:
    """Index map of timm's published weights by ImageNet's names. Data with as many classes under other names is taken
    to have them in ImageNet's order."""
    own = imagenet_classes(model) if is_model(model) else None
    if own is None or (len(own) == len(class_names) and None in places_of(own, class_names)):
        return None
    return index_by_name(name, own, class_names)


def _require_one_each(name: str, index: Sequence[int | None], classes: int) -> None:
    if len(index) != classes:
        raise ModelError(
            f"teachers.{name}.classes has {len(index)} entries, the data has {classes} classes; "
            "give one teacher index for each class of the data"
        )


def _elsewhere(name: str, settings: Teacher, kind: str, place: str, class_names: Sequence[str]) -> FrozenTeacher:
    """A teacher of another place, which says itself how it is built, how it sees images, and what its classes are."""
    try:
        found = _found(kind, place, settings)
    except (ModelError, CheckpointError) as error:
        raise type(error)(f"teachers.{name}: {error}") from error
    mean, std = settings.mean or found.mean, settings.std or found.std
    index: Sequence[int | None] | None = settings.classes
    if mean is None or std is None:
        raise ModelError(
            f"teachers.{name}: {kind}:{place} does not say how it sees images; give teachers.{name}.mean and "
            f"teachers.{name}.std, of pixels from 0 to 1"
        )
    if index is not None:
        _require_one_each(name, index, len(class_names))
    elif found.classes is not None:
        index = index_by_name(name, found.classes, class_names)
    return FrozenTeacher(found.model, mean=mean, std=std, image_size=settings.image_size or found.size, classes=index)


def _found(kind: str, place: str, settings: Teacher) -> Found:
    if kind == "transformers":
        return open_transformers(place, given=settings.mean is not None and settings.std is not None)
    if kind == "onnx":
        return open_onnx(place, settings.image_size)
    if kind == "torchvision":
        return open_torchvision(place)
    trained = load_trained(place, several=True)
    side = trained.data.image_size
    return Found(trained.model, trained.data.mean, trained.data.std, (side, side), trained.classes)


def _file_of(name: str, settings: Teacher) -> Path:
    """The file of a teacher's checkpoint, which may be a run's folder.

    Raises:
        CheckpointError: a run of another model.
    """
    given, path = Path(str(settings.checkpoint)), weights_file(str(settings.checkpoint))
    header = read_header(path) if given.is_dir() else None
    if header is not None and header.recipe.student.model != settings.model:
        own = given / "teachers" / name
        hint = f"; its teacher {name} lies in {own}" if own.is_dir() else ""
        raise CheckpointError(
            f"{given} is the run of a {header.recipe.student.model}, teachers.{name} is a {settings.model}{hint}; "
            f"choose the run of a {settings.model}, or write teachers.{name}.model=run:{given}"
        )
    return path


def _as_recorded(settings: Teacher, header: Header) -> Teacher:
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
        recorded["options"] = {"teachers": recipe.tokens(), **of_tokens(recipe.student), **recorded["options"]}
    return settings.model_copy(update=recorded)
