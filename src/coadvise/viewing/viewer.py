"""What the page shows, without the network: one or two runs, an image, and what is said of it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ..data.decode import decode
from ..errors import DataError, RunError
from ..evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from ..evaluation.pictures import thumbnail
from ..names import CLASS
from .asking import TEACHER, Asked, ask, looks, why_no_looks
from .nearest import By, Near, Validation, Which, disagreement_in_words
from .opened import OpenedRun, names_of, open_run
from .pictures import MOST_BYTES, MOST_PIXELS, Pictures, Seen, png, seen_in

CHOOSING = ("source", "val_source", "train_split", "val_split", "val_fraction", "val_size", "classes", "labels")
"""Settings of the data that say which images validate."""
NEAREST = 8
"""Nearest disagreements that are shown."""


@dataclass(frozen=True)
class Output:
    """A column of the table of probabilities: the class token, an advised token or a teacher."""

    name: str
    kind: Literal["class", "token", "teacher"]
    title: str
    bias: str | None = None


@dataclass(frozen=True)
class About:
    """What the page says of a run before any image is there.

    Attributes:
        side: of the images that the model sees, in pixels.
        missing: teachers that cannot be asked, and why.
        no_looks: why no attention is shown; empty where it is.
        disagreement: what counts as one.
        images: in the validation set; `why` says why there are none.
        same_images: whether its validation images are those of the first run.
    """

    name: str
    path: str
    model: str
    classes: tuple[str, ...]
    several: bool
    side: int
    outputs: tuple[Output, ...]
    missing: tuple[tuple[str, str], ...]
    no_looks: str
    disagreement: str
    images: int
    why: str
    same_images: bool


@dataclass(frozen=True)
class Progress:
    """How many of a run's validation images have been asked about; `why` says why there are no more."""

    done: int
    total: int
    why: str


@dataclass(frozen=True)
class Said:
    """What a run says of an image.

    Attributes:
        picture: what it was shown, a PNG in base64.
        odds: probabilities of all classes, by output.
        maps: token → rows of attention to the patches.
        near: the nearest disagreements of its validation set; `by` what they are near by.
    """

    picture: str
    odds: dict[str, list[float]]
    maps: dict[str, list[list[float]]]
    near: tuple[Near, ...]
    by: By


@dataclass(frozen=True)
class Question:
    """What is asked of all runs.

    Attributes:
        image: key of an image that was sent; or None, and `validation` is the place of one of the first run's
            validation set.
        kind, severity: how it is corrupted; severity 0 leaves it as it is.
    """

    image: str | None = None
    validation: int | None = None
    kind: str = next(iter(CORRUPTIONS))
    severity: int = 0
    by: By = "features"


@dataclass(frozen=True)
class ListedImage:
    """One of the first run's validation images."""

    index: int
    label: tuple[str, ...]


@dataclass(frozen=True)
class Reply:
    """What is said of an image by all runs; `label` is that of a validation image."""

    runs: tuple[Said, ...]
    label: tuple[str, ...] | None = field(default=None)


class Viewer:
    """One or two opened runs and the images that they are shown.

    Args:
        most: validation images of each that are asked about, to find the nearest disagreements.
    """

    def __init__(self, runs: Sequence[OpenedRun], most: int) -> None:
        self.runs = tuple(runs)
        self.pictures = Pictures(self.runs)
        # One question at a time: a model that is asked by two threads gains nothing, and hooks would meet.
        self._busy = threading.Lock()
        self.validations = tuple(Validation(run, most, self._busy) for run in self.runs)
        self._workers: list[threading.Thread] = []
        # Now, and not for each page that is opened: a model is asked for it.
        self._about = [_about(run, self._same_images(run)) for run in self.runs]

    @classmethod
    def open(cls, paths: Sequence[Path], most: int, device: torch.device) -> Viewer:
        """Load runs by their paths.

        Raises:
            CoadviseError: a student that cannot be loaded.
        """
        names = names_of(list(paths))
        return cls([open_run(path, name, device) for path, name in zip(paths, names, strict=True)], most)

    def start(self) -> None:
        """Begin to ask about the validation images, run by run, beside everything else."""

        def fill() -> None:
            for one in self.validations:
                one.fill()

        self._workers.append(threading.Thread(target=fill, name="validation images", daemon=True))
        self._workers[-1].start()

    def stop(self) -> None:
        """End what was begun, after the batch that is being asked."""
        for one in self.validations:
            one.stopped.set()
        for worker in self._workers:
            worker.join(timeout=30)

    def about(self) -> list[About]:
        """The runs."""
        return [replace(one, why=its.why) for one, its in zip(self._about, self.validations, strict=True)]

    def progress(self) -> list[Progress]:
        """How far the validation images are asked about, run by run."""
        return [Progress(one.done, one.total, one.why) for one in self.validations]

    def reply(self, question: Question) -> Reply:
        """What all runs say of an image.

        Raises:
            DataError: an image, corruption or severity that is not there.
        """
        seen = self._seen(question)
        if question.severity:
            if question.kind not in CORRUPTIONS or question.severity not in SEVERITIES:
                raise DataError(f"no corruption is {question.kind} of severity {question.severity}; see the list")
            seen = tuple(corrupt(one[None], question.kind, question.severity)[0] for one in seen)
        said = [self._said(place, pixels, question) for place, pixels in enumerate(seen)]
        label = None if question.validation is None else self.validations[0].label(question.validation)
        return Reply(tuple(said), label)

    def _seen(self, question: Question) -> Seen:
        if question.validation is not None:
            return seen_in(self._images(question.validation), question.validation, self.runs)
        found = self.pictures.get(question.image or "")
        if found is None:
            raise RunError("the image is kept no longer; choose it again")
        return found

    def _images(self, index: int):  # type: ignore[no-untyped-def]
        images = self.runs[0].images
        if images is None or not 0 <= index < len(images):
            raise DataError(f"there is no validation image {index}: {self.runs[0].why or 'choose another'}")
        return images

    def _said(self, place: int, pixels: np.ndarray, question: Question) -> Said:
        run = self.runs[place]
        with self._busy:
            asked = ask(run, pixels[None])
            maps = looks(run, pixels[None])
        by: By = "answers" if asked.features is None else question.by
        but = question.validation if self._same_images(run) else None
        return Said(
            png(pixels),
            {name: [float(f"{p:.5g}") for p in rows[0]] for name, rows in asked.odds.items()},
            {token: [[round(v, 5) for v in row] for row in grid[0].tolist()] for token, grid in maps.items()},
            tuple(self._near(place, asked, by, but)),
            by,
        )

    def _same_images(self, run: OpenedRun) -> bool:
        """Whether a run's validation images are those of the first one."""
        own, first = run.trained.data, self.runs[0].trained.data
        return run.images is not None and all(getattr(own, name) == getattr(first, name) for name in CHOOSING)

    def _near(self, place: int, asked: Asked, by: By, but: int | None) -> list[Near]:
        return self.validations[place].nearest(asked, by, NEAREST, but)

    def listed(self, which: Which, first: int, count: int) -> list[ListedImage]:
        """Images of the first run's validation set, of mixed classes, from the `first` on."""
        chosen = self.validations[0].listed(which)[first : first + count]
        return [ListedImage(index, self.validations[0].label(index)) for index in chosen]

    def small(self, place: int, index: int, side: int) -> bytes:
        """A validation image of a run as a small JPEG, at most so many pixels a side.

        Raises:
            DataError: it is not there or cannot be read.
        """
        images = self.runs[place].images
        if images is None or not 0 <= index < len(images):
            raise DataError(f"there is no validation image {index}; choose another")
        return thumbnail(decode(images.read(index), images.describe(index)), side)


def limits() -> dict[str, int]:
    """What an image may have at most."""
    return {"bytes": MOST_BYTES, "pixels": MOST_PIXELS}


def _first_title(run: OpenedRun, looks: bool) -> str:
    """What the output is called by which the model answers."""
    if run.averages:
        return "average of all heads"
    return "class token" if len(run.tokens) > 1 or looks else "class output"


def _about(run: OpenedRun, same_images: bool) -> About:
    no_looks = why_no_looks(run)
    outputs = [Output(CLASS, "class", _first_title(run, not no_looks))]
    outputs += [Output(name, "token", f"{name} token", run.bias(name)) for name in run.tokens if name != CLASS]
    outputs += [Output(f"{TEACHER}{name}", "teacher", f"teacher {name}", run.bias(name)) for name in run.teachers.names]
    return About(
        run.name,
        str(run.trained.path),
        run.described(),
        run.trained.classes,
        run.several,
        run.trained.data.image_size,
        tuple(outputs),
        tuple(run.missing.items()),
        no_looks,
        disagreement_in_words(run),
        0 if run.images is None else len(run.images),
        run.why,
        same_images,
    )
