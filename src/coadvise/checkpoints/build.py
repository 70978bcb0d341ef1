"""From settings to a student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..errors import ModelError
from ..models import cit
from ..models.advised import add_tokens
from ..models.factory import build_model
from ..models.students import as_student
from ..recipe.schema import Student as StudentSettings
from ..recipe.schema import Teacher as TeacherSettings
from .loading import load_added_tokens, load_checkpoint


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
        options |= of_tokens(settings)
        add = False
    if settings.checkpoint:  # whose weights take the place of published ones, which need not be had then
        settings = settings.model_copy(update={"pretrained": False})
    model = from_settings(settings, options, classes, image_size)
    weights, setting = settings.checkpoint_weights, f"{section}.checkpoint_weights"
    if settings.checkpoint:
        load_checkpoint(model, settings.checkpoint, new_classifier=True, weights=weights, setting=setting)
    if not (add and tokens):
        return as_student(model)
    try:
        student = add_tokens(model, tokens, **of_tokens(settings))
    except ModelError as error:
        raise ModelError(f"student {settings.model}: {error} (loss.tokens=single), or choose a ViT") from error
    if settings.checkpoint:
        load_added_tokens(student, settings.checkpoint, weights, setting)
    return student


def of_tokens(settings: StudentSettings) -> dict[str, Any]:
    """What a recipe says of all advised tokens, wherever they are."""
    given = {"separate": settings.separate, "read_at": dict(settings.read_at)}
    return {name: value for name, value in given.items() if value not in ("none", {})}


def from_settings(
    settings: StudentSettings | TeacherSettings, options: Mapping[str, Any], classes: int, image_size: int | None
) -> nn.Module:
    """The classifier that settings name, with these options; its weights are random or timm's.

    Raises:
        ModelError: unknown model or option, or weights that cannot be had.
    """
    return build_model(
        settings.model, classes, image_size=image_size, small=settings.small_stem, pretrained=bool(settings.pretrained),
        options=options,
    )  # fmt: skip
