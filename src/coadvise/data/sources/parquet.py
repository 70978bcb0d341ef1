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

from ...errors import DataError, one_line
from ...system.files import atomic_file, cache_folder
from .base import IMAGE_COLUMNS, LABEL_COLUMNS, find_column, labels_from_values

IN_MEMORY = 2 << 30


class Parquet:
    """The rows of one or more Parquet files with the same columns."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = [str(file) for file in files]
        schema = _reading(self.files[0], pq.read_schema)
        features = _features(schema)
        images, labels = (
            [name for name, feature in features.items() if feature.get("_type") == kind]
            for kind in ("Image", "ClassLabel")
        )
        self.image_column = find_column(schema.names, images, IMAGE_COLUMNS, self.files[0])
        self.label_column = find_column(schema.names, labels, LABEL_COLUMNS, self.files[0])
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
        position, row = self._place(index)
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
        position, row = self._place(index)
        return f"{self.files[position]} row {row}"

    def _place(self, index: int) -> tuple[int, int]:
        """Number of the file, and row in it."""
        position = int(np.searchsorted(self.starts, index, side="right")) - 1
        return position, int(index - self.starts[position])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": {}}  # a spawned worker reads the files itself

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
            self._images[position] = _reading(file, lambda f: load(f, self.image_column)).chunks
        return self._images[position]

    def _beside(self, position: int, path: str, index: int) -> bytes:
        """An image that the file only names."""
        try:
            return (Path(self.files[position]).parent / path).read_bytes()
        except OSError as error:
            raise DataError(
                f"{self.describe(index)} names the file '{path}', which cannot be read: {error.strerror or error}"
            ) from error


def _reading(file: str, read: Any) -> Any:
    """Run a pyarrow call; its errors become a DataError that names the file."""
    try:
        return read(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file} is no readable Parquet file: {one_line(error)}") from error


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
    groups = (part.row_group(group) for part in metadata for group in range(part.num_row_groups))
    columns = (group.column(i) for group in groups for i in range(group.num_columns))
    return sum(one.total_uncompressed_size for one in columns if one.path_in_schema.split(".")[0] == column)


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Features that `datasets` declares in the schema's metadata, by column."""
    raw = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(raw)["info"]["features"] if raw else {}
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
