"""A classifier in use: which images are meant, what each one shows, and which cannot be read.

Nothing here needs PyTorch: exported models run without it.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..data.decode import decode
from ..data.sources.folder import images_below, in_words
from ..data.views.square import PixelTransform, eval_pixels, normalised
from ..errors import DataError
from ..recipe.schema import Data
from ..shapes import Float, UInt8

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 16
Picture = str | os.PathLike[str] | Image.Image
"""A file of an image, or an image that Pillow has opened."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model sees in an image.

    Attributes:
        path: the file; None for an image that was given itself.
        classes: (name, probability in [0, 1]) of the likeliest classes, best first.
        problem: why the image cannot be read; None where it can.
        present: of a model that gives an image any number of classes, those that are likelier than not, best first;
            None for one that gives it one.
    """

    path: Path | None
    classes: tuple[tuple[str, float], ...] = ()
    problem: str | None = None
    present: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """Name of the likeliest class."""
        return self.classes[0][0]

    @property
    def probability(self) -> float:
        """Probability of the likeliest class, in [0, 1]."""
        return self.classes[0][1]


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A trained model, ready to be shown images.

    Attributes:
        model: what computes: a module in evaluation mode; of an exported file, that which its runtime loaded.
        classes: names of the classes, in the order of the logits.
        data: how the model was trained to see images.
        path: the file.
        logits: 8-bit RGB pixels of images that were resized and cropped → logits.
    """

    model: Any = dataclasses.field(repr=False)
    classes: tuple[str, ...]
    data: Data = dataclasses.field(repr=False)
    path: Path
    logits: Callable[[UInt8[np.ndarray, "b h w 3"]], Float[np.ndarray, "b k"]] = dataclasses.field(repr=False)

    @cached_property
    def _square(self) -> PixelTransform:
        return eval_pixels(self.data)

    def pixels(self, image: Picture) -> UInt8[np.ndarray, "h w 3"]:
        """An image as evaluation sees it: upright, RGB, resized and cropped.

        Raises:
            DataError: it cannot be read.
        """
        if isinstance(image, Image.Image):
            return self._square(decode(image, "the image"))
        if not isinstance(image, (str, os.PathLike)):
            kind = type(image).__name__
            raise DataError(
                f"an image is of type {kind}; give a path, or an image of Pillow (Image.fromarray makes one)"
            )
        try:
            content = Path(image).read_bytes()
        except OSError as error:
            raise DataError(f"{os.fspath(image)} cannot be read: {error.strerror or error}") from error
        return self._square(
            decode(content, os.fspath(image), self._square.needed if self.data.shrink_on_load else None)
        )

    def transform(self, image: Picture) -> Float[Tensor, "3 h w"]:
        """What the model is given of an image: `model(transform(image)[None])` gives the logits.

        Raises:
            DataError: it cannot be read.
        """
        import torch

        return torch.from_numpy(normalised(self.pixels(image)[None], self.data)[0].copy())

    def predict(self, images: Picture | Iterable[Picture], top: int = 5) -> list[Prediction]:
        """The likeliest classes of images.

        Args:
            images: one or several: paths of images, of folders, patterns such as `trip/*.jpg`, images of Pillow.
            top: number of classes of each, at most all.

        Raises:
            DataError: an image that is missing or cannot be read.
        """
        found = list(predict(self, _all(images), top))
        if problem := next((one.problem for one in found if one.problem is not None), None):
            raise DataError(problem)
        return found

    def probabilities(self, images: Picture | Iterable[Picture]) -> Float[np.ndarray, "n k"]:
        """The probability of every class, images and classes in their order.

        Args:
            images: as of `predict`.

        Raises:
            DataError: an image that is missing or cannot be read.
        """
        pictures = _all(images)
        if not pictures:
            return np.zeros((0, len(self.classes)))
        batches = (pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH))
        odds = ODDS[self.data.labels]
        return np.concatenate([odds(self.logits(np.stack([self.pixels(one) for one in batch]))) for batch in batches])


def _all(images: Picture | Iterable[Picture]) -> list[Picture]:
    single: tuple[type, ...] = (str, os.PathLike, Image.Image)
    given: list[Any]
    if isinstance(images, single) or not isinstance(images, Iterable):
        given = [images]
    else:
        given = list(images)
    found: list[Picture] = []
    for one in given:
        found += _files_of(os.fspath(one), lambda note: None) if isinstance(one, (str, os.PathLike)) else [one]
    return found


def _odds(logits: Float[np.ndarray, "b k"]) -> Float[np.ndarray, "b k"]:
    odds = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


def _odds_of_each(logits: Float[np.ndarray, "b k"]) -> Float[np.ndarray, "b k"]:
    return 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))  # type: ignore[no-any-return]  # the sigmoid


ODDS = {"one": _odds, "several": _odds_of_each}
"""Probabilities by how many classes an image has: one of them, or each or not."""


def image_files(places: Iterable[str], say: Callable[[str], None] = lambda note: None) -> tuple[list[Path], list[str]]:
    """The files that are meant by paths of images, of folders (all images below them, by name), and by patterns.

    Args:
        say: is told what is left out of a folder.

    Returns:
        The files in the order given, each once, and what cannot be used, in words.
    """
    files: dict[Path, None] = {}
    problems = []
    for place in places:
        try:
            files |= dict.fromkeys(_files_of(place, say))
        except DataError as error:
            problems.append(str(error))
    return list(files), problems


def _files_of(place: str, say: Callable[[str], None]) -> list[Path]:
    if os.path.isfile(place):
        return [Path(place)]
    if os.path.isdir(place):
        if found := _below(place, say):
            return found
        raise DataError(f"{place}: the folder holds no images (.jpg, .png, .webp, .tif, …)")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", place):
        raise DataError(f"{place}: predict reads files and nothing from the network; download it, and give the file")
    if os.path.exists(place):
        raise DataError(f"{place}: this is neither a file nor a folder")
    if glob.has_magic(place):
        matches = sorted(glob.glob(place, recursive=True))
        inside = [path for match in matches if os.path.isdir(match) for path in _below(match, say)]
        if files := [Path(match) for match in matches if os.path.isfile(match)] + inside:
            return files
        raise DataError(f"{place}: no image file has a name of that pattern")
    raise DataError(f"{place}: there is no such image file")


def _below(folder: str, say: Callable[[str], None]) -> list[Path]:
    """Images below a folder; what else lies there is said."""
    found, other = images_below(Path(folder))
    if other:
        say(f"left out of {folder}: {in_words(other)}")
    return [Path(path) for path in found]


def predict(
    model: Classifier, images: Iterable[Picture], top: int = 5, batch_size: int = BATCH
) -> Iterator[Prediction]:
    """The likeliest classes of images, in their order; one that cannot be read stops no other."""
    remaining = iter(images)
    while batch := list(islice(remaining, batch_size)):
        read = [_read(model, image) for image in batch]
        pixels = [one for one in read if not isinstance(one, str)]
        rows = iter(ODDS[model.data.labels](model.logits(np.stack(pixels))) if pixels else ())
        for image, one in zip(batch, read, strict=True):
            path = Path(image) if isinstance(image, (str, os.PathLike)) else None
            if isinstance(one, str):
                yield Prediction(path, problem=one)
                continue
            row = next(rows)
            best = np.argsort(-row, kind="stable")[:top]
            classes = tuple((model.classes[i], float(row[i])) for i in best)
            if model.data.labels == "one":
                yield Prediction(path, classes)
                continue
            likely = [i for i in np.argsort(-row, kind="stable") if row[i] > 0.5]
            yield Prediction(path, classes, present=tuple(model.classes[i] for i in likely))


def _read(model: Classifier, image: Picture) -> UInt8[np.ndarray, "h w 3"] | str:
    """An image as evaluation sees it, or why there is none."""
    try:
        return model.pixels(image)
    except DataError as error:
        return str(error)
