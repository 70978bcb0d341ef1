"""A teacher that is trained by nobody: a pretrained network with a linear probe as its last layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..checkpoints.model_file import save_model
from ..checkpoints.naming import NamedFile
from ..checkpoints.networks import network_for
from ..data.sources.base import ImageSource
from ..data.views.augment import preserved_generators
from ..errors import ModelError
from ..models.factory import build_model
from ..models.students import as_student
from ..models.teachers import FrozenTeacher, Teachers
from ..recipe.data import IMAGENET_MEAN, IMAGENET_STD, Data
from ..recipe.reading import recipe_from
from ..recipe.schema import Student
from ..system.extras import need
from ..system.progress import Display
from .features import features_of
from .probe import PROBE, affordable, as_classifier, fit, looked_at


class Probed(NamedTuple):
    """A probe that became a teacher: its accuracy on the validation images, of so many, and the model in its file.

    Where there are more than `probe.MOST` it was asked about a part, its classes in balance: there is little time, and
    the run that it teaches in asks it about all of them.
    """

    accuracy: float
    samples: int
    part: bool
    model: str


def probed_teacher(
    name: str,
    file: NamedFile | None,
    sources: tuple[ImageSource, ImageSource],
    data: Data,
    image_size: int,
    path: Path,
    *,
    device: torch.device,
    display: Display,
) -> Probed:
    """Fit a linear probe on a network's features of the training images, and write both as one model file.

    The images are seen as the network will see them as a teacher: made for the student, then resized.

    Args:
        name: timm's name of the network.
        file: of its weights; None for the published ones.
        data: how the student sees images.
        image_size: side at which the network sees them.
        path: where the file goes; it names the data's classes.

    Raises:
        CoadviseError: weights that do not fit the network, a network without a linear last layer, too few images of a
            class, or classes so many that a fit would take too long.
    """
    need("sklearn", PROBE)
    classes = sources[0].class_names
    with preserved_generators():  # last layers are drawn, and then filled
        if file is None:
            settings = Student(model=name)
            model = build_model(name, len(classes), image_size=image_size, pretrained=True)
        else:
            model, settings = network_for(file, len(classes), image_size)
    own = None if file is None or file.header is None else file.header.recipe.data
    seen_as = (None, None) if own is None else (own.mean, own.std)
    teacher = FrozenTeacher(model, mean=seen_as[0], std=seen_as[1], image_size=image_size)
    mean, std = teacher.mean or IMAGENET_MEAN, teacher.std or IMAGENET_STD
    seeing = Teachers({"conv": teacher}, input_mean=data.mean, input_std=data.std).to(device)
    parts = [looked_at(source) for source in sources]
    with display.bar(f"features of {name}", sum(map(len, parts))) as bar:
        watching = _AsTeacher(model, seeing).eval()
        seen, asked = (features_of(watching, part, data, device=device, advance=bar.advance) for part in parts)
    label, chosen = affordable(seen, len(classes))
    display.say(f"fitting a linear probe to {len(label)} images of {seen.values.shape[1]} features")
    fitted, _, _ = fit(seen.values.numpy()[chosen], label)
    right = fitted.predict(asked.values.numpy()) == asked.label.numpy()
    with preserved_generators():
        replaced = as_classifier(model, fitted, len(classes))
    if not replaced:
        raise ModelError(f"the last layer of {name} is not a linear one, so a probe cannot take its place")
    described = {
        "name": "probe",
        "data": {
            "source": data.source,
            "image_size": image_size,
            "eval_crop": data.eval_crop,
            "mean": list(mean),
            "std": list(std),
        },
        "student": settings.model_dump(mode="json", include={"model", "options", "small_stem"}),
    }
    recipe = recipe_from(described, "the description of a probe")
    metrics = {"accuracy/class": float(right.mean())}
    save_model(path, as_student(model.cpu()), recipe, classes, weights="student", epoch=0, metrics=metrics)
    return Probed(float(right.mean()), len(right), part=len(parts[1]) < len(sources[1]), model=settings.model)


class _AsTeacher(nn.Module):
    """A network that sees the student's images as it will as a teacher, and says which layer is its last."""

    def __init__(self, model: nn.Module, seeing: Teachers) -> None:
        super().__init__()
        self.seeing, self._of = seeing, [model]  # of which it is no second owner

    def forward(self, images: Tensor) -> Tensor:
        (logits,) = self.seeing(images).values()
        return logits

    def get_classifier(self) -> nn.Module:
        find: Any = getattr(self._of[0], "get_classifier", None)
        return find()
