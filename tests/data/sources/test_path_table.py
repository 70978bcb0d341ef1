"""CSV, TSV and JSON-lines files of paths and labels; oracles are Python's csv and json modules, and hand-made lists."""

import csv
import gzip
import io
import json
import pickle
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from coadvise.advice.identity import data_facts
from coadvise.data.sources import text_table
from coadvise.data.sources.opening import open_source, open_sources
from coadvise.data.sources.path_table import PathTable, table_splits
from coadvise.errors import DataError
from coadvise.recipe.data import Data

NAMES = ["cat/one.png", "cat/two, or three.png", "dog/ä.png", 'dog/"quoted".png', "dog/line\nbreak.png", "e.png"]
LABELS = ["cat", "cat", "dog", "dog", "dog", "cat"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images, each of its own grey."""
    for shade, name in enumerate(NAMES):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4), shade * 40).save(path)
    return tmp_path


def written(rows: list[list[str]], delimiter: str = ",", end: str = "\r\n") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=end).writerows(rows)
    return text.getvalue()


def shade(source: PathTable, index: int) -> int:
    return Image.open(io.BytesIO(source.read(index))).getpixel((0, 0)) // 40  # type: ignore[operator]


ROWS = [["image", "label"], *map(list, zip(NAMES, LABELS, strict=True))]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", written(ROWS).encode()),
        ("a.csv", written(ROWS, end="\n").encode("utf-8-sig")),
        ("a.csv", written(ROWS).replace("\r\n", "\r").encode()),
        ("a.csv", ("\r\r" + written(ROWS).replace("\r\n", "\r")).encode("utf-8-sig")),
        ("a.csv.gz", gzip.compress(written(ROWS).replace("\r\n", "\r").encode())),
        ("a.CSV", written(ROWS, ";").encode()),
        ("a.tsv", written(ROWS, "\t").encode()),
        ("a.csv.gz", gzip.compress(written(ROWS).encode())),
        ("a.csv", written([[f" {cell} " for cell in row] for row in ROWS]).encode()),
        ("a.csv", ("\n\n" + written(ROWS) + "\n\n").encode()),
        ("a.csv", written([["", "File_Name", "n", "Category"], *(["7", a, "1.5", b] for a, b in ROWS[1:])]).encode()),
        ("a.jsonl", "\n".join(json.dumps({"label": b, "path": a, "more": [1]}) for a, b in ROWS[1:]).encode()),
        ("a.ndjson.gz", gzip.compress("\n\n".join(json.dumps({"img": a, "y": b}) for a, b in ROWS[1:]).encode())),
    ],
)  # fmt: skip
def test_every_way_of_writing_gives_the_same_images_and_labels(
    folder: Path, name: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_table, "_BLOCK", 96)  # several blocks
    monkeypatch.setattr(text_table, "_JSON_ROWS", 2)
    (folder / name).write_bytes(content)
    source = open_source(str(folder / name))
    assert isinstance(source, PathTable) and source.class_names == ("cat", "dog") and source.notes == ()
    assert [source.class_names[label] for label in source.labels] == LABELS
    assert source.labels.dtype == np.int64
    assert [shade(source, index) for index in range(len(source))] == list(range(6))
    assert source.describe(5) == str(folder / "e.png")
    again = pickle.loads(pickle.dumps(source))
    assert shade(again, 4) == 4 and (again.labels == source.labels).all()


def test_a_column_for_each_class(folder: Path) -> None:
    for one, zero in (("1", "0"), ("1.0", "0.0")):
        marks = [[one if name == label else zero for name in ("dog", "cow", "cat")] for label in LABELS]
        rows = [
            ["1", a, f"about {b}", *m, "val" if a == "e.png" else "train"]
            for (a, b), m in zip(ROWS[1:], marks, strict=True)
        ]
        (folder / "a.csv").write_text(written([["", "image", "text", "dog", "cow", "cat", "split"], *rows]))
        train, val = open_source(str(folder / "a.csv"), "train"), open_source(str(folder / "a.csv"), "val")
        assert [train.class_names[label] for label in train.labels] == LABELS[:5] and val.class_names == ("cat",)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["10", "9", "9", "10", "2", "2"], ("2", "9", "10")),
        (["010", "9", "9", "010", "2", "2"], ("010", "2", "9")),
        (["0.5", "-3", "7", "7", "7", "7"], ("-3", "0.5", "7")),
        (["NA", "null", "nan", "N/A", "NULL", "None"], ("N/A", "NA", "NULL", "None", "nan", "null")),
    ],
)
def test_classes_are_ordered_as_for_other_sources(folder: Path, labels: list[str], names: tuple[str, ...]) -> None:
    (folder / "a.csv").write_text(written([ROWS[0], *map(list, zip(NAMES, labels, strict=True))]))
    source = open_source(str(folder / "a.csv"))
    assert source.class_names == names
    assert [source.class_names[label] for label in source.labels] == labels


def test_columns_of_any_name_behind_the_string(folder: Path) -> None:
    rows = [["id", "foto", "image", "kind"], *([str(i), a, "?", b] for i, (a, b) in enumerate(ROWS[1:]))]
    (folder / "a.csv").write_text(written(rows))
    source = open_source(f"csv:{folder / 'a.csv'}:image=foto:label=kind")
    assert [source.class_names[label] for label in source.labels] == LABELS
    # A file whose name says nothing is read where the kind is named.
    (folder / "list.txt").write_text(written(ROWS, "|"))
    assert len(open_source(f"csv:{folder / 'list.txt'}")) == 6


def test_a_column_makes_splits(folder: Path) -> None:
    splits = ["train", "train", "val", "train", "train", "val"]
    for header in ("split", "Set", "subset"):
        rows = [["path", "class", header], *([a, b, c] for (a, b), c in zip(ROWS[1:], splits, strict=True))]
        (folder / "a.csv").write_text(written(rows))
        said: list[str] = []
        train, val = open_sources(Data(source=str(folder / "a.csv")), said.append)
        assert [shade(train, i) for i in range(4)] == [0, 1, 3, 4] and [shade(val, i) for i in range(2)] == [2, 5]  # type: ignore[arg-type]
        assert train.labels.tolist() == [0, 0, 1, 1] and val.labels.tolist() == [1, 0]
        assert said[0] == f"training: 4 images of 2 classes (cat: 2, dog: 2) from {folder / 'a.csv'}, split train"
    with pytest.raises(DataError, match="has the splits train, val; say which one"):
        open_source(str(folder / "a.csv"))
    # A column `set` with other things in it is not about splits.
    (folder / "a.csv").write_text(written([["path", "class", "set"], *([a, b, "x"] for a, b in ROWS[1:])]))
    assert table_splits(folder / "a.csv") == () and len(open_source(str(folder / "a.csv"))) == 6


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_splits_that_differ_in_capitals_alone_are_one(folder: Path, name: str) -> None:
    splits = ["Train", "train", "VAL", "TRAIN", "train", "Val"]
    rows = [["image", "label", "split"], *([a, b, c] for (a, b), c in zip(ROWS[1:], splits, strict=True))]
    lines = "\n".join(json.dumps(dict(zip(rows[0], row, strict=True))) for row in rows[1:])
    (folder / name).write_text(lines if name.endswith("jsonl") else written(rows))
    assert table_splits(folder / name) == ("Train", "VAL")
    said: list[str] = []
    train, val = open_sources(Data(source=str(folder / name)), said.append)
    assert [shade(train, i) for i in range(4)] == [0, 1, 3, 4] and [shade(val, i) for i in range(2)] == [2, 5]  # type: ignore[arg-type]
    assert said[0].startswith("training: 4 images") and len(said) == 2  # nothing is left out
    for asked in ("train", "TRAIN", "training"):
        assert len(open_source(str(folder / name), asked)) == 4
    assert len(PathTable(folder / name, "vaL")) == 2


def test_another_table_for_validation_and_a_test_split_without_labels(folder: Path) -> None:
    (folder / "a.csv").write_text(written(ROWS[:5]))
    (folder / "b.csv").write_text(written([["label", "image"], ["dog", NAMES[4]]]))
    train, val = open_sources(Data(source=str(folder / "a.csv"), val_source=str(folder / "b.csv")))
    assert train.class_names == val.class_names == ("cat", "dog") and val.labels.tolist() == [1]
    splits = ["train"] * 5 + ["test"]
    rows = [[a, b if c == "train" else "", c] for (a, b), c in zip(ROWS[1:], splits, strict=True)]
    (folder / "c.csv").write_text(written([["image", "label", "split"], *rows]))
    said: list[str] = []
    train, val = open_sources(Data(source=str(folder / "c.csv"), val_fraction=0.4), said.append)
    assert len(train) + len(val) == 5 and "note: test has no labels, so it is no use for validation" in said


def test_a_cache_knows_the_images_by_names_labels_and_contents(folder: Path) -> None:
    (folder / "a.csv").write_text(written(ROWS))
    table, data = open_source(str(folder / "a.csv")), Data(source="a.csv")
    facts = data_facts(data, table)
    (folder / "b.csv").write_text(written([row[::-1] for row in ROWS], ";"))
    assert data_facts(data, open_source(str(folder / "b.csv"))) == facts
    Image.new("L", (4, 4), 255).save(folder / NAMES[0])
    assert data_facts(data, open_source(str(folder / "a.csv")))["image contents"] != facts["image contents"]


def test_odd_tables_are_noted(folder: Path) -> None:
    rows = [*ROWS, [NAMES[0], "cat"], [NAMES[1], "dog"], [NAMES[2], "cat;dog"]]
    (folder / "a.csv").write_text(written(rows))
    said: list[str] = []
    open_source(str(folder / "a.csv"), say=said.append)
    assert said[1:] == [
        f"note: 3 rows of {folder / 'a.csv'} list an image again, 2 of them with another label",
        "note: an image has one class here, also where its label looks like several: 'cat;dog'; "
        "data.labels=several takes them apart",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a.csv is empty; give a line of names such as image,label"),
        (b"image,label\n", r"a.csv has no rows"),
        (b"e.png,cat\n", r"has no names of columns: its first line is that of an image \(e.png, cat\); put a line"),
        (b"file,when\ne.png,1\n", r"a.csv has no label column \(its columns: file, when\); name it 'label', or say"),
        (b"what,label\ne.png,1\n", r"a.csv has no image column \(its columns: what, label\)"),
        (b"image,label,label\ne.png,a,b\n", r"a.csv has 2 columns 'label'; rename all but one"),
        (b"image,label\ne.png,a\ne.png,a,b\n", r"a.csv is no readable table: CSV .*Expected 2 columns, got 3"),
        (b"image,label\ne.png,a\ne.png,\n ,x\n", r"a.csv row 3 has no path in column 'image' \(1 in all\); leave"),
        (b"image,label\ne.png,a\ne.png,\ne.png,\n", r"row 2 \(e.png\) has no label in column 'label' \(2"),
        (b"image,label\ne.png,a\nf.png,b\ng.png,c\n", r"2 of the 3 images that .*a.csv lists are missing, such as f.png"
         r"; correct the paths, which are relative to .*, or leave the rows out"),
        (b"image,label\ne.png,a\ntwo,b\n", r"1 image that .* is missing, such as two; correct the paths, which"),
        (b"image,label\ne,b\ncat/one,c\n", r"all 2 images .* missing, such as e; e.png is there: write .png behind"),
        (b"image,a,b\ne.png,1,0\ne.png,1,1\n", r"row 2 \(e.png\) has several labels: 'a', 'b' \(1 such rows"),
        (b"image,a,b\ne.png,1,0\ne.png,0,0\n", r"row 2 \(e.png\) has no label in any of the columns 'a', 'b' \(1"),
        (b"image,a,b\ne.png,1,x\n", r"has no label column"),
        (b"image,label\none.png,b\n", r"one.png; it lies in .*/cat: put cat/ before the paths, or the table into"),
        (b"image,label\ncat\\one.png,b\n", r"write / for \\ in the paths"),
        (b"image,label\nhttps://x.org/one.png,b\n", r"it is an address: download the images first"),
        (b"image,label\na\0b.png,b\n", r"is missing, such as a"),
        ("image,label\ne.png,größe\n".encode("latin1"), r"a.csv is not in UTF-8; save it as CSV UTF-8"),
        ("image,größe\ne.png,x\n".encode("latin1"), r"a.csv is not in UTF-8"),
        ("image,label\ne.png,x\n".encode("utf-16"), r"a.csv is not in UTF-8; save it .*iconv -f utf-16 -t utf8"),
        (b"image,label," + b"x" * 200_000 + b"\ne.png,a\n", r"its first line, that of .* \(field larger .*\); give"),
        (b"image,label,split\ne.png,a,train\ne.png,b,\n", r"a.csv row 2 has no split \(1 in all\)"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table_is_said(folder: Path, content: bytes, message: str) -> None:
    (folder / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_source(str(folder / "a.csv"), "train" if b"split" in content else None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"image": "e.png", "label": "a"}\n{"image": ', r"a.jsonl line 2 cannot be read: Expecting value"),
        ('["e.png", "a"]', r"a.jsonl line 1 is no object; write \{"),
        ('{"image": "e.png", "label": ["a", "b"]}', r"a.jsonl row 1: the column 'label' holds several values"),
        ('{"image": "e.png", "label": "a"}\n{"label": "b"}', r"row 2 has no path in column 'image'"),
        ("", r"a.jsonl is empty; give a line"),
        ('{"image": "e.png", "label": "a"}\n' * 3 + '{"image": "caf\\udce9.png", "label": "b"}',
         r"a.jsonl row 4: 'caf\\udce9.png' in the column 'image' is not UTF-8; rename the file or the class"),
        ('{"image": "e.png", "label": "a"}\n' * 2 + '{"image": "e.png", "label": "\\ud800"}',
         r"a.jsonl row 3: '\\ud800' in the column 'label' is not UTF-8"),
        ('{"image": "e.png", "label": "a", "\\ud800": 1}', r"a.jsonl: the name of the column '\\ud800' is not UTF-8"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_json_lines_is_said(
    folder: Path, content: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_table, "_JSON_ROWS", 3)  # so that the fourth row stands in another block
    (folder / "a.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        open_source(str(folder / "a.jsonl"))


@pytest.mark.parametrize("place", [30, -5_000, -60])
@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz"])
def test_a_damaged_archive_is_refused(folder: Path, name: str, place: int) -> None:
    """A byte of the packed data is another one, near the beginning, in the middle or near the end."""
    rows = [(f"{number}-{np.sqrt(number + 0.5)}.png", str(number % 7)) for number in range(3_000)]
    lines = [json.dumps({"image": a, "label": b}) for a, b in rows] if "json" in name else map(",".join, rows)
    packed = bytearray(gzip.compress("\n".join(["image,label"] * ("csv" in name) + list(lines)).encode()))
    packed[place] ^= 0xFF
    (folder / name).write_bytes(packed)
    with pytest.raises(DataError, match=rf"{name} (line \d+ )?cannot be read: "):
        open_source(str(folder / name))


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the table .*no.csv does not exist; give a CSV"):
        open_source(f"{tmp_path}/no.csv")
    with pytest.raises(DataError, match=r"is no file"):
        open_source(f"csv:{tmp_path}")


def test_a_large_table_is_read_in_blocks(tmp_path: Path) -> None:
    """Beside the paths and a number for each row, nothing stays: not the other columns, and no Python text."""
    rows, filler = 20_000, "x" * 500
    with (tmp_path / "a.csv").open("w") as file:
        file.write("image,caption,label\n")
        file.writelines(f"images/{row:09d}.jpg,{filler},class {row % 100}\n" for row in range(rows))
    before = pa.total_allocated_bytes()
    paths, (labels,) = text_table.read_columns(tmp_path / "a.csv", ["image", "label"])
    ends = time.monotonic() + 10
    while (kept := pa.total_allocated_bytes() - before) >= 60 * rows and time.monotonic() < ends:
        time.sleep(0.05)  # Arrow's threads give back blocks that were read ahead a moment later
    assert len(paths) == len(labels.codes) == rows and len(labels.values) == 100
    assert labels.values[labels.codes[12_345]] == "class 45" and paths[12_345].as_py() == "images/000012345.jpg"
    assert kept < 60 * rows  # the file has 530 bytes a row


def test_a_folder_with_a_table_in_place_of_class_folders(folder: Path) -> None:
    inside = folder / "data"
    for place in (inside / "images", inside / "images" / "train", inside):
        place.mkdir(parents=True, exist_ok=True)
        (place / "x.png").write_bytes((folder / "e.png").read_bytes())
        (inside / "labels.csv").write_text("image,label\n")
        with pytest.raises(
            DataError, match=r"data has no two class folders with images; .* give data.source=.*/labels.csv"
        ):
            open_source(str(inside))
        (inside / "labels.csv").unlink()
    (folder / "labels.csv").write_text("image,label\n")  # beside class folders, it is of no interest
    (folder / "data" / "images" / "x.png").unlink()
    assert open_source(str(folder)).class_names == ("cat", "data", "dog")
