"""The JSON files of a cache: its header, and the facts about each column. A file from elsewhere may hold anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..system.files import read_json
from .identity import differences

FORMAT = 2
IMAGE_BYTES = "image bytes"
"""Key of a hash of how many bytes each image has; caches of earlier versions, and of images without files, lack it."""
# More views than any run takes; beyond them the number of a record may not fit.
MOST_VIEWS = 10**9


def read_header(folder: Path) -> dict[str, Any]:
    """The header of a cache: `format`, `views`, and what the views are made of as `data`, `versions`, `image bytes`.

    Raises:
        RunError: there is no cache, one of a newer format, or a header of another form.
    """
    path = folder / "header.json"
    if not path.is_file():
        raise RunError(f"{folder} holds no advice cache; make one with `coadvise cache RECIPE`")
    anew = f"restore it, or delete {folder} and write the cache again with `coadvise cache RECIPE`"
    header = read_json(path, anew)
    if not isinstance(header, dict) or not _count(header.get("format"), 10**6):
        raise RunError(f"{path} is no header of an advice cache; choose another folder with advice.folder=FOLDER")
    if header["format"] != FORMAT:
        update = "update coadvise, or " if header["format"] > FORMAT else ""
        raise RunError(
            f"{folder} has format {header['format']}, this version of coadvise reads {FORMAT}; {update}"
            "delete it and write the cache again, or elsewhere with advice.folder=FOLDER"
        )
    wrong = [key for key in ("data", "versions") if not isinstance(header.get(key), dict)]
    if wrong or not _count(header.get("views"), MOST_VIEWS):
        wrong = wrong or ["views"]
        raise RunError(f"{path} is damaged ({', '.join(wrong)}); {anew}")
    return header


def _count(value: object, most: int) -> bool:
    """Whether a value is a whole number from 1 to `most`; true and false are none."""
    return type(value) is int and 1 <= value <= most


def require_same_teacher(folder: Path, name: str, now: Mapping[str, Any]) -> None:
    """Refuse a column of another teacher.

    Raises:
        RunError: names every fact that differs; or a damaged file.
    """
    path = folder / name / "teacher.json"
    before = read_json(path, _column_anew(path))
    if not isinstance(before, dict):
        raise RunError(f"{path} is damaged; {_column_anew(path)}")
    if before.get("train") is None or now["train"] is None:  # the same weights may come from a checkpoint
        before, now = before | {"train": None}, {**now, "train": None}
    if changes := differences(before, now):
        raise RunError(
            f"{folder} holds the advice of another teacher '{name}' ({'; '.join(changes)}); restore it, delete "
            f"{path.parent} and run `coadvise cache RECIPE`, or choose another folder with advice.folder=FOLDER"
        )


def read_column(folder: Path, name: str) -> dict[str, str]:
    """Checksum of each file of a complete column, by the file's name.

    Raises:
        RunError: a damaged file.
    """
    path = folder / name / "column.json"
    column = read_json(path, _column_anew(path))
    sums = column.get("sha256") if isinstance(column, dict) else None
    if not isinstance(sums, dict) or not all(isinstance(value, str) for value in sums.values()):
        raise RunError(f"{path} is damaged; {_column_anew(path)}")
    return sums


def _column_anew(path: Path) -> str:
    """What to do about a damaged file of a column."""
    return f"restore it, or delete {path.parent} and run `coadvise cache RECIPE`"
