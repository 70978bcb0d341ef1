"""What an exported file says of itself: the images it wants, the classes it knows. It stands in the file's metadata.

Each format has a place for named texts (ONNX `metadata_props`, OpenVINO `rt_info`, safetensors `__metadata__`). The
texts are JSON, but for those that are plain words: `json.loads(metadata["classes"])`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..errors import CheckpointError
from ..names import VERSION
from ..recipe.schema import Data
from .public import public_name

if TYPE_CHECKING:
    from ..checkpoints.trained import TrainedModel

FORMAT = "coadvise-export-1"
GIVE = (
    "give --classes FILE (the name of one class a line, in the order of the outputs) and --image-size PIXELS, and "
    "where they are not ImageNet's --crop (0.875), --mean and --std (three numbers each, of pixels in [0, 1])"
)
"""How to use a model that does not say what it wants."""
INPUT, OUTPUT = "images", "logits"
_WORDS = ("model", "interpolation", "precision", "version", "labels")


@dataclass(frozen=True)
class Card:
    """Images in, logits out.

    Attributes:
        model: timm's name of the model.
        classes: names, in the order of the logits.
        mean, std: per channel, of pixels in [0, 1].
        image_size: side of the square images in pixels.
        eval_crop: the shorter side of an image is resized to round(image_size / eval_crop) pixels, and the central
            square cut out.
        interpolation: `bicubic` or `bilinear`.
        shrink_on_load: whether JPEG files are decoded at 1/2, 1/4 or 1/8 where at least twice the pixels are left.
        precision: `fp32` or `int8`.
        version: of coadvise that wrote the file.
        labels: `one` class for each image, by the largest logit and softmax; or `several`, any number: each class whose
            logit is above 0, with the sigmoid of it as probability. It stands in the file only where it is `several`.
    """

    model: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    eval_crop: float
    interpolation: str
    shrink_on_load: bool = True
    precision: str = "fp32"
    version: str = VERSION
    labels: Literal["one", "several"] = "one"

    def metadata(self) -> dict[str, str]:
        """Named texts, `format` first."""
        content = {
            name: value if name in _WORDS else json.dumps(value, ensure_ascii=False)
            for name, value in asdict(self).items()
            if name != "labels" or value != "one"  # as an earlier version wrote it
        }
        return {"format": FORMAT, **content}

    def data(self) -> Data:
        """The same as the part of a recipe that evaluation reads images by."""
        names = ("image_size", "eval_crop", "interpolation", "shrink_on_load", "mean", "std", "labels")
        return Data.model_validate({"source": "exported", **{name: getattr(self, name) for name in names}})


def card_of(trained: TrainedModel, precision: str = "fp32") -> Card:
    """The card of a trained model."""
    data = trained.data
    return Card(
        model=public_name(trained.recipe.student.model), classes=trained.classes, mean=tuple(data.mean),
        std=tuple(data.std), image_size=data.image_size, eval_crop=data.eval_crop,
        interpolation=data.interpolation, shrink_on_load=data.shrink_on_load, precision=precision,
        labels=data.labels,
    )  # fmt: skip


def card_in(metadata: Mapping[str, str], where: str) -> Card:
    """Read the texts that `Card.metadata` makes.

    Args:
        where: the file, for messages.

    Raises:
        CheckpointError: they are missing or damaged.
    """
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{where} does not say which images it wants and which classes it knows; give a file that "
            f"`coadvise export` wrote, or {GIVE}"
        )
    try:
        values: dict[str, Any] = {
            field.name: metadata[field.name] if field.name in _WORDS else json.loads(metadata[field.name])
            for field in fields(Card)
            if field.name != "labels" or field.name in metadata
        }
        card = Card(**values | {name: tuple(values[name]) for name in ("classes", "mean", "std")})
        known = get_args(Data.model_fields["interpolation"].annotation)
        sound = all(isinstance(name, str) for name in card.classes) and card.interpolation in known and card.classes
        card.data()  # checks the numbers
    except (KeyError, TypeError, ValueError, RecursionError):
        sound = False
    if not sound:
        raise CheckpointError(f"{where} has damaged metadata; export it again")
    return card
