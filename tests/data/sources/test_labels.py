"""Labels → classes, against what is written down here; columns of tables, against pyarrow's own rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coadvise.data.sources.columns import Columns, split_columns
from coadvise.data.sources.labels import labels_from_values
from coadvise.data.sources.opening import open_source
from coadvise.errors import DataError


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["11_2", "1_12", "112"], ("112", "11_2", "1_12")),  # NumPy reads all three as 112
        (["001", "1", "01"], ("001", "01", "1")),
        ([" 1", "1", "1 "], (" 1", "1", "1 ")),
        (["+1", "1", "١"], ("+1", "1", "١")),
        (["10", "9", "2"], ("2", "9", "10")),
        (["10.5", "9.25", "2.0"], ("2.0", "9.25", "10.5")),
        (["10.50", "9.25"], ("10.50", "9.25")),
        (["10", "9", "2.5"], ("2.5", "9", "10")),
        (["10", "9", "b"], ("10", "9", "b")),
        (["nan", "inf", "1"], ("1", "inf", "nan")),
        (["9" * 30, "2"], ("2", "9" * 30)),
        (["9" * 5000, "2"], ("2", "9" * 5000)),
        (np.array([10.0, 9.0, 2.0]), ("2.0", "9.0", "10.0")),
        (np.array([10, 9, -2, -1]), ("-2", "-1", "9", "10")),
        (["-2", "-1", "1"], ("-2", "-1", "1")),
    ],
)
def test_every_value_is_a_class_of_its_own_in_order(values, names):
    labels, found = labels_from_values(values)
    assert found == names
    assert [found[label] for label in labels] == [str(value) for value in values]


@pytest.mark.parametrize("values", [np.array([3, -1, 0, -1]), ["3", "-1", "0", "-1"], np.array([3.0, -1, 0, -1])])
def test_minus_one_is_no_class(values, tmp_path):
    labels, names = labels_from_values(values)
    assert labels.tolist() == [1, -1, 0, -1] and len(names) == 2
    pq.write_table(pa.table({"image": [b"x"] * 4, "label": pa.array(list(values))}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 1 has label -1 .* marks images without a label.*; 2 labels"):
        open_source(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("column", "names", "labels"),
    [
        (pa.array([10.0, 2.0, 9.5]), ("2.0", "9.5", "10.0"), [2, 0, 1]),
        (pa.array([10.0, 2.0, 9.5], pa.float16()), ("2.0", "9.5", "10.0"), [2, 0, 1]),
        (pa.array(["1_12", "11_2", "1_12"]), ("11_2", "1_12"), [1, 0, 1]),
        (pa.array(["b", "a", "b"], pa.large_string()), ("a", "b"), [1, 0, 1]),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ("a", "b"), [1, 0, 1]),
        (pa.array(["b", "a", "b"], pa.string_view()), ("a", "b"), [1, 0, 1]),
        (pa.array([10, 9, 10]).dictionary_encode(), ("9", "10"), [1, 0, 1]),
        (pa.array(["é".encode(), b"a", b"a"]), ("a", "é"), [1, 0, 0]),
        (pa.array([True, False, True]), ("False", "True"), [1, 0, 1]),
        (pa.array([2**64 - 1, 9, 10], pa.uint64()), ("9", "10", str(2**64 - 1)), [2, 0, 1]),
    ],
)
def test_label_columns_of_all_types(column, names, labels, tmp_path):
    pq.write_table(pa.table({"image": pa.array([b"x"] * 3), "label": column}), tmp_path / "a.parquet")
    source = open_source(f"{tmp_path}/a.parquet:image=image")
    assert source.class_names == names and source.labels.tolist() == labels


def test_one_long_label_does_not_make_all_of_them_long(tmp_path):
    """Text of a fixed width would take 8 GB."""
    texts = ["x" * 100_000, *("ab" * 10_000)]
    pq.write_table(pa.table({"image": [b"x"] * len(texts), "label": texts}), tmp_path / "a.parquet")
    source = open_source(f"parquet:{tmp_path}/a.parquet")
    assert [source.class_names[label] for label in source.labels] == texts


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1.0, float("nan"), None]), r"a.parquet row 1 has no label in column 'label' \(2 in all\)"),
        (pa.array(["a", "b", None]).dictionary_encode(), r"row 2 has no label in column 'label' \(1 in all\)"),
        (pa.nulls(3), r"row 0 has no label"),
        (pa.array([[1], [2], [3]]), r"holds list<.*>, and not one label a row; say which .*:label=NAME"),
        (pa.array([b"\xff", b"a", b"a"]), r"holds bytes that are no text"),
    ],
)
def test_label_columns_that_are_none(column, message, tmp_path):
    table = pa.table({"image": pa.array([{"bytes": b"x"}] * 3), "label": column})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        open_source(f"{tmp_path}/a.parquet:label=label")


BYTES = pa.array([b"one", b"two"])
BOTH = pa.array([{"bytes": b"one", "path": "p"}, {"bytes": b"two", "path": None}])
KINDS = pa.array(["cat", "ant"])


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ({"img": BOTH, "fine_label": KINDS, "coarse_label": pa.array([0, 0])}, ""),
        ({"IMAGE": BYTES, "Label": KINDS}, ""),
        ({"image_id": pa.array([1, 2]), "data": BYTES, "category": KINDS}, ""),
        ({"image": pa.array([7, 8]), "content": BOTH, "class_name": KINDS}, ""),
        ({"image": pa.array(["a.jpg", "b.jpg"]), "jpg": BYTES, "labels": KINDS}, ""),
        ({"foto": BYTES, "mask": BYTES, "age": KINDS}, ":image=foto:label=age"),
        ({"label": pa.array([0, 1]), "age": KINDS, "foto": BYTES}, ":label=age"),
        ({"foto": BYTES, "mask": pa.array([b"", b""]), "label": KINDS}, ":image=foto"),
    ],
)
def test_columns_are_found_or_named(table, columns, tmp_path):
    pq.write_table(pa.table(table), tmp_path / "train.parquet")
    source = open_source(f"{tmp_path}/train.parquet{columns}")
    assert [bytes(source.read(i)) for i in range(2)] == [b"one", b"two"]
    assert [source.class_names[label] for label in source.labels] == ["cat", "ant"]


def test_images_beside_the_table(tmp_path, write_folder):
    """A column of paths, from the table's own folder on."""
    root = write_folder(tmp_path / "photos", count=2)
    files = sorted(root.rglob("*.png"))
    names = [str(path.relative_to(tmp_path)) for path in files]
    for column, values in (("image", names), ("file_name", names), ("path", [str(path) for path in files])):
        table = pa.table({column: values, "label": [path.parent.name for path in files]})
        pq.write_table(table, tmp_path / "list.parquet")
        source = open_source(f"parquet:{tmp_path}/list.parquet")
        assert source.class_names == ("cat", "dog")
        assert [source.read(i) for i in range(4)] == [path.read_bytes() for path in files]
    for name, message in (("gone.png", "cannot be read from .*No such file"), ("http://x/a.png", "it is an address")):
        pq.write_table(pa.table({"image": [name, name], "label": [0, 1]}), tmp_path / "list.parquet")
        with pytest.raises(DataError, match=rf"row 0 names the file '{name}', which {message}|{message}"):
            open_source(f"parquet:{tmp_path}/list.parquet").read(0)


def test_columns_that_are_not_there(tmp_path, write_folder):
    table = {"foto": BYTES, "mask": pa.array([b"\xff", b"x"]), "age": KINDS, "size": pa.array([3, 4])}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    for columns, message in (
        ("", r"no image column \(its columns: foto, mask, age, size\).*:image=NAME"),
        (":image=foto", r"no label column \(its columns: foto, mask, age, size\).*:label=NAME"),
        (":image=foto:label=mask", r"the column 'mask' of .* holds bytes that are no text"),
        (":image=size:label=age", r"the column 'size' holds int64, and not images; its columns are foto \(binary\)"),
        (":image=fotos:label=age", r"no column 'fotos' \(did you mean foto\?\)"),
    ):
        with pytest.raises(DataError, match=message):
            open_source(f"{tmp_path}/a.parquet{columns}")
    write_folder(tmp_path / "photos")
    with pytest.raises(DataError, match="names columns, but a source of the kind folder has none"):
        open_source(f"{tmp_path}/photos:label=age")


def test_a_string_with_columns_is_taken_apart():
    assert split_columns("hf:a/b:default:label=x:image=y") == ("hf:a/b:default", Columns("y", "x"))
    for plain in ("/a:b", "hf:a/b:default", "/x/label=3/a.parquet", "/x:label=", "label=3"):
        assert split_columns(plain) == (plain, Columns())


def test_files_that_do_not_belong_together(tmp_path):
    def write(number: int, names: list[str], **columns: object) -> Path:
        features = {"label": {"_type": "ClassLabel", "names": names}}
        table = pa.table({"image": BYTES, "label": [0, 1], **columns})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, tmp_path / f"train-{number}.parquet")
        return tmp_path / f"train-{number}.parquet"

    write(0, ["cat", "dog"])
    write(1, ["dog", "cat"])
    with pytest.raises(DataError, match=r"train-1.parquet declares other classes than .*train-0.parquet"):
        open_source(str(tmp_path), "train")
    pq.write_table(pa.table({"picture": BYTES, "label": [0, 1]}), tmp_path / "train-1.parquet")
    with pytest.raises(DataError, match=r"train-1.parquet has no column 'image' \(its columns: picture, label\)"):
        open_source(str(tmp_path), "train")
    pq.write_table(pa.table({"image": BYTES, "label": ["10", "9"]}), tmp_path / "train-1.parquet")
    pq.write_table(pa.table({"image": BYTES, "label": [9, 10]}), tmp_path / "train-0.parquet")
    source = open_source(str(tmp_path), "train")
    assert source.class_names == ("9", "10") and source.labels.tolist() == [0, 1, 1, 0]
