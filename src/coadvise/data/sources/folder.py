"""Image folders: root/<class>/…/image.jpg."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from .base import InFile
from .layout import folder_splits, same_inside, split_root
from .listing import folders_in, images_in, is_image, walk
from .splits import for_training, pick_split


class Folder:
    """root/<class>/…/image.jpg. Classes and files are in the order of their names, as in torchvision.

    Attributes:
        empty: class folders without an image, which are no classes here, and what they hold instead.
        notes: what was left out, and why.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        names = folders_in(root)
        if not names:
            raise DataError(f"{root} has no class folders; put each class's images into a folder of its own")
        left_out: Counter[str] = Counter()
        files: list[bytes] = []
        counts: dict[str, int] = {}
        self.empty: dict[str, str] = {}
        for name in names:
            found, other = images_below(root / name)
            left_out += other
            if not found:
                self.empty[name] = in_words(other)
                continue
            files += [os.fsencode(os.path.relpath(path, root)) for path in found]
            counts[name] = len(found)
        if not counts:
            first, instead = next(iter(self.empty.items()))
            raise DataError(no_images(root, first, instead))
        self.class_names = tuple(counts)
        # One array instead of a million strings: forked workers then share its memory.
        self.files = np.array(files)
        self.labels: NDArray[np.int64] = np.repeat(np.arange(len(counts), dtype=np.int64), list(counts.values()))
        self.notes = tuple(_notes(root, names, left_out))

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        path = self.root / os.fsdecode(self.files[index])
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error

    def describe(self, index: int) -> str:
        return str(self.root / os.fsdecode(self.files[index]))

    def file_of(self, index: int) -> InFile:
        return InFile(self.describe(index))


def open_folder(root: Path, split: str | None) -> Folder:
    """A folder of class folders, or one split of a folder of split folders."""
    splits = folder_splits(root)
    if not splits and split is None:
        return Folder(root)
    name = pick_split(split, splits, str(root))
    place = split_root(root, name)
    if not folders_in(place) and not for_training(name):
        raise DataError(
            f"{place} has no class folders; put each class's images into a folder of its own, or give the training "
            "folder alone as data.source, so that a part of it is held out"
        )
    return Folder(place)


def images_below(folder: Path) -> tuple[list[str], Counter[str]]:
    """Paths of the images below a folder, sorted, and the number of other files of each kind."""
    found: list[str] = []
    other: Counter[str] = Counter()
    for entry in walk(folder):
        # A link that leads nowhere stays: reading it says so, where leaving it out would lose it.
        if not entry.is_file() and os.path.exists(entry.path):
            other["pipes or devices"] += 1
        elif is_image(entry.name):
            found.append(entry.path)
        else:
            other[os.path.splitext(entry.name)[1].lower() or "without an extension"] += 1
    return sorted(found), other


def no_images(root: Path, name: str, instead: str, others: Sequence[str] = ()) -> str:
    """What is wrong with a class folder that holds something else, or nothing; `others` hold images."""
    but = f", but {instead}" if instead else ""
    hint = "add some, or remove the folder"
    if len(others) == 1 and folders_in(root / others[0]):
        hint = f"give data.source={root / others[0]} if the classes are in there; else {hint}"
    return f"the class folder {root / name} holds no images (.jpg, .png, .webp, …){but}; {hint}"


def in_words(other: Counter[str]) -> str:
    """`12 files of other kinds (10 .heic, 2 without an extension)`; nothing where there are none."""
    if not other:
        return ""
    ordered = sorted(other.items(), key=lambda item: (-item[1], item[0]))
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in ordered[:4])
    files = "1 file of another kind" if other.total() == 1 else f"{other.total():,} files of other kinds"
    return f"{files} ({kinds}{', …' if len(other) > 4 else ''})"


def _notes(root: Path, classes: list[str], left_out: Counter[str]) -> Iterator[str]:
    if left_out:
        yield (
            f"{in_words(left_out)} in the class folders of {root}, not read: a file counts as an image by its "
            "extension (.jpg, .png, .webp, .tif, …); convert or rename it"
        )
    loose = sum(1 for _ in images_in(root))
    if loose:
        what = "1 image" if loose == 1 else f"{loose:,} images"
        yield f"{what} of {root} in none of its class folders: not read"
    inside = same_inside(root, classes)
    if inside:
        yield (
            f"the {len(classes)} folders of {root} are taken as classes, and each has the folders "
            f"{', '.join(inside[:5])}{', …' if len(inside) > 5 else ''}: if those are the classes, name one of the "
            "folders as data.source and another as data.val_source"
        )
