"""Test sets without labels, as competitions have them: left aside for validation unless somebody asks for them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from coadvise.data.sources.base import ImageSource
from coadvise.data.sources.opening import open_sources
from coadvise.errors import DataError, NoLabels
from coadvise.recipe.schema import Data

NOTE = "note: test has no labels, so it is no use for validation"


def pixel(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (3, 2), value).save(out, "PNG")
    return out.getvalue()


def greys(source: ImageSource) -> list[int]:
    images = (source.read(index) for index in range(len(source)))
    return sorted(Image.open(io.BytesIO(image)).getpixel((0, 0)) for image in images if isinstance(image, bytes))  # type: ignore[type-var]


def write_parquet(path: Path, first: int, labels: pa.Array | None, rows: int = 6) -> None:
    columns = {"image": pa.array([pixel(first + row) for row in range(rows)], pa.binary())}
    pq.write_table(pa.table(columns if labels is None else {**columns, "label": labels}), path)


def write_tar(path: Path, first: int, labels: Sequence[str | None], ending: str = "cls") -> None:
    with tarfile.open(path, "w") as archive:
        for row, label in enumerate(labels):
            parts = {"png": pixel(first + row), **({} if label is None else {ending: label.encode()})}
            for extension, body in parts.items():
                member = tarfile.TarInfo(f"{first + row}.{extension}")
                member.size = len(body)
                archive.addfile(member, io.BytesIO(body))


def opened(source: Path | str, **settings: Any) -> tuple[list[int], list[str]]:
    """Greys of all images of a data set, and what is noted."""
    said: list[str] = []
    train, val = open_sources(Data(source=str(source), val_fraction=0.25, **settings), said.append)
    assert len(val) == 2
    return sorted(greys(train) + greys(val)), said[2:]


@pytest.mark.parametrize(
    "labels",
    [None, pa.nulls(6), pa.nulls(6, pa.int64()), pa.nulls(6, pa.string()), pa.array([float("nan")] * 6),
     pa.nulls(6, pa.dictionary(pa.int32(), pa.string())), pa.array([-1] * 6)],
)  # fmt: skip
@pytest.mark.parametrize("name", ["train", "digits_train"])
def test_parquet(tmp_path: Path, labels: pa.Array | None, name: str) -> None:
    write_parquet(tmp_path / f"{name}.parquet", 0, pa.array([0, 1] * 4), 8)
    test = name.replace("train", "test")
    for part in range(2):
        write_parquet(tmp_path / f"{test}-{part}.parquet", 100 + 10 * part, labels)
    assert opened(tmp_path) == (list(range(8)), [NOTE.replace("test", test)])
    with pytest.raises(DataError, match=r"no label|has label -1 \(−1 marks images without a label: leave them out\)"):
        opened(tmp_path, val_split=test)
    with pytest.raises(DataError, match=r"no label|has label -1"):
        opened(tmp_path / f"{name}.parquet", val_source=f"{tmp_path}/{test}-*.parquet")


def test_parquet_of_which_a_part_has_labels_is_still_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", 0, pa.array([0, 1] * 4), 8)
    write_parquet(tmp_path / "test-0.parquet", 100, pa.nulls(6, pa.int64()))
    write_parquet(tmp_path / "test-1.parquet", 110, pa.array([0, 1, 0, 1, 0, None]))
    with pytest.raises(DataError, match=r"test-0.parquet row 0 has no label in column 'label' \(6 in all\)") as caught:
        opened(tmp_path)
    assert not isinstance(caught.value, NoLabels)


def test_columns_that_are_asked_for_by_name(tmp_path: Path) -> None:
    """A table without them is a test set like any other; also one without any of several columns of 0 and 1."""
    images = pa.array([pixel(value) for value in range(8)], pa.binary())
    marks = {"cat": pa.array([1, 0] * 4), "dog": pa.array([0, 1] * 4)}
    pq.write_table(pa.table({"image": images, "kind": pa.array(["a", "b"] * 4), **marks}), tmp_path / "train.parquet")
    write_parquet(tmp_path / "test.parquet", 100, None)
    assert opened(f"{tmp_path}:label=kind") == (list(range(8)), [NOTE])
    for columns in (":label=cat,dog", ":label=kind"):
        said: list[str] = []
        open_sources(Data(source=f"{tmp_path}{columns}", labels="several"), said.append, several=True)
        assert NOTE in said
    with pytest.raises(DataError, match=r"has no column 'kinds' \(did you mean kind\?\)"):
        opened(f"{tmp_path}:label=kinds")


@pytest.mark.parametrize("labels", [None, [None] * 6, [-1] * 6])
def test_hugging_face(tmp_path: Path, labels: list[int | None] | None) -> None:
    datasets = pytest.importorskip("datasets")
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    parts = {}
    for name, first, column in (("train", 0, [0, 1] * 4), ("test", 100, labels)):
        rows = len(column or range(6))
        columns: dict[str, Any] = {"image": [{"bytes": pixel(first + row), "path": None} for row in range(rows)]}
        columns |= {} if column is None else {"label": column}
        kinds = datasets.Features({key: features[key] for key in columns})
        parts[name] = datasets.Dataset.from_dict(columns, features=kinds)
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "set"))
    assert opened(f"hf:{tmp_path}/set") == (list(range(8)), [NOTE])
    with pytest.raises(DataError, match=r"no label|has label -1"):
        opened(f"hf:{tmp_path}/set", val_split="test")


@pytest.mark.parametrize(("label", "ending"), [(None, "cls"), ("", "cls"), ('{"text": "a"}', "json"), ("-1", "cls")])
def test_tars(tmp_path: Path, label: str | None, ending: str) -> None:
    write_tar(tmp_path / "train.tar", 0, ["0", "1"] * 4)
    for part in range(2):
        write_tar(tmp_path / f"test-{part}.tar", 100 + 10 * part, [label] * 6, ending)
    assert opened(tmp_path) == (list(range(8)), [NOTE])
    with pytest.raises(DataError, match=r"test-0.tar member 100.png has (no label; add a member|label -1)"):
        opened(tmp_path, val_split="test")


@pytest.mark.parametrize("bare", [0, 1])
def test_tars_of_which_a_part_has_labels_are_still_refused(tmp_path: Path, bare: int) -> None:
    write_tar(tmp_path / "train.tar", 0, ["0", "1"] * 4)
    write_tar(tmp_path / f"test-{bare}.tar", 100, [None] * 6)
    write_tar(tmp_path / f"test-{1 - bare}.tar", 110, ["0", "1"] * 3)
    with pytest.raises(DataError, match=rf"test-{bare}.tar member 100.png has no label; add a member"):
        opened(tmp_path)
    (tmp_path / f"test-{bare}.tar").unlink()
    write_tar(tmp_path / f"test-{1 - bare}.tar", 110, ["0", None, "1"])
    with pytest.raises(DataError, match=rf"test-{1 - bare}.tar member 111.png has no label"):
        opened(tmp_path)


@pytest.mark.parametrize("split", ["val", "validation"])
def test_a_validation_set_without_labels_is_still_refused(tmp_path: Path, split: str) -> None:
    write_parquet(tmp_path / "train.parquet", 0, pa.array([0, 1] * 4), 8)
    write_parquet(tmp_path / f"{split}.parquet", 100, None)
    with pytest.raises(DataError, match=rf"{split}.parquet has no label column"):
        opened(tmp_path)
