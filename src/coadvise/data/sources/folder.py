"""Image folders."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from .splits import TRAIN_NAMES, VALIDATION_NAMES, pick_split

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".tga"}
)


class Folder:
    """root/<class>/…/image.jpg. Classes and files are in the order of their names, as in torchvision."""

    def __init__(self, root: Path) -> None:
        self.root = root
        classes = _folders(root)
        if not classes:
            raise DataError(f"{root} has no class folders; put each class's images into a folder of its own")
        files: list[bytes] = []
        counts: list[int] = []
        for name in classes:
            found = _images(root / name)
            if not found:
                raise DataError(
                    f"the class folder {root / name} holds no images ({', '.join(sorted(EXTENSIONS))}); "
                    "add some, or remove the folder"
                )
            files += [os.fsencode(os.path.relpath(path, root)) for path in found]
            counts.append(len(found))
        self.class_names = tuple(classes)
        # One array instead of a million strings: forked workers then share its memory.
        self.files = np.array(files)
        self.labels: NDArray[np.int64] = np.repeat(np.arange(len(classes), dtype=np.int64), counts)

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


def folder_splits(root: Path) -> tuple[str, ...]:
    """Split folders of `root`, or () where its folders are classes.

    A folder named like a split (train, val, test, …) is one if it holds folders;
    a class may be called `train`.
    """
    folders = _folders(root)
    names = [name for name in folders if name.lower() in TRAIN_NAMES + VALIDATION_NAMES]
    if not any(_folders(root / name) for name in names):
        if folders and len(names) == len(folders):
            raise DataError(
                f"{root} has {' and '.join(names)}, but no class folders in there; "
                "put each class's images into a folder of its own"
            )
        return ()
    return tuple(folders)


def open_folder(root: Path, split: str | None) -> Folder:
    """A folder of class folders, or one split of a folder of split folders."""
    splits = folder_splits(root)
    return Folder(root / pick_split(split, splits, str(root)) if splits or split is not None else root)


def _folders(root: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and _visible(entry.name))
    except OSError as error:
        raise DataError(f"{root} cannot be listed: {error.strerror or error}") from error


def _images(folder: Path) -> list[str]:
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if _visible(name)]
        found += [
            os.path.join(place, name)
            for name in files
            if _visible(name) and os.path.splitext(name)[1].lower() in EXTENSIONS
        ]
    return sorted(found)


def _visible(name: str) -> bool:
    """Whether a name is data: hidden files and those of macOS (.DS_Store, __MACOSX) are not."""
    return not name.startswith((".", "__MACOSX"))
