"""Using trained models: evaluation on other data, class probabilities, and images as evaluation sees them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn

from ..checkpoints.trained import TrainedModel
from ..data.decode import decode
from ..data.loader import EvalLoader
from ..data.sources.base import ImageSource, sets_of
from ..data.sources.subsets import Subset
from ..data.survey import survey
from ..data.views.finish import Finish
from ..data.views.square import eval_pixels
from ..errors import DataError, did_you_mean
from ..models.students import classifier_of, student_tokens
from ..recipe.schema import Data
from ..run.calibration import calibration_errors
from ..shapes import Float, Int64, UInt8
from ..system.progress import QUIET, Display
from .answers import Collected
from .evaluate import evaluate
from .prediction import Classifier
from .tasks import TASKS, Collects


def classifier(trained: TrainedModel) -> Classifier:
    """A trained model, ready to be shown images."""
    model = classifier_of(trained.model)
    return module_classifier(model, trained.classes, trained.data, trained.path, trained.device)


def module_classifier(
    model: nn.Module, classes: tuple[str, ...], data: Data, path: Path, device: str | torch.device = "cpu"
) -> Classifier:
    """A module in evaluation mode, images (b, 3, h, w) → logits (b, k), ready to be shown images.

    Args:
        data: how it was trained to see images.
        path: its file.
    """
    place = torch.device(device)
    model, finish = model.to(place), Finish(data, len(classes), place)

    @torch.no_grad()
    def logits(pixels: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b k"]:
        return np.asarray(model(finish.images(torch.from_numpy(pixels))).float().cpu())

    return Classifier(model, classes, data, path, logits)


def evaluate_trained(
    trained: TrainedModel,
    source: ImageSource,
    *,
    batch_size: int = 64,
    display: Display = QUIET,
    collected: Collects | None = None,
) -> dict[str, float]:
    """Accuracy and cross entropy of every token on a source; of a model that gives an image any number of classes what
    `run.several` measures, of another also the expected calibration error (`ece/TOKEN`).

    Classes are matched by name; the source may have fewer than the model.

    Args:
        collected: where the answers to single images are kept, if they are wanted.

    Raises:
        DataError: classes that the model does not know, or images that have another number of classes.
    """
    images, task = with_classes(source, trained.classes), TASKS[trained.data.labels]
    if (sets_of(images) is None) != (trained.data.labels == "one"):
        words = ("one class", "any number of classes")
        of, asked = words if sets_of(images) is None else words[::-1]
        raise DataError(f"the images have {of} each, and the model gives an image {asked}; give data of its kind")
    kept = task.collect() if collected is None else collected
    with display.bar("evaluating", len(images)) as bar:
        metrics, skipped = evaluate(
            trained.model.forward_tokens,  # type: ignore[arg-type]
            EvalLoader(images, trained.data, batch_size, device=trained.device),
            tokens=student_tokens(trained.model, trained.data.image_size, trained.device),
            device=trained.device,
            advance=bar.advance,
            keep=kept.add,
            task=task,
        )
    metrics |= kept.metrics(trained.classes)
    if isinstance(kept, Collected):
        metrics |= calibration_errors(kept.answers("", trained.classes))
    return metrics | {"samples": float(len(images) - skipped), "skipped": float(skipped)}


def with_classes(source: ImageSource, classes: tuple[str, ...]) -> ImageSource:
    """The source with labels counted as in `classes`.

    Raises:
        DataError: a class that `classes` does not have.
    """
    unknown = [name for name in source.class_names if name not in classes]
    if unknown:
        raise DataError(
            f"the model does not know {len(unknown)} of the data's {len(source.class_names)} classes, such as "
            f"'{unknown[0]}'{did_you_mean(unknown[0], classes)}; evaluate it on data of its own classes"
        )
    return source if tuple(source.class_names) == classes else Subset(source, np.arange(len(source)), classes)


def readable(source: ImageSource, display: Display = QUIET) -> Int64[np.ndarray, " m"]:
    """Indices of the images that can be read; what is left out is told.

    Raises:
        DataError: none can be read.
    """
    with display.bar("reading images", len(source)) as bar:
        seen = survey("", source, None, bar.advance)
    if seen.unreadable:
        first = next(iter(seen.unreadable.values()))
        if not len(seen.looked):
            raise DataError(f"none of the images can be read, the first one because {first}")
        what = "1 image" if len(seen.unreadable) == 1 else f"{len(seen.unreadable):,} images"
        display.say(f"{what} left out: {first}")
    return seen.looked


def for_several(source: ImageSource, data: Data) -> Int64[np.ndarray, " m"]:
    """Indices of the images on which several models can be compared: all, or with `data.on_error=skip` those that can
    be read.

    Raises:
        DataError: unreadable images are to be skipped, and none can be read.
    """
    return readable(source) if data.on_error == "skip" else np.arange(len(source))


@torch.no_grad()
def class_probabilities(trained: TrainedModel, source: ImageSource) -> Float[Tensor, "n k"]:
    """Class probabilities for every image of a source, with the model's own preprocessing, on the CPU.

    Raises:
        DataError: an image is unreadable: none is left out, so that the rows are those of the source.
    """
    data = trained.data.model_copy(update={"on_error": "raise"})
    with closing(EvalLoader(source, data, 250, device=trained.device)) as loader:
        return torch.cat([trained.model(batch.images).float().softmax(dim=1).cpu() for batch in loader])


def eval_images(trained: TrainedModel, files: Iterable[tuple[bytes | Image, str]]) -> UInt8[np.ndarray, "n h w 3"]:
    """Images of (content, name), decoded, resized and cropped as in the evaluation of a model."""
    pixels = eval_pixels(trained.data)
    needed = pixels.needed if trained.data.shrink_on_load else None
    return np.stack([pixels(decode(content, name, needed)) for content, name in files])
