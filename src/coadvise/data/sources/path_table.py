"""Tables of paths and labels: CSV, TSV and JSON lines.

One row for each image: its path, relative to the table's folder, and its label, or a column of 0 and 1 for each class;
a column `split` makes splits of the rows. Texts are taken without blanks around them: `a.jpg, cat` is of class `cat`.
Where images have any number of classes, a label may be `cat|outdoor` or a list, and a row may mark several columns.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import DataError, escaped, few, shortened
from ...shapes import Bool, Int64
from .base import InFile
from .columns import Columns, choose_columns, several_named
from .labels import labels_from_values
from .listing import EXTENSIONS
from .several import Sets, notes_on_names, separated, sets_of_lists, sets_of_marks
from .splits import meaning, pick_split
from .text_table import Coded, header_of, is_json, quoted, read_columns

_SPLITS = ("split", "subset", "partition", "set", "usage")
# What stands in a column that says of each image whether it is of a class.
_MARKS = {
    **dict.fromkeys(("0", "0.0", "False", "false", "FALSE"), False),
    **dict.fromkeys(("1", "1.0", "True", "true", "TRUE"), True),
}
_ROWS = 1 << 14  # paths that are looked at together


class PathTable:
    """The images that a table lists, all of them or those of one split.

    Attributes:
        notes: what is odd about the table.
        sets: see `base.sets_of`.
    """

    sets: Bool[np.ndarray, "m k"] | None = None
    separator: str | None = None
    class_names: tuple[str, ...] = ()

    def __init__(self, file: Path, split: str | None = None, columns: Columns = Columns()) -> None:
        self.file = file
        header = header_of(file)
        self._quoted = quoted(file, len(header))
        split_column = _split_column(file, header)
        image, labels = _choose(file, [name for name in header if name != split_column or name in columns], columns)
        wanted = [image, *labels, *([split_column] if split_column else [])]
        for name in wanted:
            if header.count(name) > 1:
                raise DataError(f"{file} has {header.count(name)} columns '{name}'; rename all but one")
        paths, coded = read_columns(file, wanted, lists=columns.several)
        marked, rest = coded[: len(labels)], coded[len(labels) :]
        if not len(paths):
            raise DataError(f"{file} has no rows; give one for each image")
        rows = np.arange(len(paths))
        if rest:
            rows = np.flatnonzero(_in_split(rest[0], split, file))
        self.paths = paths.take(pa.array(rows)) if rest else paths
        self._require_paths(image, rows)
        kept = [Coded(column.codes[rows], column.values) for column in marked]
        if not columns.labelled:
            self.labels = np.full(len(rows), -1, dtype=np.int64)
        elif columns.several:
            self.labels, self.sets, self.class_names = self._several(marked, labels, rows, split, columns.separator)
        else:
            label = kept[0] if len(kept) == 1 else self._one_of(kept, labels, rows)
            self.labels, self.class_names = self._labels(label, labels, rows, split)
        _require_single_lines(file, self.class_names, "a label")
        self._require_files()
        self.notes = tuple(self._notes())

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        path = self.describe(index)
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error

    def describe(self, index: int) -> str:
        return str(self.file.parent / self.paths[index].as_py())

    def file_of(self, index: int) -> InFile:
        return InFile(self.describe(index))

    def _labels(
        self, coded: Coded, columns: Sequence[str], rows: np.ndarray, split: str | None
    ) -> tuple[Int64[np.ndarray, " n"], tuple[str, ...]]:
        """Labels by the rules of `labels_from_values`; −1 in a split of which no row has one, as in competitions."""
        missing = np.flatnonzero(coded.codes < 0)
        if len(missing) == len(rows) and split is not None:
            return coded.codes, ()
        if len(missing):
            first = int(missing[0])
            place = f"column '{columns[0]}'" if len(columns) == 1 else f"any of the columns {few(columns)}"
            raise DataError(
                f"{self.file} row {rows[first] + 1} ({self.paths[first].as_py()}) has no label in {place} "
                f"({len(missing):,} in all); leave such rows out{_or_several(coded.values, columns)}"
            )
        there, codes = np.unique(coded.codes, return_inverse=True)
        each, names = labels_from_values([coded.values[code] for code in there])
        return each[codes], names

    def _several(
        self, columns: list[Coded], names: Sequence[str], rows: np.ndarray, split: str | None, known: str | None
    ) -> Sets:
        """Any number of classes for each of some rows; −1 in a split of which no row has one, as in competitions."""
        if len(columns) == 1:
            codes, values = columns[0]
            where = lambda code: f"{self.file} row {codes.tolist().index(code) + 1}"
            lists, self.separator = separated(values, where, known)
            found = sets_of_lists(codes[rows], lists, None)
        else:
            columns = [Coded(column.codes[rows], column.values) for column in columns]
            for one, name in zip(columns, names, strict=True):
                empty = np.flatnonzero(one.codes < 0)
                if len(empty):
                    raise DataError(
                        f"{self.file} row {rows[empty[0]] + 1} ({self.paths[int(empty[0])].as_py()}) has nothing in "
                        f"column '{name}' ({len(empty):,} in all); write 0 or 1, or leave such rows out"
                    )
            found = sets_of_marks(_marked(columns).T, names)
        return found if found.sets.any() or split is None else found._replace(labels=np.full(len(rows), -1))

    def _one_of(self, marks: list[Coded], names: Sequence[str], rows: np.ndarray) -> Coded:
        """The one class that each row marks, −1 where it marks none."""
        marked = _marked(marks)
        several = np.flatnonzero(marked.sum(axis=0) > 1)
        if len(several):
            first = int(several[0])
            which = [name for name, mark in zip(names, marked[:, first], strict=True) if mark]
            raise DataError(
                f"{self.file} row {rows[first] + 1} ({self.paths[first].as_py()}) has several labels: {few(which)} "
                f"({len(several):,} such rows in all); data.labels=several trains on all of them; "
                "for one label each leave such rows out, or name a column of labels, data.source=…:label=NAME"
            )
        return Coded(np.where(marked.any(axis=0), marked.argmax(axis=0), -1), tuple(names))

    def _require_paths(self, column: str, rows: np.ndarray) -> None:
        empty = self.paths.is_null()
        if pc.any(empty).as_py():
            count, first = pc.sum(empty).as_py(), pc.index(empty, True).as_py()
            raise DataError(
                f"{self.file} row {rows[first] + 1} has no path in column '{column}' ({count:,} in all); leave such "
                "rows out"
            )

    def _require_files(self) -> None:
        """Refuse a table of which files are missing: one message for all of them."""
        folder, missing, first = str(self.file.parent), 0, ""
        for start in range(0, len(self), _ROWS):  # a Python text for each path takes memory
            for path in self.paths.slice(start, _ROWS).to_pylist():
                if not os.path.isfile(os.path.join(folder, path)):
                    missing, first = missing + 1, first or path
        if missing:
            part = "all" if missing == len(self) else f"{missing:,} of the"
            many, verb = ("1 image", "is") if missing == 1 else (f"{part} {len(self):,} images", "are")
            raise DataError(
                f"{many} that {self.file} lists {verb} missing, such as {_shown(first)}; "
                f"{_advice_on(first, self.file.parent)}"
            )

    def _notes(self) -> Iterator[str]:
        coded = self.paths.dictionary_encode()
        extra = len(self) - len(coded.dictionary)
        if extra:
            pairs = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64) * (len(self.class_names) + 1)
            differing = len(np.unique(pairs + self.labels + 1)) - len(coded.dictionary)
            other = f", {differing:,} of them with another label" if differing else ""
            yield f"{extra:,} rows of {self.file} list an image again{other}"
        if self._quoted.rows:
            which = "1 line" if self._quoted.rows == 1 else f"{self._quoted.rows:,} lines"
            yield (
                f"{which} of {self.file} between quotation marks may be rows, and no image is read from there; "
                f"if so, remove or close the quotation mark in line {self._quoted.opens}"
            )
        if self.sets is None:
            yield from notes_on_names(self.class_names)


_ON_ONE_LINE = "write it on one line; if it is several rows, remove or close the quotation mark before them"


def _require_single_lines(file: Path, names: Sequence[str], where: str) -> None:
    """Refuse names of several lines: of several rows a stray quotation mark makes one value."""
    for name in filter(_breaks, () if is_json(file) else names):
        raise DataError(f"{file} has a line break in {where}, {_shown(name)}; {_ON_ONE_LINE}")


def _breaks(text: str) -> bool:
    return "\n" in text or "\r" in text


def _shown(text: str) -> str:
    """A text of a table on one line, for messages."""
    return shortened(escaped(text).replace("\r", "\\r").replace("\n", "\\n"), 200)


def _or_several(values: Sequence[str], columns: Sequence[str]) -> str:
    """What else may be meant by rows without a label, among such as `dog|outdoor` or in columns of 0 and 1."""
    if len(columns) > 1 or notes_on_names(values):
        return ", or let images have several classes or none: data.labels=several"
    return ""


def _marked(marks: Sequence[Coded]) -> Bool[np.ndarray, "k n"]:
    """Which rows each column marks."""
    return np.stack([np.isin(one.codes, [c for c, v in enumerate(one.values) if _MARKS[v]]) for one in marks])


def table_splits(file: Path) -> tuple[str, ...]:
    """Splits that a column of a table names, in the order in which they come; () where there is none.

    Names that differ in capitals alone are of one split, which is called by the first of them: `find_split` and those
    who choose by usual names take them for the same, and would leave out the rows of all but one.
    """
    header = header_of(file)
    column = _split_column(file, header)
    if column is None:
        return ()
    quoted(file, len(header))  # before a split is missed that a stray quotation mark has swallowed
    names = read_columns(file, [None, column])[1][0].values
    _require_single_lines(file, names, f"the column '{column}'")
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(name.lower(), name)
    return tuple(first.values())


def open_table(path: str, split: str | None, columns: Columns) -> PathTable:
    """One split of a table, or all of a table without splits."""
    file = require_table(path)
    splits = table_splits(file)
    if splits or split is not None:
        split = pick_split(split, splits, path)
    return PathTable(file, split, columns)


def require_table(path: str) -> Path:
    """The file of a table.

    Raises:
        DataError: it is not there.
    """
    if not os.path.isfile(path):
        what = "is no file" if os.path.exists(path) else "does not exist"
        raise DataError(f"the table {shortened(path, 300)} {what}; give a CSV, TSV or JSON-lines file")
    return Path(path)


def _in_split(coded: Coded, split: str | None, file: Path) -> np.ndarray:
    missing = np.flatnonzero(coded.codes < 0)
    if len(missing):
        raise DataError(
            f"{file} row {missing[0] + 1} has no split ({len(missing):,} in all); give each row one, or leave it out"
        )
    same = [code for code, value in enumerate(coded.values) if split is not None and value.lower() == split.lower()]
    return np.isin(coded.codes, same)


def _choose(file: Path, header: Sequence[str], columns: Columns) -> tuple[str, tuple[str, ...]]:
    """The column of paths, and that of labels; without one, those of 0 and 1 if there are two at least."""
    schema = pa.schema([(name, pa.string()) for name in header])
    if not columns.labelled:
        return choose_columns(schema, (), (), columns, str(file))[0], ()
    named = several_named(columns, header)
    if named:
        image, _ = choose_columns(schema, (), (), columns._replace(label=named[0]), str(file))
        for name, one in zip(named, read_columns(file, [None, *named])[1], strict=True):
            if other := next((value for value in one.values if value not in _MARKS), None):
                raise DataError(f"{file}: the column '{name}' holds '{other}', and not 0 and 1")
        return image, named
    try:
        image, label = choose_columns(schema, (), (), columns, str(file))
        return image, (label,)
    except DataError:
        if columns.label is not None:
            raise
        image, _ = choose_columns(schema, (), (), columns._replace(label=max(header)), str(file))
        others = list(dict.fromkeys(name for name in header if name not in (image, "")))  # unnamed: numbers of rows
        coded = read_columns(file, [None, *others])[1]
        found = [
            name for name, one in zip(others, coded, strict=True) if one.values and _MARKS.keys() >= set(one.values)
        ]
        if len(found) < 2:
            raise
        return image, tuple(found)


def _split_column(file: Path, header: Sequence[str]) -> str | None:
    """The column that names splits: `split`, or one of a like name if it has a usual name of a split in it."""
    lower = {name.lower(): name for name in reversed(header)}
    for name in _SPLITS:
        if name in lower and (
            name == "split" or any(map(meaning, read_columns(file, [None, lower[name]])[1][0].values))
        ):
            return lower[name]
    return None


def _advice_on(missing: str, folder: Path) -> str:
    """How to mend a path that leads nowhere."""
    if _breaks(missing):
        return _ON_ONE_LINE
    if "://" in missing:
        return "it is an address: download the images first, and list their files"
    if "\\" in missing and os.path.isfile(folder / missing.replace("\\", "/")):
        return "write / for \\ in the paths"
    extension = next((one for one in sorted(EXTENSIONS) if os.path.isfile(folder / f"{missing}{one}")), None)
    if extension is not None:
        return f"{missing}{extension} is there: write {extension} behind the paths"
    inside = next((one for one in sorted(folder.glob(f"*/{_plain(missing)}"))), None) if _plain(missing) else None
    if inside is not None:
        return f"it lies in {inside.parent}: put {inside.parent.name}/ before the paths, or the table into that folder"
    return f"correct the paths, which are relative to {folder}, or leave the rows out"


def _plain(path: str) -> str:
    """The path as a pattern that fits it alone; nothing for one that leads outside."""
    if os.path.isabs(path) or ".." in Path(path).parts or "\0" in path:
        return ""
    return path.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")
