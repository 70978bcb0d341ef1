"""Local Parquet in the Hugging Face image format, through pyarrow alone.

An image column of struct{bytes, path} or plain binary and a label column. Parquet compresses whole row
groups, which makes single rows costly. So the image column is held in memory up to `IN_MEMORY` bytes in all; beyond
that, each file is unpacked once into an Arrow file in the cache folder, which is mapped into memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ...errors import DataError
from ...system.files import atomic_file, cache_folder
from .base import labels_from_values
from .splits import expand, group_by_split, select_split

IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png", "webp")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "cls")
IN_MEMORY = 2 << 30


class Parquet:
    """The rows of one or more Parquet files with the same columns."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = [str(file) for file in files]
        schema = self._schema(0)
        features = _features(schema)
        self.image_column = _column(schema, features, IMAGE_COLUMNS, "Image", self.files[0])
        self.label_column = _column(schema, features, LABEL_COLUMNS, "ClassLabel", self.files[0])
        metadata = [_reading(file, pq.read_metadata) for file in self.files]
        self.starts = np.cumsum([0] + [part.num_rows for part in metadata])
        self.in_memory = _column_bytes(metadata, self.image_column) <= IN_MEMORY
        values = np.concatenate([self._labels(position) for position in range(len(self.files))])
        names = features.get(self.label_column, {}).get("names")
        if names is not None and values.dtype.kind == "i":
            self.labels: NDArray[np.int64] = values.astype(np.int64)
            self.class_names = tuple(str(name) for name in names)
        else:
            self.labels, self.class_names = labels_from_values(values)
        # Read here rather than at first use, so that forked workers share the memory.
        self._images: dict[int, list[pa.Array]] = {}
        for position in range(len(self.files)):
            self._chunks(position)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, index: int) -> bytes:
        position = int(np.searchsorted(self.starts, index, side="right")) - 1
        row = int(index - self.starts[position])
        for chunk in self._chunks(position):
            if row < len(chunk):
                break
            row -= len(chunk)
        value: Any = chunk[row].as_py()
        if isinstance(value, dict):
            value, path = value.get("bytes"), value.get("path")
            if value is None and path:
                return self._beside(position, path, index)
        if value is None:
            raise DataError(f"{self.describe(index)} holds no image")
        return value

    def describe(self, index: int) -> str:
        position = int(np.searchsorted(self.starts, index, side="right")) - 1
        return f"{self.files[position]} row {index - self.starts[position]}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": {}}  # a spawned worker reads the files itself

    def _schema(self, position: int) -> pa.Schema:
        return _reading(self.files[position], pq.read_schema)

    def _labels(self, position: int) -> NDArray:
        file = self.files[position]
        column = _reading(file, lambda f: _table(f, self.label_column)).combine_chunks()
        if column.null_count:
            row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise DataError(f"{file} row {row} has no label in column '{self.label_column}'")
        if pa.types.is_integer(column.type):
            return column.to_numpy(zero_copy_only=False).astype(np.int64)
        return np.array([str(value) for value in column.to_pylist()], dtype=str)

    def _chunks(self, position: int) -> list[pa.Array]:
        """The image column of a file."""
        if position not in self._images:
            file = self.files[position]
            load = _table if self.in_memory else _mapped
            column = _reading(file, lambda f: load(f, self.image_column))
            self._images[position] = column.chunks
        return self._images[position]

    def _beside(self, position: int, path: str, index: int) -> bytes:
        """An image that the file only names."""
        try:
            return (Path(self.files[position]).parent / path).read_bytes()
        except OSError as error:
            raise DataError(
                f"{self.describe(index)} names the file '{path}', which cannot be read: {error.strerror or error}"
            ) from error


def parquet_groups(source: str) -> dict[str, list[Path]]:
    """Parquet files of a file, folder, glob or brace pattern, by split."""
    root = Path(source)
    if root.is_dir():
        files = [file for file in root.rglob("*.parquet") if not file.name.startswith(".")]
    else:
        files, root = [file for file in expand(source) if file.is_file()], root.parent
    if not files:
        raise DataError(f"there are no Parquet files at {source}; check the path")
    return group_by_split(files, root)


def open_parquet(source: str, split: str | None) -> Parquet:
    """The rows of one split."""
    return Parquet(select_split(parquet_groups(source), split, source))


def _reading(file: str, read: Any) -> Any:
    """Run a pyarrow call; what it does not like about the file becomes a DataError that names it."""
    try:
        return read(file)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file} is no readable Parquet file: {reason}") from error


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


def _column_bytes(metadata: Sequence[pq.FileMetaData], column: str) -> int:
    total = 0
    for part in metadata:
        for group in range(part.num_row_groups):
            row_group = part.row_group(group)
            total += sum(
                row_group.column(i).total_uncompressed_size
                for i in range(row_group.num_columns)
                if row_group.column(i).path_in_schema.split(".")[0] == column
            )
    return total


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Features that `datasets` declares in the schema's metadata, by column."""
    raw = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(raw)["info"]["features"] if raw else {}
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _column(schema: pa.Schema, features: dict[str, Any], usual: Sequence[str], kind: str, file: str) -> str:
    """A column by its usual names, or the only one that is declared to be of the kind."""
    for name in usual:
        if name in schema.names:
            return name
    declared = [name for name, feature in features.items() if feature.get("_type") == kind]
    if len(declared) == 1 and declared[0] in schema.names:
        return declared[0]
    word = "image" if kind == "Image" else "label"
    raise DataError(f"{file} has no {word} column (its columns: {', '.join(schema.names)}); name it '{usual[0]}'")
