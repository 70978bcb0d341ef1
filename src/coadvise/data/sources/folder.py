"""Image folders: root/<class>/…/image.jpg."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from .layout import folder_splits, same_inside, split_root
from .listing import folders_in, images_in, is_image, walk
from .splits import pick_split


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
            raise DataError(
                f"{root} has no class folders; put each class's images into a folder of its own (images without "
                "labels are of no use here: give the training folder alone, and a tenth of it is held out)"
            )
        left_out: Counter[str] = Counter()
        files: list[bytes] = []
        counts: dict[str, int] = {}
        self.empty: dict[str, str] = {}
        for name in names:
            found, other = _images(root / name)
            left_out += other
            if not found:
                self.empty[name] = in_words(other)
                continue
            files += [os.fsencode(os.path.relpath(path, root)) for path in found]
            counts[name] = len(found)
        if not counts:
            first, instead = next(iter(self.empty.items()))
            raise DataError(no_images(root / first, instead))
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


def open_folder(root: Path, split: str | None) -> Folder:
    """A folder of class folders, or one split of a folder of split folders."""
    splits = folder_splits(root)
    if not splits and split is None:
        return Folder(root)
    return Folder(split_root(root, pick_split(split, splits, str(root))))


def _images(folder: Path) -> tuple[list[str], Counter[str]]:
    """Paths of the images below a class folder, sorted, and the number of other files of each kind."""
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


def no_images(folder: Path, instead: str) -> str:
    """What is wrong with a class folder that holds something else, or nothing."""
    but = f", but {instead}" if instead else ""
    return (
        f"the class folder {folder} holds no images (such as .jpg, .png or .webp){but}; add some, or remove the folder"
    )


def in_words(other: Counter[str]) -> str:
    """`12 files of other kinds (10 .heic, 2 without an extension)`; nothing where there are none."""
    if not other:
        return ""
    ordered = sorted(other.items(), key=lambda item: (-item[1], item[0]))
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in ordered[:4])
    return f"{other.total():,} files of other kinds ({kinds}{', …' if len(other) > 4 else ''})"


def _notes(root: Path, classes: list[str], left_out: Counter[str]) -> Iterator[str]:
    if left_out:
        yield (
            f"{in_words(left_out)} in the class folders of {root} are not read: a file counts as an image by its "
            "extension (.jpg, .png, .webp, .tif, …); convert or rename them"
        )
    loose = sum(1 for _ in images_in(root))
    if loose:
        yield f"{loose:,} images of {root} lie in none of its class folders and are not read"
    inside = same_inside(root, classes)
    if inside:
        yield (
            f"the {len(classes)} folders of {root} are taken as classes, and each has the folders "
            f"{', '.join(inside[:5])}{', …' if len(inside) > 5 else ''}: if those are the classes, name one of the "
            "folders as data.source and another as data.val_source"
        )
