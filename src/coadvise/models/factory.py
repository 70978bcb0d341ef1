"""A model by its timm name, with errors that say how to fix them."""

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import timm
from timm.layers import PatchEmbed
from torch import nn

from ..errors import ModelError, NoWeights
from ..recipe.address import address
from .hub import require_reachable
from .stems import check_image_size
from .students import small_stem
from .timm_names import published_cfg


def build_model(
    name: str,
    num_classes: int,
    *,
    image_size: int | None = None,
    small: bool = False,
    pretrained: bool = False,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Create any timm model or one of ours.

    Args:
        name: timm name, optionally with the tag of its weights (`resnet18.a1_in1k`).
        num_classes: number of outputs.
        image_size: side of the images in pixels, for models that are made for one size; others ignore it.
        small: use the small-image stem (see `small_stem`).
        pretrained: download the published weights.
        options: further arguments of the model.

    Raises:
        ModelError: unknown name or option, sizes that do not fit, or weights that cannot be had.
    """
    require_name(name)
    if num_classes < 1:
        raise ModelError(f"model {name} needs at least one class, got {num_classes}")
    arguments: dict[str, Any] = {**(options or {}), "num_classes": num_classes}
    if image_size is not None and _has_fixed_size(name):
        arguments.setdefault("img_size", image_size)
    require_reachable(name, pretrained, options)
    model = _create(name, pretrained, arguments)
    if image_size is not None:
        _check_patches(name, model, image_size)
    return small_stem(model) if small else model


def require_name(name: str) -> None:
    """Refuse a name that no model has.

    Raises:
        ModelError: with the nearest names.
    """
    if name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) or timm.is_model(name):
        return
    if address(name):
        raise ModelError(f"{name} can be a teacher, no student: give a model's name, and its weights as a checkpoint")
    matches = difflib.get_close_matches(name, timm.list_models(), n=3)
    hint = f"did you mean {', '.join(matches)}?" if matches else "`coadvise models` lists the names"
    raise ModelError(f"no model is called {name!r}: {hint}")


def _has_fixed_size(name: str) -> bool:
    try:
        cfg = published_cfg(name)
    except RuntimeError as error:  # a tag that timm does not know
        raise ModelError(f"{error} List the tags with timm.list_pretrained({name.split('.')[0]!r})") from error
    return cfg is not None and bool(cfg.fixed_input_size)


def _create(name: str, pretrained: bool, arguments: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=pretrained, **arguments)
    except ModelError:
        raise
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown and unknown[1] == "img_size":  # made for any size after all
            return _create(name, pretrained, {k: v for k, v in arguments.items() if k != "img_size"})
        if unknown:
            raise ModelError(f"model {name} has no option {unknown[1]!r}: remove it or check its spelling") from error
        raise ModelError(f"model {name} cannot be made with {arguments}: {_first_line(error)}") from error
    # Options reach third-party code unchecked, which fails in its own ways.
    except Exception as error:
        # Hub and URL errors are OSErrors; timm reports missing weights and bad tags as RuntimeError.
        reason = _first_line(error)
        if pretrained and "No pretrained weights exist" in reason:
            raise NoWeights(
                f"{name} has no published weights", "set pretrained: false, or give a checkpoint"
            ) from error
        if pretrained:
            raise NoWeights(
                f"the published weights of {name} cannot be had ({reason})",
                "connect to the internet, set pretrained: false, or give a checkpoint file",
            ) from error
        raise ModelError(f"model {name} cannot be made with {arguments}: {reason}") from error


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return (
        text.splitlines()[0] if text and not isinstance(error, KeyError) else f"{type(error).__name__} {text}".strip()
    )


def whole_patches(model: nn.Module, side: int) -> int:
    """The next side of an image, in pixels, from this one on, that a model's patches fill."""
    patches = [side for module in _patching(model) if not module.dynamic_img_pad for side in module.patch_size]
    step = math.lcm(*patches)
    return -(-side // step) * step


def _patching(model: nn.Module) -> Iterator[PatchEmbed]:
    return (module for module in model.modules() if isinstance(module, PatchEmbed))


def _check_patches(name: str, model: nn.Module, image_size: int) -> None:
    # timm's PatchEmbed drops the pixels that do not fill a patch without a word.
    for module in _patching(model):
        try:
            check_image_size((image_size,) * 2, module.patch_size, padded=module.dynamic_img_pad)
        except ModelError as error:
            raise ModelError(f"model {name}: {error}") from error
