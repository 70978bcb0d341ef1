"""WebDataset tars, read map-style through an offset index.

A tar has no table of contents. Its headers are read once, and where each image lies is kept in a small file
beside it (`train-000.tar.coadvise.npz`), or in the cache folder where that place is read-only. An index is
made again when the tar's size or time has changed. Members belong together by their name up to the first dot.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...system.files import atomic_file, cache_folder
from .labels import labels_from_values

IMAGE_KEYS = ("jpg", "jpeg", "png", "webp")
_VERSION = 1
_Index = dict[str, NDArray]


class Tars:
    """The samples of one or more tars: an image (jpg, jpeg, png, webp) with a `cls` or a `json` label.

    Class names come one per line from a file `classes.txt` beside the tars, else from the labels themselves.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = [str(file) for file in files]
        indexes = [_index(Path(file)) for file in self.files]
        counts = [len(index["offset"]) for index in indexes]
        self.tar: NDArray[np.int64] = np.repeat(np.arange(len(counts)), counts)
        self.name = np.concatenate([index["name"] for index in indexes])
        self.offset = np.concatenate([index["offset"] for index in indexes])
        self.size = np.concatenate([index["size"] for index in indexes])
        values = np.concatenate([index["label"] for index in indexes])
        self.labels, self.class_names = labels_from_values(values)
        listed = Path(self.files[0]).parent / "classes.txt"
        if listed.is_file():
            self._rename(values, listed)

    def _rename(self, values: NDArray, listed: Path) -> None:
        """Labels as indices into, or names of, the classes of the file."""
        names = tuple(line.strip() for line in listed.read_text("utf-8").splitlines() if line.strip())
        place = {name: position for position, name in enumerate(names)}
        if all(value in place for value in self.class_names):
            self.labels = np.array([place[name] for name in self.class_names], dtype=np.int64)[self.labels]
        else:
            try:
                self.labels = values.astype(np.int64)
            except ValueError:
                unknown = sorted(set(self.class_names) - place.keys())
                raise DataError(f"the label '{unknown[0]}' in {self.files[0]} is not in {listed}") from None
        self.class_names = names

    def __len__(self) -> int:
        return len(self.offset)

    def read(self, index: int) -> bytes:
        file = self.files[self.tar[index]]
        try:
            # Opened each time, which takes microseconds: no handle has to survive a fork or a pickle.
            with open(file, "rb") as handle:
                handle.seek(int(self.offset[index]))
                return handle.read(int(self.size[index]))
        except OSError as error:
            raise DataError(f"{self.describe(index)} cannot be read: {error.strerror or error}") from error

    def describe(self, index: int) -> str:
        return f"{self.files[self.tar[index]]} member {os.fsdecode(self.name[index])}"


def _index(tar: Path) -> _Index:
    try:
        stat = tar.stat()
    except OSError as error:
        raise DataError(f"{tar} cannot be read: {error.strerror or error}") from error
    stamp = np.array([_VERSION, stat.st_size, stat.st_mtime_ns], dtype=np.int64)
    key = hashlib.sha256(str(tar.absolute()).encode()).hexdigest()[:32]
    places = [tar.with_name(tar.name + ".coadvise.npz"), cache_folder() / "tars" / f"{key}.npz"]
    for place in places:
        index = _load(place, stamp)
        if index is not None:
            return index
    index = {**_scan(tar), "stamp": stamp}
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(place) as temporary, temporary.open("wb") as file:
                np.savez(file, **index)  # type: ignore[arg-type]
            break
        except OSError:
            continue  # a read-only place; with none at all, the index is made again next time
    return index


def _load(place: Path, stamp: NDArray[np.int64]) -> _Index | None:
    try:
        with np.load(place, allow_pickle=False) as stored:
            index = {name: stored[name] for name in ("stamp", "name", "offset", "size", "label")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # missing or damaged: it is made again
    return index if np.array_equal(index["stamp"], stamp) else None


def _scan(tar: Path) -> _Index:
    """Read every header, and the small label members."""
    rows: list[tuple[bytes, int, int, str]] = []
    sample: dict[str, tarfile.TarInfo] = {}
    previous, end = "", tar.stat().st_size
    try:
        with tarfile.open(tar, mode="r:") as archive:
            for member in archive:
                if not member.isreg():
                    continue
                if member.offset_data + member.size > end:
                    raise tarfile.ReadError(f"it ends inside of {member.name}")
                folder, slash, name = member.name.rpartition("/")
                base, _, extension = name.partition(".")
                if (folder, slash, base) != previous and sample:
                    rows += _row(archive, sample, tar)
                    sample = {}
                previous = (folder, slash, base)  # type: ignore[assignment]
                sample[extension.lower()] = member
            rows += _row(archive, sample, tar)
            _check_end(tar, archive.offset)
    except (tarfile.TarError, OSError, EOFError) as error:
        with open(tar, "rb") as file:
            packed = file.read(2) in (b"\x1f\x8b", b"BZ", b"\xfd7")
        hint = "; it is compressed, which rules out random access: unpack it to a plain .tar" if packed else ""
        raise DataError(f"{tar} is no readable tar: {error}{hint}") from error
    names, offsets, sizes, labels = zip(*rows, strict=True) if rows else ((), (), (), ())
    return {
        "name": np.array(names, dtype=bytes),
        "offset": np.array(offsets, dtype=np.int64),
        "size": np.array(sizes, dtype=np.int64),
        "label": np.array(labels, dtype=str),
    }


def _check_end(tar: Path, offset: int) -> None:
    """Refuse what tarfile ignores: a cut or damaged header, and a second tar joined to the first."""
    with open(tar, "rb") as file:
        file.seek(offset)
        rest = file.read(1 << 16)
    if len(rest) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it has no end mark, so it is cut off")
    if rest.strip(b"\0"):
        raise tarfile.ReadError(f"its contents after byte {offset} are damaged, or another tar joined to it")


def _row(archive: tarfile.TarFile, sample: dict[str, tarfile.TarInfo], tar: Path) -> list[tuple[bytes, int, int, str]]:
    """One sample as (name, offset, size, label); nothing where it has no image."""
    image = next((sample[key] for key in IMAGE_KEYS if key in sample), None)
    if image is None:
        return []
    for key in ("cls", "json"):
        if key in sample:
            payload = archive.extractfile(sample[key])
            text = payload.read().decode("utf-8", "replace").strip() if payload else ""
            label = text if key == "cls" else _json_label(text)
            if label:
                return [(os.fsencode(image.name), image.offset_data, image.size, label)]
    raise DataError(
        f'{tar} member {image.name} has no label; add a member with the extension .cls, or .json with {{"label": …}}'
    )


def _json_label(text: str) -> str:
    try:
        value: Any = json.loads(text)
    except ValueError:
        return ""
    if isinstance(value, dict):
        value = next((value[key] for key in ("label", "cls", "class") if key in value), None)
    return "" if value is None or isinstance(value, (dict, list)) else str(value)
