"""Kinds of sources: which kind a `source` string names, what splits it has, and how one is opened."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import DataError, did_you_mean, nearest, shortened
from .base import ImageSource
from .columns import Columns, holds_bytes, split_columns
from .digits import Digits
from .folder import open_folder
from .layout import folder_splits, holds_classes, look_deeper, require_classes_once, unlabelled_splits
from .listing import folders_in, is_litter
from .members import find_samples
from .named import load_hf, open_hf, open_torchvision, torchvision_splits
from .parquet import Parquet
from .path_table import open_table, require_table, table_splits
from .shards import joined, shards
from .splits import meaning, pick_split
from .text_table import is_text_table
from .webdataset import Tars, open_tar


class Kind(NamedTuple):
    """How one kind of source lists its splits and opens one; the argument is its string without prefix and columns."""

    splits: Callable[[str], tuple[str, ...]]
    open: Callable[[str, str | None, Columns], ImageSource]
    unlabelled: Callable[[str, tuple[str, ...]], tuple[str, ...]] = lambda rest, splits: ()
    """Which of the splits have no labels, as test sets of competitions."""
    parts: Callable[[str], tuple[str, ...]] = lambda rest: ()
    """Splits with each of several files on its own that `splits` takes together; they may be asked for by name."""
    table: bool = False
    """Whether it has columns, whose names may follow its string."""


def _open_digits(rest: str, split: str | None, _: Columns) -> ImageSource:
    if rest:
        raise DataError(f"the source digits takes no further name, but has '{rest}'")
    return Digits(split)


def _sharded(ending: str, what: str, build: Callable[[Sequence[Path], Columns], ImageSource]) -> Kind:
    def splits(rest: str) -> tuple[str, ...]:
        """Splits of shards; a single name that is none of the usual ones is no split."""
        names = tuple(joined(shards(rest, ending, what)))
        return names if len(names) > 1 or meaning(names[0]) else ()

    def open_split(rest: str, split: str | None, columns: Columns) -> ImageSource:
        groups = shards(rest, ending, what)
        together = joined(groups)
        one, whole = ({name.lower() for name in names} for names in (groups, together))
        alone = split is not None and split.lower() in one - whole  # one of several, by its name
        known = groups if alone else together
        return build(known[pick_split(split, known, rest)], columns)

    return Kind(splits, open_split, parts=lambda rest: tuple(shards(rest, ending, what)), table=ending == ".parquet")


KINDS = {
    "digits": Kind(lambda rest: Digits.splits, _open_digits),
    "folder": Kind(
        lambda rest: folder_splits(_folder(rest)),
        lambda rest, split, _: open_folder(_folder(rest), split),
        lambda rest, splits: unlabelled_splits(_folder(rest), splits),
    ),
    "csv": Kind(lambda rest: table_splits(require_table(rest)), open_table, table=True),
    "parquet": _sharded(".parquet", "Parquet files", Parquet),
    "wds": _sharded(".tar", "tars", lambda files, columns: Tars(files, columns.labelled)),
    "hf": Kind(lambda rest: tuple(load_hf(rest)), open_hf, table=True),
    "torchvision": Kind(torchvision_splits, lambda rest, split, _: open_torchvision(rest, split)),
}


class Found(NamedTuple):
    """What a `source` string names.

    Attributes:
        name: of the kind.
        rest: the string without its prefix and columns.
        asked: whether the string names its kind.
        notes: what the choice left out.
        columns: names that follow the string.
    """

    name: str
    rest: str
    asked: bool
    notes: tuple[str, ...] = ()
    columns: Columns = Columns()

    def splits(self, *asked: str | None) -> tuple[str, ...]:
        """Names of the splits; () where there are none.

        Args:
            asked: names that somebody asks for: where one is that of a file that is taken together with others, each of
                them is a split.
        """
        known, parts = KINDS[self.name].splits(self.rest), KINDS[self.name].parts
        wanted = {name.lower() for name in asked if name is not None}
        if wanted <= {name.lower() for name in known}:
            return known
        alone = parts(self.rest)
        return alone if len(alone) > 1 and wanted & {name.lower() for name in alone} else known

    def open(self, split: str | None) -> ImageSource:
        """One split, or all where there are none.

        Raises:
            DataError: besides what the kind itself refuses, a kind whose images have one class, where several are
                asked for.
        """
        if self.columns.several and self.name not in ("csv", "parquet"):
            raise DataError(
                f"data.labels=several: a source of the kind {self.name} gives an image one class; give a CSV, TSV, "
                "JSON-lines or Parquet file with the labels"
            )
        return KINDS[self.name].open(self.rest, split, self.columns)


def find_kind(source: str) -> Found:
    """The kind of a source and the string without its prefix; a folder is taken for what lies in it.

    Raises:
        DataError: it does not exist, is of an unknown kind, may be of two, or has no columns that could be named.
    """
    if os.path.exists(source):  # unlike Path.exists, it knows that no file has a name of 5000 letters
        return _find_kind(source)
    rest, columns = split_columns(source)
    found = _find_kind(rest)
    if columns != Columns() and not KINDS[found.name].table:
        raise DataError(f"{source} names columns, but a source of the kind {found.name} has none; leave them out")
    return found._replace(columns=columns)


def _find_kind(source: str) -> Found:
    prefix, colon, rest = source.partition(":")
    if colon and prefix in KINDS:
        return Found(prefix, os.path.expanduser(rest), asked=True)
    source = os.path.expanduser(source)
    if source == "digits":
        return Found("digits", "", asked=True)
    if os.path.isdir(source):
        return _kind_of_folder(Path(source))
    if source.endswith(".parquet"):
        return Found("parquet", source, asked=False)
    if re.search(r"\.tar(\.\w+)?$", source):
        return Found("wds", source, asked=False)
    if is_text_table(source):
        return Found("csv", source, asked=False)
    if os.path.exists(source):
        raise DataError(f"the source {source} is a file of an unknown kind; expected a folder, .parquet, .tar or .csv")
    # A prefix of a single letter is a drive on Windows.
    if colon and len(prefix) > 1 and "/" not in prefix:
        raise DataError(f"the source '{source}' is of an unknown kind '{prefix}'{did_you_mean(prefix, KINDS)}")
    raise _no_folder(source)


def _kind_of_folder(path: Path) -> Found:
    """Class folders with images win over archives beside them, unless these are data of their own."""
    inner = look_deeper(path)
    archives = _archives(path, inner)
    ways = {kind: str(path) for kind, files in archives.items() if _USABLE[kind](files)}
    if not archives or holds_classes(inner):
        ways = {"folder": str(inner), **ways}
    if len(ways) > 1:
        named = " or ".join(f"data.source={kind}:{place}" for kind, place in ways.items())
        beside = " and ".join(str(archives[kind][0]) for kind in ways if kind != "folder")
        what = f"images in class folders, and {beside}" if "folder" in ways else beside
        raise DataError(f"{path} may be read in {len(ways)} ways ({what}); say which one is meant: {named}")
    kind = next(iter(ways or archives))
    if kind != "folder":
        return Found(kind, str(path), asked=False)
    if not holds_classes(inner):
        _require_no_table(path, inner)
    if not folder_splits(inner):
        require_classes_once(inner)
    unread = [file for files in archives.values() for file in files]
    more = f" and {len(unread) - 1} more archives" if len(unread) > 1 else ""
    notes = (f"{unread[0]}{more} not read: the images in the class folders are",) if unread else ()
    return Found("folder", str(inner), asked=False, notes=notes)


def _require_no_table(path: Path, inner: Path) -> None:
    """Refuse a folder without images of two classes where a table in it may say what they are of."""
    places = {root / name for root in (path, inner) for name in os.listdir(root) if is_text_table(name)}
    tables = sorted(str(place) for place in places if place.is_file() and not is_litter(place.name))
    if tables:
        ways = " or ".join(f"data.source={table}" for table in tables[:3])
        raise DataError(
            f"{path} has no two class folders with images; to take the labels from a table in it, give {ways} (or "
            f"data.source=folder:{path} to take it as it is)"
        )


def _archives(path: Path, inner: Path) -> dict[str, list[Path]]:
    """Archives of a folder, of what it wraps and of their folders, by the kind of source that they may be."""
    kinds = {".parquet": "parquet", ".tar": "wds"}
    found: dict[str, list[Path]] = {}
    for place in dict.fromkeys(root / name for root in (path, inner) for name in ("", *folders_in(root))):
        try:
            names = sorted(name for name in os.listdir(place) if not is_litter(name))
        except OSError:  # a folder that may not be read, or has gone, is no source of archives
            continue
        for name in names:
            kind = kinds.get(os.path.splitext(name)[1])
            if kind is not None and (place / name).is_file():
                found.setdefault(kind, []).append(place / name)
    return dict(sorted(found.items()))


_LOOKED_AT = 8  # files that are opened to see what they hold, of a folder's
_MEMBERS = 64  # members of a tar that are looked at, of its first


def _holds_images(files: Iterable[Path]) -> bool:
    """Whether Parquet files have a column that can hold images; a table of file names is not meant."""
    for file in list(files)[:_LOOKED_AT]:
        try:
            with file.open("rb") as opened:  # by its name, Arrow may take it for an address
                types = pq.read_schema(opened).types
        except (OSError, pa.ArrowException):
            continue
        if any(map(holds_bytes, types)):
            return True
    return False


def _holds_samples(files: Iterable[Path]) -> bool:
    """Whether tars have images with labels; an archive of class folders has none."""
    for file in list(files)[:_LOOKED_AT]:
        try:
            with open_tar(file) as archive:
                found = find_samples(list(islice(archive, _MEMBERS)))
        except (tarfile.TarError, OSError, EOFError):
            continue
        if any(sample.labels for sample in found.samples):
            return True
    return False


_USABLE = {"parquet": _holds_images, "wds": _holds_samples}


def _folder(path: str) -> Path:
    if not os.path.isdir(path):
        raise _no_folder(path)
    return Path(path)


def _no_folder(path: str) -> DataError:
    hint = nearest(path, KINDS) if "/" not in path else ""
    what = "is no folder" if os.path.exists(path) else "does not exist"
    return DataError(
        f"the data source {shortened(path, 300)} {what}{hint}; give digits, a folder, a CSV or Parquet file, tars, "
        "hf:NAME or torchvision:NAME"
    )
