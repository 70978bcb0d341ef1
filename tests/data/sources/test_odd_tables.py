"""Parquet files and tars of other programs, or damaged: read, or refused with the file and the row."""

from __future__ import annotations

import io
import json
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import processes
from PIL import Image

import coadvise.data.sources.parquet as parquet_module
from coadvise.data.sources.opening import open_source
from coadvise.errors import DataError


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (200, 30, 90)).save(file, "PNG")
    return file.getvalue()


def write(path: Path, images: Any, metadata: str | None = None) -> Path:
    table = pa.table({"image": images, "label": ["a", "b"]})
    pq.write_table(table.replace_schema_metadata({"huggingface": metadata} if metadata else None), path)
    return path


NAMES_THAT_ARE_NO_LIST = {"info": {"features": {"image": 1, "label": {"_type": "ClassLabel", "names": "ab"}}}}


@pytest.mark.parametrize(
    "metadata",
    [
        "x", "[]", '{"info": 1}', '{"info": {"features": "image"}}', '{"info": {"features": [1]}}', "[" * 100_000,
        json.dumps(NAMES_THAT_ARE_NO_LIST),
    ],
)  # fmt: skip
def test_features_of_another_form_declare_nothing(tmp_path: Path, metadata: str) -> None:
    source = open_source(str(write(tmp_path / "a.parquet", [picture()] * 2, metadata)))
    assert source.class_names == ("a", "b") and source.read(1) == picture()


@pytest.mark.parametrize("images", [[[b"x"]] * 2, [[1]] * 2, [1, 2], [{"bytes": 7}] * 2, [{"bytes": [1]}] * 2])
def test_columns_without_images_are_refused(tmp_path: Path, images: list[Any]) -> None:
    path = write(tmp_path / "a.parquet", images)
    with pytest.raises(DataError, match=r"a\.parquet"):
        open_source(str(path)).read(1)


def test_text_that_is_none_is_refused(tmp_path: Path) -> None:
    damaged = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")]
    )
    path = write(tmp_path / "a.parquet", damaged)
    with pytest.raises(DataError, match=r"a\.parquet row 1 cannot be read"):
        open_source(str(path)).read(1)


FOOTERS = """
import sys
from pathlib import Path
import coadvise.data.sources.parquet as parquet_module
from coadvise.data.sources.opening import open_source
from coadvise.errors import DataError

path = Path(sys.argv[1])
raw = path.read_bytes()
start, read, refused = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little"), 0, 0
for place in range(start, len(raw) - 8):
    if raw[place] == 12:  # the code of binary columns, among others; 4 is that of integers
        path.write_bytes(raw[:place] + b"\\x04" + raw[place + 1 :])
        try:
            open_source(str(path)).read(1)
            read += 1
        except DataError as error:
            assert str(path) in str(error)
            refused += 1
print(read, refused)
"""


def test_a_damaged_footer_does_not_end_the_process(tmp_path: Path) -> None:
    """pyarrow's column().total_uncompressed_size does, where the type of a column is another than its pages'."""
    path = write(tmp_path / "a.parquet", [picture()] * 2)
    done = processes.run("-c", FOOTERS, str(path))
    assert done.returncode == 0, done.stderr
    read, refused = map(int, done.stdout.split())
    assert refused > 0 and read + refused > 3


def test_more_rows_than_images_are_noticed(tmp_path: Path) -> None:
    """A footer that says 3 rows of two."""
    path = write(tmp_path / "a.parquet", [picture()] * 2)
    real = parquet_module.pq.read_metadata

    class Longer:
        """The footer of the file, but for one number."""

        def __init__(self, file: str) -> None:
            self._real = real(file)

        num_rows = 3

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    with (
        mock.patch.object(parquet_module.pq, "read_metadata", Longer),
        pytest.raises(DataError, match=r"a\.parquet is damaged"),
    ):
        open_source(str(path))


def test_fewer_labels_than_rows_are_noticed(tmp_path: Path) -> None:
    """A page of the label column that has lost its last value."""
    path = write(tmp_path / "a.parquet", [picture()] * 2)
    whole = parquet_module._table

    def shorter(file: str, column: str) -> pa.ChunkedArray:
        return whole(file, column).slice(0, 1 if column == "label" else 2)

    with (
        mock.patch.object(parquet_module, "_table", shorter),
        pytest.raises(DataError, match=r"a\.parquet is damaged: it has not the 2 labels"),
    ):
        open_source(str(path))


def test_names_of_columns_that_are_no_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [picture()] * 2)
    path.write_bytes(path.read_bytes().replace(b"label", b"\x80abel"))
    with pytest.raises(DataError, match=r"a\.parquet is no readable Parquet file"):
        open_source(str(path))


def test_a_tar_header_of_any_size_takes_no_memory(tmp_path: Path) -> None:
    """An extended header that says it is 300 MB long, in a tar of a few kB."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("é" * 80 + ".png")
        info.size = len(picture())
        archive.addfile(info, io.BytesIO(picture()))
    raw = bytearray(path.read_bytes())
    assert raw[156:157] == b"x"
    raw[124:136] = b"%011o\0" % 300_000_000
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw[:512])
    path.write_bytes(raw)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"a\.tar"):
            open_source(f"wds:{path}")
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()
