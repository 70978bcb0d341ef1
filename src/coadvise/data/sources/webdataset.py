"""WebDataset tars, read map-style through an offset index.

A tar has no table of contents. Its headers are read once, and where each image lies is kept in a small file
beside it (`train-000.tar.coadvise.npz`), or in the cache folder where that place is read-only. An index is
made again when the tar's size or time has changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, NoLabels, few, one_line
from ...system.files import atomic_file, cache_folder, lines_of, text_of
from .base import InFile
from .labels import labels_from_values
from .members import Member, find_samples

_VERSION = 2
_Index = dict[str, NDArray]
_KINDS = {"stamp": "i", "name": "S", "offset": "i", "size": "i", "label": "U", "reason": "U", "count": "i"}
_ROWS = ("name", "offset", "size", "label")
_LONGEST = {"cls": 1000, "json": 1 << 24}
"""Bytes of a member that holds a label."""

_REASONS = {
    "beside": "stand beside another image of the sample and have no label of their own",
    "several": "share one label with other images: give each a label that has its whole name",
    "doubled": "have the name of another one, and no label of their own",
    "hidden": "are hidden",
}


class Tars:
    """The samples of one or more tars: an image with a `cls` or a `json` label.

    Class names come one per line from a file `classes.txt` beside the tars, else from the labels themselves.

    Args:
        labelled: whether labels are looked at; else all are −1, and images need none.

    Attributes:
        notes: what was left out, and why.
    """

    class_names: tuple[str, ...] = ()

    def __init__(self, files: Sequence[Path], labelled: bool = True) -> None:
        self.files = [str(file) for file in files]
        indexes = _indexes(self.files, labelled)
        counts = [len(index["offset"]) for index in indexes]
        self.tar: NDArray[np.int64] = np.repeat(np.arange(len(counts)), counts)
        self.name, self.offset, self.size, values = (
            np.concatenate([index[column] for index in indexes]) for column in _ROWS
        )
        left_out: Counter[str] = Counter()
        for index in indexes:
            left_out.update(dict(zip(index["reason"].tolist(), index["count"].tolist(), strict=True)))
        self.notes = tuple(_notes(left_out, self.files, values))
        if not len(self.name):
            what = "images with labels" if labelled else "images"
            raise DataError(f"{self.files[0]} has no {what}{''.join('; ' + note for note in self.notes)}")
        if not labelled:
            self.labels = np.full(len(self.name), -1, dtype=np.int64)
            return
        self.labels, self.class_names = labels_from_values(values)
        listed = Path(self.files[0]).parent / "classes.txt"
        if listed.is_file():
            self._rename(values, listed)

    def _rename(self, values: NDArray, listed: Path) -> None:
        """Labels as indices into, or names of, the classes of the file."""
        try:
            names = tuple(lines_of(listed))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{listed} cannot be read: {one_line(error)}; it has one class name a line") from error
        place = {name: position for position, name in enumerate(names)}
        distinct, found = np.unique(values, return_inverse=True)
        texts = distinct.tolist()
        if all(text in place for text in texts):
            labels = [place[text] for text in texts]
        else:
            numbers = [text == "-1" or (text.isascii() and text.isdigit() and len(text) < 10) for text in texts]
            unknown = next((text for text, known in zip(texts, numbers, strict=True) if not known), None)
            if unknown is not None:
                raise DataError(f"the label '{unknown}' in {self.files[0]} is not in {listed}")
            labels = [int(text) for text in texts]
        self.labels, self.class_names = np.array(labels, dtype=np.int64)[found.reshape(-1)], names

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

    def file_of(self, index: int) -> InFile:
        return InFile(self.files[self.tar[index]], f"member {os.fsdecode(self.name[index])}", int(self.size[index]))


def _indexes(files: Sequence[str], labelled: bool) -> list[_Index]:
    """Where the images of tars lie.

    Raises:
        NoLabels: none of the tars has a label; where only some have none, it is a DataError.
    """
    indexes: list[_Index] = []
    unlabelled: NoLabels | None = None
    for file in files:
        try:
            indexes.append(_index(Path(file), labelled))
        except NoLabels as error:
            unlabelled = unlabelled or error
        if unlabelled is not None and indexes:
            raise DataError(str(unlabelled))
    if unlabelled is not None:
        raise unlabelled
    return indexes


def _index(tar: Path, labelled: bool) -> _Index:
    """Where the images lie; kept apart for a tar whose labels are not looked at, which may hold other samples."""
    try:
        stat = tar.stat()
    except OSError as error:
        raise DataError(f"{tar} cannot be read: {error.strerror or error}") from error
    stamp = np.array([_VERSION, stat.st_size, stat.st_mtime_ns], dtype=np.int64)
    key = hashlib.sha256(str(tar.absolute()).encode()).hexdigest()[:32]
    ending = ".npz" if labelled else ".unlabelled.npz"
    places = [tar.with_name(f"{tar.name}.coadvise{ending}"), cache_folder() / "tars" / f"{key}{ending}"]
    for place in places:
        index = _load(place, stamp)
        if index is not None:
            _require_labels(index, labelled, tar)
            return index
    index = {**_scan(tar, labelled), "stamp": stamp}
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(place) as temporary, temporary.open("wb") as file:
                np.savez(file, **index)  # type: ignore[arg-type]
            break
        except OSError:
            continue  # a read-only place; with none at all, the index is made again next time
    _require_labels(index, labelled, tar)  # here, so that a large tar without labels is not read again to say so
    return index


def _load(place: Path, stamp: NDArray[np.int64]) -> _Index | None:
    """The index that lies there; None where it is missing, damaged or of another state of the tar."""
    try:
        with np.load(place, allow_pickle=False) as stored:
            index = {name: stored[name] for name in _KINDS}
    # Whatever is wrong with it (an archive of any kind raises what it likes): it is made again.
    except Exception:
        return None
    if any(array.ndim != 1 or array.dtype.kind != _KINDS[name] for name, array in index.items()):
        return None
    rows, reasons = ({len(index[name]) for name in names} for names in (_ROWS, ("reason", "count")))
    return index if len(rows) == len(reasons) == 1 and np.array_equal(index["stamp"], stamp) else None


class _Bounded(io.BufferedReader):
    """A file of which no more is asked for than it has: tarfile makes room for whatever size a header names."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > io.DEFAULT_BUFFER_SIZE:
            size = min(size, os.fstat(self.fileno()).st_size)
        return super().read(size)


@contextmanager
def open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """A plain tar, of whose members the headers are read."""
    with _Bounded(io.FileIO(path)) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        yield archive


def _scan(tar: Path, labelled: bool) -> _Index:
    """Read every header, and the small label members where labels are looked at."""
    end = tar.stat().st_size
    try:
        with open_tar(tar) as archive:
            infos = []
            for info in archive:
                if info.isreg() and info.offset_data + info.size > end:
                    raise tarfile.ReadError(f"it ends inside of {info.name}")
                infos.append(info)
            _check_end(tar, archive.offset)
        found = find_samples(infos, labelled=labelled)
        with tar.open("rb") as file:
            labels = [_first_label(sample.labels, tar, file) if labelled else "" for sample in found.samples]
            reasons = Counter({f"{reason}|": count for reason, count in found.left_out.items()})
            for members, instead in found.imageless if labelled else ():
                with contextlib.suppress(DataError):  # what has no image may be no label at all, as `classes.json`
                    if label := _first_label(members, tar, file):
                        reasons.update((f"imageless|{instead}", f"class|{label}"))
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        with open(tar, "rb") as file:
            packed = file.read(2) in (b"\x1f\x8b", b"BZ", b"\xfd7")
        hint = "; it is compressed, which rules out random access: unpack it to a plain .tar" if packed else ""
        raise DataError(f"{tar} is no readable tar: {one_line(error)}{hint}") from error
    images = [sample.image for sample in found.samples]
    for label in labels:
        reasons.pop(f"class|{label}", None)
    return {
        "name": np.array([os.fsencode(image.name) for image in images], dtype=bytes),
        "offset": np.array([image.offset for image in images], dtype=np.int64),
        "size": np.array([image.size for image in images], dtype=np.int64),
        "label": np.array(labels, dtype=str),
        "reason": np.array(list(reasons), dtype=str),
        "count": np.array(list(reasons.values()), dtype=np.int64),
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


def _require_labels(index: _Index, labelled: bool, tar: Path) -> None:
    absent = np.flatnonzero(index["label"] == "")
    if labelled and len(absent):
        kind = NoLabels if len(absent) == len(index["label"]) else DataError
        raise kind(
            f"{tar} member {os.fsdecode(index['name'][absent[0]])} has no label; add a member with the extension .cls, "
            'or .json with {"label": …}'
        )


def _first_label(members: Sequence[Member], tar: Path, file: BinaryIO) -> str:
    """The first label that is not empty; nothing where there is none."""
    return next(filter(None, (_label(member, tar, file) for member in members)), "")


def _label(member: Member, tar: Path, file: BinaryIO) -> str:
    """The label that a member holds, without white space around it; nothing where it holds none.

    Raises:
        DataError: it holds something else.
    """
    kind = "json" if member.name.lower().endswith(".json") else "cls"
    where = f"{tar} member {member.name}"
    if member.size > _LONGEST[kind]:
        raise DataError(f"{where} has {member.size} bytes, which is no label; write the class's name or number")
    file.seek(member.offset)
    try:
        text = text_of(file.read(member.size)).strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is no text in UTF-8 ({error}); write the class's name or number") from error
    label = text if kind == "cls" else _json_label(text, where)
    if len(label) > _LONGEST["cls"]:
        raise DataError(f"{where} has a label of {len(label)} characters; write the class's name or number")
    return label


def _json_label(text: str, where: str) -> str:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f'{where} is no readable JSON: {one_line(error)}; write {{"label": …}}') from error
    if isinstance(value, dict):
        value = next((value[key] for key in ("label", "cls", "class") if value.get(key) is not None), None)
    if value is None:
        return ""
    if isinstance(value, (dict, list)) or (isinstance(value, float) and not math.isfinite(value)):
        what = "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else str(value)
        raise DataError(f"{where} has {what} as its label; write the class's name or number")
    return str(value)


def _notes(left_out: Counter[str], files: Sequence[str], labels: NDArray) -> Iterator[str]:
    """What was left out of tars, a sentence for each reason.

    Args:
        labels: those that have images.
    """
    place = files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    for reason, why in _REASONS.items():
        if left_out[f"{reason}|"]:
            yield f"images in {place} that are not read: {left_out[f'{reason}|']:,}, which {why}"
    if left_out["links|"]:
        yield f"links in {place} that lead to nothing in there: {left_out['links|']:,}; make the tar with --dereference"
    imageless = {key.partition("|")[2]: count for key, count in left_out.items() if key.startswith("imageless|")}
    if imageless:
        kinds = ", ".join(sorted(filter(None, imageless))[:4])
        gone = sorted({key.partition("|")[2] for key in left_out if key.startswith("class|")} - set(labels.tolist()))
        classes = f"; no image is left of {few(gone)}" if gone else ""
        beside = f" (but {kinds})" if kinds else ""
        yield f"labels in {place} without an image of a known kind{beside}: {sum(imageless.values()):,}{classes}"
