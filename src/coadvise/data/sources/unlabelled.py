"""Images without labels beside labelled ones (`data.unlabelled`): opened, and joined with these for training.

They are the sources of `data.source`, whose labels are not looked at, and folders of images that need no class folders.
Of a source with splits the one for training is taken, or one that is called `unlabelled`. Images that are training or
validation images as well are left out, so that a folder may be given of which some images have labels elsewhere, and
nothing is learnt from what a student is measured on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import DataError, RecipeError
from ...recipe.schema import Data
from .base import ImageSource, InFile, file_of
from .folder import images_below, in_words
from .listing import folders_in, has_image
from .opening import find_source, open_sources
from .splits import TRAIN_NAMES, choose_split, for_training
from .subsets import Subset

_NAMES = ("unlabelled", "unlabeled", "unsupervised", "unsup")


class Loose:
    """All images below a folder, however they lie in it, in the order of their paths. None has a label.

    Attributes:
        notes: what was left out, and why.
    """

    class_names: tuple[str, ...] = ()

    def __init__(self, root: Path) -> None:
        self.root = root
        found, other = images_below(root)
        # One array instead of a million strings: forked workers then share its memory.
        self.files = np.array([os.fsencode(os.path.relpath(path, root)) for path in found])
        self.labels = np.full(len(found), -1, dtype=np.int64)
        self.notes = (f"{in_words(other)} in {root}: not read",) if other else ()

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        path = self.describe(index)
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error

    def describe(self, index: int) -> str:
        return str(self.root / os.fsdecode(self.files[index]))

    def file_of(self, index: int) -> InFile:
        return InFile(self.describe(index))


class Joined:
    """Labelled images, and behind them images without labels, whose label is −1."""

    def __init__(self, labelled: ImageSource, unlabelled: ImageSource) -> None:
        self.labelled, self.unlabelled = labelled, unlabelled
        self.class_names = labelled.class_names
        self.labels = np.concatenate([labelled.labels, np.full(len(unlabelled), -1, dtype=np.int64)])

    def __len__(self) -> int:
        return len(self.labels)

    def _place(self, index: int) -> tuple[ImageSource, int]:
        count = len(self.labelled)
        return (self.labelled, index) if index < count else (self.unlabelled, index - count)

    def read(self, index: int) -> bytes | Image.Image:
        source, at = self._place(index)
        return source.read(at)

    def describe(self, index: int) -> str:
        source, at = self._place(index)
        return source.describe(at)

    def file_of(self, index: int) -> InFile | None:
        source, at = self._place(index)
        return file_of(source, at)


def labelled_part(source: ImageSource) -> ImageSource:
    """The images of a training source that have labels."""
    return source.labelled if isinstance(source, Joined) else source


def open_for_training(
    data: Data, teachers: Collection[str], say: Callable[[str], None] | None = None, *, several: bool = False
) -> tuple[ImageSource, ImageSource]:
    """What a student learns from and is measured on: as `open_sources`, with the images without labels behind the
    labelled ones.

    Args:
        teachers: names of those that advise.
        say: is given lines for people.
        several: see `open_sources`.

    Raises:
        DataError: see `open_sources`; or there are no images without labels.
        RecipeError: there are such images, and no teachers to learn from on them.
    """
    if data.unlabelled is not None and not teachers:
        raise RecipeError(
            "data.unlabelled gives images without labels, on which a student learns from its teachers alone, and there "
            "are no teachers; add some, or leave data.unlabelled out"
        )
    train, validation = open_sources(data, say, several=several)
    if data.unlabelled is None:
        return train, validation
    opened, place = _open_unlabelled(data.unlabelled)
    more, left_out = _others(opened, (train, validation))
    if not len(more):
        why = "all of its images are training or validation images" if left_out else "it has no images"
        raise DataError(f"data.unlabelled: {place}: {why}; give others, or leave data.unlabelled out")
    joined = Joined(train, more)
    if say is not None:
        say(f"unlabelled: {_images(len(more))} from {place}")
        say(f"an epoch shows {len(train):,} labelled and {len(more):,} unlabelled images")
        for note in getattr(opened, "notes", ()):
            say(f"note: {note}")
        if left_out:
            say(f"note: {_images(left_out)} of {place} that training or validation has as well: left out there")
    return joined, validation


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"


def _open_unlabelled(address: str) -> tuple[ImageSource, str]:
    """The source of a recipe's `data.unlabelled`, and where its images come from, in words."""
    prefix, _, rest = address.partition(":")
    if not (rest if prefix == "folder" else address).strip():
        raise DataError(f"data.unlabelled is '{address}': give a folder of images, or leave it out")
    folder = Path(os.path.expanduser(rest if prefix == "folder" else address))
    if folder.is_dir() and has_image(folder):
        root = _for_training(folder)
        return Loose(root), str(root)
    nothing = f"data.unlabelled: {folder} holds no images (.jpg, .png, .webp, …); give a folder that does"
    if folder.is_dir() and (prefix == "folder" or not any(folder.iterdir())):
        raise DataError(nothing)
    try:
        found = find_source(address)
        if found.name == "folder" and folder.is_dir():  # there are no tables or tars in it either
            raise DataError(nothing.removeprefix("data.unlabelled: "))
        found = found._replace(columns=found.columns._replace(labelled=False))
        known = found.splits()
        split = choose_split(known, (*_NAMES, *TRAIN_NAMES), known) or (known[0] if len(known) == 1 else None)
        if known and split is None:
            raise DataError(f"{address} has the splits {', '.join(known)}, none of them for training; give its files")
        return found.open(split), address if split is None else f"{address}, split {split}"
    except DataError as error:
        raise DataError(f"data.unlabelled: {error}") from error


def _for_training(root: Path) -> Path:
    """The folder of `root` whose images are meant to be learnt from, where others are for validation; else `root`."""
    names = folders_in(root)
    own = choose_split(names, _NAMES, names)
    if own is None and any(for_training(name) is False for name in names):
        own = choose_split(names, TRAIN_NAMES, names)
    return root if own is None else root / own


def _others(source: ImageSource, known: Collection[ImageSource]) -> tuple[ImageSource, int]:
    """The images of a source that are none of some others', by where they lie, and how many were left out."""
    place = _Places()
    taken = {place(one, index) for one in known for index in range(len(one))}
    new = [index for index in range(len(source)) if place(source, index) not in taken]
    if len(new) == len(source):
        return source, 0
    return Subset(source, np.array(new, dtype=np.int64)), len(source) - len(new)


class _Places:
    """Where images lie, the same under every name that links give to a file or a folder."""

    def __init__(self) -> None:
        # A million images lie in few folders, and each look may be a question to a server: folders are looked at once,
        # and of images those alone that are links.
        self._folder = lru_cache(maxsize=1 << 16)(os.path.realpath)
        self._links = lru_cache(maxsize=1 << 16)(_links_in)

    def __call__(self, source: ImageSource, index: int) -> tuple[str, str]:
        found = file_of(source, index)
        return ("", source.describe(index)) if found is None else (self._real(found.path), found.part)

    def _real(self, path: str) -> str:
        folder, name = os.path.split(path)
        real = self._folder(folder)
        place = os.path.join(real, name)
        return os.path.realpath(place) if name in self._links(real) else place


def _links_in(folder: str) -> frozenset[str]:
    """Names of the links in a folder; none where it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(one.name for one in entries if one.is_symlink())
    except OSError:
        return frozenset()
