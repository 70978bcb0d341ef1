"""Any trained classifier, ready to be shown images: a run, a model file of ours, or what a model was exported to.

PyTorch is imported where a model needs it: ONNX and OpenVINO files do not.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from ..data.views.square import normalised
from ..errors import CheckpointError, DataError, one_line, require
from ..evaluation.prediction import Classifier
from ..recipe.data import IMAGENET_MEAN, IMAGENET_STD
from ..shapes import Float, UInt8
from ..system.files import lines_of, read_json
from .card import GIVE, Card, card_in
from .engines import SECTION, is_exported, open_exported

if TYPE_CHECKING:
    import torch

    from .parity import Logits

_USUAL_CROP = 0.875
_MEANT = "a run's folder, its best.safetensors, or what `coadvise export` wrote"


@dataclass(frozen=True)
class Told:
    """What is said of a model by whoever uses it, where its file does not say so itself.

    Attributes:
        classes: names, in the order of the logits.
        image_size: side of the square images in pixels.
        mean, std: per channel, of pixels in [0, 1]; by default ImageNet's.
        crop: share of the resized image's side that the middle which is seen has; 0.875 by default, as usual for
            ImageNet.
    """

    classes: tuple[str, ...] | None = None
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop: float | None = None


def load(
    path: str | os.PathLike[str], device: str | torch.device | None = "cpu", *, told: Told | None = None
) -> Classifier:
    """A trained model with its transform, the names of its classes and `predict`, in one line.

    Args:
        path: a run's folder, a model file of ours, or what was exported: a folder for timm, an ONNX file, an OpenVINO
            file or folder, a `.pt2`.
        device: where a model of PyTorch computes; None for a GPU where there is one.
        told: what a file of another program does not say of itself.

    Raises:
        CheckpointError: missing, damaged, or without what is needed to use it.
    """
    require(path, (str, os.PathLike), "load's path", f"give {_MEANT}", CheckpointError)
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"model {path} does not exist: give {_MEANT}")
    if (path / "config.json").is_file():
        return _timm_folder(path, device, told)
    if is_exported(path):
        return _exported(path, told)
    _refuse(told, path)
    from ..checkpoints.trained import load_trained
    from ..evaluation.inference import classifier

    return classifier(load_trained(path, _device(device), several=True))


def _device(device: str | torch.device | None) -> str | torch.device:
    from ..system.devices import choose_device

    return choose_device() if device is None else device


def read_classes(path: Path) -> tuple[str, ...]:
    """Names of classes, one a line.

    Raises:
        DataError: the file cannot be read, has no names, or one twice.
    """
    try:
        names = tuple(lines_of(path))
    except (OSError, UnicodeError) as error:
        raise DataError(f"the classes of {path} cannot be read: {error}") from error
    if not names or len(set(names)) < len(names):
        what = "a name twice" if names else "no names"
        raise DataError(f"{path} has {what}; write the name of one class a line, in the order of the model's outputs")
    return names


def _exported(path: Path, told: Told | None) -> Classifier:
    if told is None:
        card, run = open_exported(path)
    else:
        card, run = _foreign(path, told)
    data = card.data()

    def logits(pixels: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b k"]:
        found = run(normalised(pixels, data))
        if found.shape != (len(pixels), len(card.classes)):
            raise CheckpointError(
                f"{path} gives values of shape {found.shape}, and {len(card.classes)} classes are named; give the "
                "names of its classes"
            )
        # Files of others often end in softmax, and a second one would flatten their probabilities.
        return np.log(np.maximum(found, 1e-30)) if told is not None and _are_probabilities(found) else found

    return Classifier(run, card.classes, data, path, logits)


def _are_probabilities(values: Float[np.ndarray, "b k"]) -> bool:
    return bool((values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-3))


def _foreign(path: Path, told: Told) -> tuple[Card, Logits]:
    """A file of another program: what is said of it, and what runs it."""
    try:
        open_exported(path)
    except CheckpointError:
        return open_exported(path, _card_of(told, path))
    raise _says_itself(path)


def _card_of(told: Told, path: Path) -> Card:
    """What a user says of a file, as far as it is enough.

    Raises:
        CheckpointError: it is not.
    """
    if told.classes is None or told.image_size is None:
        raise CheckpointError(f"{path}: {GIVE}")
    values = {"mean": told.mean or IMAGENET_MEAN, "std": told.std or IMAGENET_STD, "image_size": told.image_size}
    crop = told.crop or _USUAL_CROP
    card = Card("", told.classes, eval_crop=crop, interpolation="bicubic", **values)  # type: ignore[arg-type]
    return _sound(card, path)


def _sound(card: Card, path: Path) -> Card:
    """The card, if images can be made by its numbers.

    Raises:
        CheckpointError: they cannot.
    """
    try:
        card.data()
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; {GIVE}") from error
    return card


def _timm_folder(path: Path, device: str | torch.device | None, told: Told | None) -> Classifier:
    from ..evaluation.inference import module_classifier
    from .timm_folder import timm_model

    config = read_json(path / "config.json")
    if not isinstance(config, dict) or "architecture" not in config:
        raise CheckpointError(f"{path} is no folder of timm's: its config.json names no architecture")
    ours = config.get(SECTION)
    if isinstance(ours, dict):
        _refuse(told, path)
        card = card_in(ours, str(path))
    else:
        try:
            card = _card_of_timm(config, told, path)
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            raise CheckpointError(
                f"the config.json of {path} does not have the form that timm writes ({one_line(error)}); get it again"
            ) from error
    model = timm_model(path)
    if getattr(model, "num_classes", len(card.classes)) != len(card.classes):
        raise CheckpointError(f"{path} names {len(card.classes)} classes, its model has {model.num_classes}; {GIVE}")
    return module_classifier(model, card.classes, card.data(), path, _device(device))


def _card_of_timm(config: Mapping[str, Any], told: Told | None, path: Path) -> Card:
    """What timm's own `config.json` says, completed by what is said of the model.

    Raises:
        CheckpointError: images that are not resized and cropped as here, or no names of classes.
    """
    told = told or Told()
    cfg = {**config, **(config.get("pretrained_cfg") or {})}
    names = told.classes or config.get("label_names") or cfg.get("label_names")
    wanted = tuple(cfg.get("input_size") or (0, 0, 0))
    if told.image_size is None and wanted[-2] != wanted[-1]:
        raise CheckpointError(
            f"{path} wants images of {wanted[-2]}×{wanted[-1]}, which are not square; use timm's own transform, or "
            "give --image-size SIDE if it takes square ones, too"
        )
    size = told.image_size or wanted[-1]
    if not isinstance(names, (list, tuple)) or not size:
        raise CheckpointError(
            f"{path} does not say {'which images it wants' if names else 'which classes it knows'}: {GIVE}"
        )
    share, mode = float(told.crop or cfg.get("crop_pct") or _USUAL_CROP), cfg.get("interpolation", "bicubic")
    crop = cfg.get("crop_mode") or "center"
    if crop != "center" or mode not in ("bicubic", "bilinear") or not 0 < share <= 1:
        how = f"cropped by {crop} {share:g} and resized by {mode}"
        raise CheckpointError(f"{path} wants images that are {how}, which is not known here; use timm's own transform")
    mean, std = (tuple(told_value or cfg.get(key) or default) for key, told_value, default in (
        ("mean", told.mean, IMAGENET_MEAN), ("std", told.std, IMAGENET_STD)
    ))  # fmt: skip
    # timm rounds down, and a card's share to the nearest pixel.
    resized = math.floor(size / share)
    card = Card(str(config["architecture"]), tuple(map(str, names)), mean, std, size, size / resized, mode, False)
    return _sound(card, path)


def _refuse(told: Told | None, path: Path) -> None:
    if told is not None:
        raise _says_itself(path)


def _says_itself(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} says itself which images it wants and which classes it knows; leave --classes, --image-size, --crop, "
        "--mean and --std out"
    )
