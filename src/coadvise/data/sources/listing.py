"""What lies in a folder of images: its folders, its images, and what is no data at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import DataError

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".tga"}
)

# Left behind by storage boxes, Windows, macOS, file systems, Python and Spark; all in small letters.
_LITTER = frozenset(
    {"@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "~snapshot"}
    | {"$recycle.bin", "recycler", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"}
    | {"icon\r", "network trash folder", "temporary items"}
    | {"lost+found", "found.000", "__pycache__", "_temporary", "_delta_log"}
)


def is_litter(name: str) -> bool:
    """Whether a file or folder of that name is no data: hidden, or left behind by a system or a program."""
    return name.startswith((".", "__MACOSX", "_MACOSX")) or name.lower() in _LITTER


def is_image(name: str) -> bool:
    """Whether a file is an image by its extension."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def folders_in(root: Path) -> list[str]:
    """Names of the folders of a folder, sorted; litter is left out.

    Raises:
        DataError: it cannot be listed.
    """
    with _told(root), os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if not is_litter(entry.name) and entry.is_dir())


def images_in(root: Path) -> Iterator[str]:
    """Names of the images that lie in a folder itself, in no order.

    Raises:
        DataError: it cannot be listed.
    """
    with _told(root), os.scandir(root) as entries:
        yield from (one.name for one in entries if is_image(one.name) and not is_litter(one.name) and one.is_file())


def walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Everything below a folder but folders and litter, in no order; links are followed.

    Raises:
        DataError: a folder that cannot be listed, or a link that leads back to a folder that it lies in.
    """
    with _told(folder):
        real = folder.resolve()
        waiting = [(str(folder), frozenset(map(_identity, (real, *real.parents))))]
        while waiting:
            place, above = waiting.pop()
            with os.scandir(place) as entries:
                for entry in entries:
                    if is_litter(entry.name):
                        continue
                    if not entry.is_dir():
                        yield entry
                        continue
                    identity = _identity(entry.path)
                    if entry.is_symlink() and identity in above:
                        raise DataError(
                            f"{entry.path} is a link that leads back to a folder it lies in, so its images would be "
                            "read again and again; remove the link"
                        )
                    waiting.append((entry.path, above | {identity}))


def has_image(folder: Path) -> bool:
    """Whether there is an image anywhere below a folder."""
    return any(is_image(entry.name) and entry.is_file() for entry in walk(folder))


def _identity(path: str | Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


@contextmanager
def _told(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{error.filename or place} cannot be listed: {error.strerror or error}; give a folder that may be read"
        ) from error
