"""Parquet files in the Hugging Face image format."""

from __future__ import annotations

import io
import json
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from coadvise.data.sources.opening import open_source
from fuzz.engine import BrokenPromise, Input, Target
from fuzz.mutate import mutate_bytes, mutate_tree

_INFO = {"info": {"features": {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}}}


def _picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (200, 30, 90)).save(file, "PNG")
    return file.getvalue()


def _columns() -> dict[str, list[Any]]:
    picture = _picture()
    return {
        "image": [{"bytes": picture, "path": f"{i}.png"} for i in range(5)],
        "label": [i % 2 for i in range(5)],
        "text": ["é", "", "x", None, "y"],
    }


def _written(columns: dict[str, Any], info: Any, **options: Any) -> bytes:
    table = pa.table(columns)
    if info is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def _odd(rng: Random) -> bytes:
    """Whole files with columns that nobody expects: other types, names, nulls, nothing."""
    columns: dict[str, Any] = _columns()
    picture = columns["image"][0]["bytes"]
    info: Any = mutate_tree(rng, _INFO, ["image", "label", "names", "_type"]) if rng.random() < 0.6 else None
    images = (
        [picture] * 5, [None] * 5, [{"path": "x"}] * 5, [{"bytes": None, "path": None}] * 5, ["x"] * 5, [1] * 5,
        [[picture]] * 5, [{"bytes": "x"}] * 5, [{"path": "/dev/null"}] * 5, [{"path": "../" * 50}] * 5, [True] * 5,
    )  # fmt: skip
    labels = (
        ["a", "b", "1_1", "11", " "], [0.5, 1.5, 0.5, float("nan"), 2.0], [None] * 5, [-1] * 5, [10**15] * 5,
        [True] * 5, [[0]] * 5, [{"a": 1}] * 5, [b"\xff"] * 5, pa.array(["a", "b"] * 2 + ["a"]).dictionary_encode(),
        pa.array([2**64 - 1] * 5, pa.uint64()), pa.array([0] * 5, pa.date32()), pa.nulls(5), [0, 0, 1, 1, 7],
    )  # fmt: skip
    if rng.random() < 0.5:
        columns["image"] = rng.choice(images)
    if rng.random() < 0.7:
        columns["label"] = rng.choice(labels)
    if rng.random() < 0.2:
        columns[rng.choice(("img", "labels", "", "a.b", "x" * 500))] = columns.pop(rng.choice(("image", "label")))
    if rng.random() < 0.1:
        columns = {name: value[:0] for name, value in columns.items()}
    return _written(columns, info)


def parquet(folder: Path) -> Target:
    """A Parquet file."""
    raw = [
        _written(_columns(), _INFO),
        _written(
            _columns(), _INFO, compression="zstd", row_group_size=2, use_dictionary=False, data_page_version="2.0"
        ),
        _written({"image": [_picture()] * 5, "label": ["a", "b", "a", "b", "c"]}, None, compression="gzip"),
    ]

    def make(rng: Random) -> Input:
        way, one = rng.random(), rng.choice(raw)
        if way < 0.25:
            return {"a.parquet": _odd(rng)}
        length = int.from_bytes(one[-8:-4], "little")
        if way < 0.5:  # the footer alone
            foot = mutate_bytes(rng, one[-8 - length : -8])
            return {"a.parquet": one[: -8 - length] + foot + len(foot).to_bytes(4, "little") + b"PAR1"}
        if way < 0.75:  # the pages alone
            return {
                "a.parquet": (mutate_bytes(rng, one[: -8 - length]) + one)[: len(one) - 8 - length] + one[-8 - length :]
            }
        return {"a.parquet": mutate_bytes(rng, one, raw)}

    def read(place: Path) -> None:
        opened = open_source(f"parquet:{place / 'a.parquet'}")
        for number in range(min(len(opened), 20)):
            if not isinstance(opened.read(number), bytes):
                raise BrokenPromise(f"{opened.describe(number)} is no file: {type(opened.read(number)).__name__}")
        if len(opened.labels) != len(opened) or opened.labels.max() >= len(opened.class_names):
            raise BrokenPromise("labels do not fit the images or the classes")

    return Target([{"a.parquet": one} for one in raw], make, read)
