"""The images that an exported file is checked on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..checkpoints.trained import TrainedModel
from ..data.loader import EvalLoader
from ..data.sources.base import ImageSource
from ..data.sources.opening import open_sources
from ..data.sources.subsets import Subset
from ..data.views.finish import Finish
from ..errors import CoadviseError, DataError, one_line
from ..evaluation.inference import eval_images, with_classes
from ..evaluation.prediction import image_files
from ..shapes import Float, Int

CHECKED = 64
"""Images that a file is checked on."""


@dataclass(frozen=True)
class CheckImages:
    """Images as the model wants them.

    Attributes:
        images: normalised.
        words: which ones they are.
    """

    images: Float[Tensor, "n 3 h w"]
    words: str


def check_images(trained: TrainedModel, places: tuple[str, ...] = (), count: int = CHECKED) -> CheckImages:
    """At most `count` images to check a file on: those that are named, else of the run's validation set, else noise.

    Args:
        places: image files, folders of images, or patterns.

    Raises:
        DataError: an image that was named is not there or cannot be read.
    """
    if places:
        return _named(trained, places, count)
    try:
        source = validation_source(trained)
        images, _ = load(trained, spread(source, count))
    except (CoadviseError, OSError) as error:
        noise = torch.randn(count, 3, *[trained.data.image_size] * 2, generator=torch.Generator().manual_seed(0))
        why = one_line(error).rstrip(".")
        return CheckImages(noise, f"{count} images of noise; the run's validation images are not to be had ({why})")
    return CheckImages(images, f"{len(images)} of {len(source)} validation images")


def validation_source(trained: TrainedModel) -> ImageSource:
    """The run's validation images, labels counted as the model's outputs.

    Raises:
        DataError: they are not to be had.
    """
    return with_classes(open_sources(trained.data, several=True)[1], trained.classes)


def training_source(trained: TrainedModel) -> ImageSource:
    """The run's training images, labels counted as the model's outputs.

    Raises:
        DataError: they are not to be had.
    """
    return with_classes(open_sources(trained.data, several=True)[0], trained.classes)


def spread(source: ImageSource, count: int) -> ImageSource:
    """At most `count` images of a source, evenly over its order, in which classes often follow one another."""
    if len(source) <= count:
        return source
    return Subset(source, np.linspace(0, len(source) - 1, count).round().astype(np.int64))


def load(trained: TrainedModel, source: ImageSource) -> tuple[Float[Tensor, "n 3 h w"], Int[Tensor, " n"]]:
    """All images of a source as the model's evaluation sees them, and their labels.

    Raises:
        DataError: an image cannot be read, or none can.
    """
    read = list(batches(trained, source))
    if not any(len(images) for images, _ in read):
        raise DataError(f"none of {len(source)} images can be read")
    return torch.cat([images for images, _ in read]), torch.cat([label for _, label in read])


def batches(
    trained: TrainedModel, source: ImageSource, size: int = 64
) -> Iterator[tuple[Float[Tensor, "b 3 h w"], Int[Tensor, " b"]]]:
    """The same, some at a time; what the training left out as unreadable is left out here, too."""
    data = trained.data.model_copy(update={"workers": 0})
    with closing(EvalLoader(source, data, size, device=trained.device)) as loader:
        for batch in loader:
            yield batch.images, batch.label


def _named(trained: TrainedModel, places: tuple[str, ...], count: int) -> CheckImages:
    files, problems = image_files(places)
    if problems:
        raise DataError(f"--images: {problems[0]}")
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, min(count, len(files))).round().astype(int)]
    try:
        pixels = eval_images(trained, [(path.read_bytes(), str(path)) for path in chosen])
    except OSError as error:
        raise DataError(f"--images: {error.filename} cannot be read: {error.strerror or error}") from error
    finish = Finish(trained.data, len(trained.classes), trained.device)
    images = finish.images(torch.from_numpy(pixels))
    return CheckImages(images, f"{len(chosen)} of the {len(files)} images given")
