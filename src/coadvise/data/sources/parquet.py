"""Local Parquet in the Hugging Face image format, through pyarrow alone.

An image column of struct{bytes, path}, plain binary or paths of files, and a label column. Parquet compresses whole row
groups, which makes single rows costly. So the image column is held in memory up to `IN_MEMORY` bytes in all; beyond
that, each file is unpacked once into an Arrow file in the cache folder, which is mapped into memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ...errors import DataError, few, one_line
from ...shapes import Bool, Int64
from ...system.files import atomic_file, cache_folder
from .base import InFile
from .columns import Columns, choose_columns, is_number, several_named
from .labels import label_column, labels_and_names, require_some
from .several import (
    Sets,
    holds_marks,
    lists_in,
    marks_in,
    notes_on_names,
    separated,
    sets_of_lists,
    sets_of_marks,
)

IN_MEMORY = 2 << 30


class Parquet:
    """The rows of one or more Parquet files with the same columns.

    Attributes:
        notes: what is odd about the labels.
        sets: see `base.sets_of`.
    """

    notes: tuple[str, ...] = ()
    sets: Bool[np.ndarray, "m k"] | None = None
    separator: str | None = None
    class_names: tuple[str, ...] = ()

    def __init__(self, files: Sequence[Path], columns: Columns = Columns()) -> None:
        self.files = [str(file) for file in files]
        metadata, schemas = zip(*(_reading(file, _footer) for file in self.files), strict=True)
        self.starts = np.cumsum([0] + [part.num_rows for part in metadata])
        features = _features(schemas[0])
        images, labels = (
            [name for name, feature in features.items() if feature.get("_type") == kind]
            for kind in ("Image", "ClassLabel")
        )
        self.image_column, self.label_columns = self._choose(schemas[0], images, labels, columns)
        self.label_column = self.label_columns[0] if self.label_columns else ""
        names = self._declared(schemas[0])
        for file, schema in zip(self.files, schemas, strict=True):
            self._require_alike(file, schema, names)
        self.in_memory = _fits(metadata, self.image_column)
        self._read_labels(columns, names)
        # Read here rather than at first use, so that forked workers share the memory.
        self._images: dict[int, list[pa.Array]] = {}
        self._ends: dict[int, Int64[np.ndarray, " n"]] = {}  # of the chunks of a file, in rows
        for position in range(len(self.files)):
            self._chunks(position)

    def _read_labels(self, columns: Columns, names: tuple[str, ...] | None) -> None:
        if not columns.labelled:
            self.labels = np.full(len(self), -1, dtype=np.int64)
            return
        if len(self.label_columns) == 1:
            held = (self._column(file, self.label_column) for file in self.files)
            require_some(held, self.label_column, self.files[0])
        if columns.several:
            self.labels, self.sets, self.class_names = self._several(names, columns.separator)
            return
        if len(self.label_columns) > 1:
            raise DataError(f"{self.files[0]}: {few(self.label_columns)} mark several classes; set data.labels=several")
        parts = [self._labels(position) for position in range(len(self.files))]
        kinds = {part.dtype.kind for part in parts if len(part)}
        values = np.concatenate(parts if len(kinds) < 2 else [part.astype(str).astype(object) for part in parts])
        self.labels, self.class_names = labels_and_names(values, names)
        self.notes = notes_on_names(self.class_names) if names is None else ()

    def _choose(
        self, schema: pa.Schema, images: list[str], labels: list[str], columns: Columns
    ) -> tuple[str, tuple[str, ...]]:
        """The column of images, and that of labels; of 0 and 1 for each class there may be several."""
        if not columns.labelled:
            return choose_columns(schema, images, labels, columns, self.files[0])[0], ()
        named = several_named(columns, schema.names)
        if not named and columns.several and columns.label is None:
            image, _ = choose_columns(schema, images, (), columns._replace(label=schema.names[0]), self.files[0])
            try:
                return image, (choose_columns(schema, images, (), columns, self.files[0])[1],)
            except DataError:
                named = tuple(name for name in self._marks(schema) if name != image)
                if len(named) < 2:
                    raise
        if named:
            image, _ = choose_columns(schema, images, (), columns._replace(label=named[0]), self.files[0])
            return image, named
        image, label = choose_columns(schema, images, labels, columns, self.files[0])
        return image, (label,)

    def _marks(self, schema: pa.Schema) -> list[str]:
        """Columns that hold nothing but 0 and 1."""
        numbers = [field.name for field in schema if is_number(field.type)]
        return [name for name in numbers if all(holds_marks(self._column(file, name)) for file in self.files)]

    def _several(self, names: tuple[str, ...] | None, known: str | None) -> Sets:
        """Any number of classes for each row, from a column of lists or texts, or from columns of 0 and 1."""
        columns = [[(self._column(file, name), name, file) for file in self.files] for name in self.label_columns]
        if len(columns) > 1:
            marks = [np.concatenate([marks_in(*part) for part in parts]) for parts in columns]
            return sets_of_marks(np.column_stack(marks), self.label_columns)
        found = [one for part in columns[0] for one in lists_in(*part, names)]
        texts = [one for one in found if isinstance(one, str)]  # what separates them is found over all files
        if len(texts) == len(found):
            lists: list[Any]
            lists, self.separator = separated(texts, self.describe, known)
        else:
            lists = [one for one in found if isinstance(one, list)]
        return sets_of_lists(np.arange(len(lists)), lists, names)

    def _column(self, file: str, name: str) -> pa.ChunkedArray:
        column = _reading(file, lambda f: _table(f, name))
        self._require_rows(self.files.index(file), len(column), "labels")
        return column

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, index: int) -> bytes:
        position, _ = self._place(index)
        chunk, row = self._cell(index)
        try:
            value: Any = chunk[row].as_py()
        except ValueError as error:  # text that is none
            raise DataError(f"{self.describe(index)} cannot be read: {one_line(error)}; replace it") from error
        if isinstance(value, dict):
            held = value.get("bytes")
            value = held if held is not None else value.get("path")
        if isinstance(value, str) and value:
            return self._beside(position, value, index)
        if not isinstance(value, bytes) or not value:
            what = f" but {type(value).__name__}" if value else ""
            raise DataError(f"{self.describe(index)} holds no image in column '{self.image_column}'{what}")
        return value

    def describe(self, index: int) -> str:
        position, row = self._place(index)
        return f"{self.files[position]} row {row}"

    def file_of(self, index: int) -> InFile:
        """The Parquet file, or the image beside it that a row names."""
        position, row = self._place(index)
        held = self._held(index)
        if isinstance(held, str):
            return InFile(str(Path(self.files[position]).parent / held))
        return InFile(self.files[position], f"row {row}", held)

    def _held(self, index: int) -> int | str | None:
        """How many bytes an image has, which are not copied, or its path if the row holds none; None for neither."""
        chunk, row = self._cell(index)
        columns = [chunk]
        if pa.types.is_struct(chunk.type):
            names = [field.name for field in chunk.type]
            columns = [chunk.field(names.index(name)) for name in ("bytes", "path") if name in names]
        held = next((column[row] for column in columns if column[row].is_valid), None)
        if isinstance(held, pa.StringScalar):  # a kind of BinaryScalar
            with suppress(ValueError):  # text that is none
                return held.as_py() or None
        elif isinstance(held, pa.BinaryScalar):
            return len(held.as_buffer())
        return None

    def _cell(self, index: int) -> tuple[pa.Array, int]:
        """The part of the image column that holds an image, and the row in it."""
        position, row = self._place(index)
        chunks = self._chunks(position)
        if position not in self._ends:
            self._ends[position] = np.cumsum([len(chunk) for chunk in chunks])
        number = int(np.searchsorted(self._ends[position], row, side="right"))
        return chunks[number], row - int(self._ends[position][number] - len(chunks[number]))

    def _place(self, index: int) -> tuple[int, int]:
        """Number of the file, and row in it."""
        position = int(np.searchsorted(self.starts, index, side="right")) - 1
        return position, int(index - self.starts[position])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": {}, "_ends": {}}  # a spawned worker reads the files itself

    def _declared(self, schema: pa.Schema) -> tuple[str, ...] | None:
        """Class names that a file declares, in the order of its labels."""
        feature = _features(schema).get(self.label_column, {})
        inner = feature.get("feature")  # of a list
        names = feature.get("names") or (inner.get("names") if isinstance(inner, dict) else None)
        return tuple(str(name) for name in names) if isinstance(names, list) else None

    def _require_alike(self, file: str, schema: pa.Schema, names: tuple[str, ...] | None) -> None:
        """Refuse a file without the columns of the first, or with other class names: its labels mean something else."""
        for column in (self.image_column, *self.label_columns):
            if schema.names.count(column) != 1:
                what = "no" if column not in schema.names else "more than one"
                raise DataError(f"{file} has {what} column '{column}' (its columns: {', '.join(schema.names)})")
        if self._declared(schema) != names:
            raise DataError(
                f"{file} declares other classes than {self.files[0]}, or in another order; give files that belong "
                "together, or write them with the same features"
            )

    def _labels(self, position: int) -> NDArray:
        file = self.files[position]
        return label_column(self._column(file, self.label_column), self.label_column, file)

    def _require_rows(self, position: int, found: int, what: str) -> None:
        rows = self.starts[position + 1] - self.starts[position]
        if found != rows:
            raise DataError(
                f"{self.files[position]} is damaged: it has not the {rows} {what} that it says; get it again"
            )

    def _chunks(self, position: int) -> list[pa.Array]:
        """The image column of a file."""
        if position not in self._images:
            file = self.files[position]
            load = _table if self.in_memory else _mapped
            self._images[position] = _reading(file, lambda f: load(f, self.image_column)).chunks
            self._require_rows(position, sum(map(len, self._images[position])), "images")
        return self._images[position]

    def _beside(self, position: int, path: str, index: int) -> bytes:
        """An image that the file only names."""
        folder = Path(self.files[position]).parent
        try:
            return (folder / path).read_bytes()
        except (OSError, ValueError) as error:  # a name with a zero in it is a ValueError
            address = "; it is an address: download the images first" if "://" in path else ""
            raise DataError(
                f"{self.describe(index)} names the file '{path}', which cannot be read from {folder}: "
                f"{one_line(error)}{address}"
            ) from error


def _reading(file: str, read: Any) -> Any:
    """Run a pyarrow call; its errors become a DataError that names the file."""
    try:
        return read(file)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # names of columns that are no text
        raise DataError(f"{file} is no readable Parquet file: {one_line(error)}") from error


def _footer(file: str) -> tuple[pq.FileMetaData, pa.Schema]:
    metadata = pq.read_metadata(file)
    return metadata, metadata.schema.to_arrow_schema()


def _table(file: str, column: str) -> pa.ChunkedArray:
    # Threads of a parent do not survive a fork: a worker that reads must not wait for them.
    return pq.read_table(file, columns=[column], use_threads=False, partitioning=None).column(0)


def _mapped(file: str, column: str) -> pa.ChunkedArray:
    """The column from an Arrow file in the cache, made once for each state of the Parquet file."""
    stat = os.stat(file)
    key = f"{os.path.abspath(file)} {stat.st_size} {stat.st_mtime_ns} {column}"
    target = cache_folder() / "parquet" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.arrow"
    if not target.is_file():
        try:
            _unpack(file, column, target)
        except OSError as error:
            raise DataError(f"{file} cannot be unpacked to {target.parent}: {error}; free space there") from error
    return pa.ipc.open_file(pa.memory_map(str(target))).read_all().column(0)


def _unpack(file: str, column: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = pq.ParquetFile(file)
    schema = pa.schema([part.schema_arrow.field(column)])
    with atomic_file(target) as temporary, pa.ipc.new_file(str(temporary), schema) as writer:
        for batch in part.iter_batches(batch_size=1024, columns=[column], use_threads=False):
            writer.write_batch(batch.cast(schema))


def _fits(metadata: Sequence[pq.FileMetaData], column: str) -> bool:
    """Whether a column is small enough to be held in memory."""
    groups = [part.row_group(group) for part in metadata for group in range(part.num_row_groups)]
    # Single columns are asked for their size only where it matters: pyarrow ends the process at some damaged ones.
    if sum(group.total_byte_size for group in groups) <= IN_MEMORY:
        return True
    columns = (group.column(i) for group in groups for i in range(group.num_columns))
    return (
        sum(one.total_uncompressed_size for one in columns if one.path_in_schema.split(".")[0] == column) <= IN_MEMORY
    )


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Features that `datasets` declares in the schema's metadata, by column."""
    raw = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(raw)["info"]["features"] if raw else {}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    if not isinstance(features, dict):
        return {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
