"""Images of any number of classes; oracles are hand-made lists and scikit-learn's MultiLabelBinarizer."""

import ast
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.preprocessing import MultiLabelBinarizer

from coadvise.data.loader import EvalLoader, TrainLoader
from coadvise.data.sources.base import ImageSource, class_sizes, sets_of, strata
from coadvise.data.sources.opening import open_source, open_sources
from coadvise.errors import DataError, RecipeError
from coadvise.recipe.data import Augmentation, Data
from coadvise.recipe.reading import recipe_from

CLASSES = ("cat", "dog", "outdoor")
GIVEN = [["cat"], ["dog", "outdoor"], [], ["cat", "outdoor"], ["outdoor"], ["dog", "cat"]]
NUMBERS = [[3], [7, 12], [], [3, 12], [12], [7, 3]]
MARKS = MultiLabelBinarizer(classes=CLASSES).fit_transform(GIVEN)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(len(GIVEN)):
        Image.new("L", (8, 8), i * 40).save(tmp_path / f"{i}.png")
    return tmp_path


def lines(*rows: str) -> str:
    return "".join(f"{row}\n" for row in rows)


def tables(folder: Path) -> dict[str, Path]:
    """The same labels in every form."""
    contents = {
        "bars.csv": lines("image,label", *(f"{i}.png,{' | '.join(one)}" for i, one in enumerate(GIVEN))),
        "semicolons.tsv": lines("image\tlabels", *(f"{i}.png\t{';'.join(one)}" for i, one in enumerate(GIVEN))),
        "commas.csv": lines("image,label", *(f'{i}.png,"{",".join(one)}"' for i, one in enumerate(GIVEN))),
        "json.csv": lines("image;label", *(f"{i}.png;{json.dumps(one)}" for i, one in enumerate(GIVEN))),
        "lists.jsonl": lines(*(json.dumps({"image": f"{i}.png", "label": one}) for i, one in enumerate(GIVEN))),
        "python.tsv": lines("image\tlabel", *(f"{i}.png\t{tuple(one)}" for i, one in enumerate(GIVEN))),
        "sets.tsv": lines("image\tlabel", *(f"{i}.png\t{set(one)}" for i, one in enumerate(GIVEN))),
        "marks.csv": lines("image,cat,dog,outdoor", *(f"{i}.png,{a},{b},{c}" for i, (a, b, c) in enumerate(MARKS))),
    }
    for name, content in contents.items():
        (folder / name).write_text(content)
    images = pa.array([(folder / f"{i}.png").read_bytes() for i in range(len(GIVEN))])
    columns = {name: pa.array(MARKS[:, i].astype([np.int64, bool, float][i])) for i, name in enumerate(CLASSES)}
    pq.write_table(pa.table({"image": images, **columns}), folder / "marks.parquet")
    pq.write_table(pa.table({"image": images, "labels": pa.array(GIVEN)}), folder / "lists.parquet")
    numbers = pa.array([[CLASSES.index(name) for name in one] for one in GIVEN])
    feature = {"feature": {"names": list(CLASSES), "_type": "ClassLabel"}, "_type": "List"}
    declared = json.dumps({"info": {"features": {"label": feature}}})
    pq.write_table(
        pa.table({"image": images, "label": numbers}).replace_schema_metadata({"huggingface": declared}),
        folder / "declared.parquet",
    )
    names = [*contents, "marks.parquet", "lists.parquet", "declared.parquet"]
    return {name: folder / name for name in names}


def marks(source: ImageSource) -> np.ndarray:
    sets = sets_of(source)
    assert sets is not None
    return sets[source.labels].astype(int)


def test_every_form_gives_the_same_labels(folder: Path) -> None:
    for name, file in tables(folder).items():
        said: list[str] = []
        source = open_source(str(file), say=said.append, labels="several")
        assert source.class_names == CLASSES, name
        np.testing.assert_array_equal(marks(source), MARKS, err_msg=name)
        np.testing.assert_array_equal(marks(pickle.loads(pickle.dumps(source))), MARKS)
        assert class_sizes(source).tolist() == MARKS.sum(axis=0).tolist()
        assert said == [f"data: 6 images of 3 classes, 1.3 to an image, 1 images of none (cat: 3, dog: 2, outdoor: 3) "
                        f"from {file}"]  # fmt: skip


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_of_lists_as_pandas_writes_them(folder: Path, kind: str) -> None:
    """pandas writes and reads them, ast.literal_eval takes them apart; with quotes, commas and numbers in names."""
    pandas = pytest.importorskip("pandas")
    for given in (GIVEN, [["it's"], ['a "b"', "c, d"], [], ["x|y", "it's"], ["[z]"], ["\\"]], NUMBERS):
        frame = pandas.DataFrame({"image": [f"{i}.png" for i in range(6)], "label": given})
        frame.to_csv(folder / "pandas.csv", index=False)
        texts = pandas.read_csv(folder / "pandas.csv")
        made = MultiLabelBinarizer()
        truth = made.fit_transform([ast.literal_eval(text) for text in texts["label"]])
        texts.to_parquet(folder / "pandas.parquet")
        source = open_source(str(folder / f"pandas.{kind}"), labels="several")
        assert source.class_names == tuple(map(str, made.classes_))
        np.testing.assert_array_equal(marks(source), truth)
        said: list[str] = []
        open_source(str(folder / f"pandas.{kind}"), say=said.append)
        assert f"also where its label looks like several: '{min(texts['label'])}'" in said[1]
        assert said[1].endswith("data.labels=several takes them apart")


@pytest.mark.parametrize(
    "text", ["[dog, cat]", "['dog' 'cat']", "[1 2]", "['dog', ['cat']]", '["dog", {}]', "[nan]", "[" * 9999 + "]"]
)
def test_brackets_that_are_no_list_are_refused(folder: Path, text: str) -> None:
    """One class for each combination would be made of them."""
    rows = ["cat", "", text]
    (folder / "a.tsv").write_text("image\tlabel\tsplit\n" + lines(*(f"1.png\t{one}\ttrain" for one in rows)))
    pq.write_table(pa.table({"image": ["1.png"] * 3, "label": rows}), folder / "a.parquet")
    for name, row in (("a.tsv", 3), ("a.parquet", 2)):
        with pytest.raises(DataError, match=rf"{name} row {row} has the label \[.*, which is no list of names or"):
            open_source(str(folder / name), labels="several")


def test_names_are_separated_alike_in_all_files(folder: Path) -> None:
    image = (folder / "1.png").read_bytes()
    for name, texts in (("0", ["cat, tabby|dog", "dog"]), ("1", ["cat, tabby", ""])):
        pq.write_table(pa.table({"image": [image] * 2, "label": texts}), folder / f"train-0000{name}-of-00002.parquet")
    source = open_source(f"parquet:{folder}/train-*.parquet", labels="several")
    assert source.class_names == ("cat, tabby", "dog")
    assert marks(source).tolist() == [[1, 1], [0, 1], [1, 0], [0, 0]]


def test_names_are_separated_alike_in_both_splits(folder: Path) -> None:
    """Of which one may have no image of several classes."""
    image = (folder / "1.png").read_bytes()
    for split, texts in (("train", ["Smith, John|outdoor"] * 4), ("val", ["Smith, John", "outdoor"])):
        content = pa.table({"image": [image] * len(texts), "label": texts})
        pq.write_table(content, folder / f"{split}.parquet")
        rows = [f"{i}.png;{text}" for i, text in enumerate(texts)]
        (folder / f"{split}.csv").write_text(lines("image;label", *rows))
    for source, more in ((str(folder), {}), (str(folder / "train.csv"), {"val_source": str(folder / "val.csv")})):
        kind = "parquet:" if not more else ""
        train, val = open_sources(Data(source=f"{kind}{source}", labels="several", **more), several=True)
        assert train.class_names == val.class_names == ("Smith, John", "outdoor")
        assert marks(val).tolist() == [[1, 0], [0, 1]]


def test_marks_may_be_words(folder: Path) -> None:
    """As pandas writes columns of `get_dummies`, and JSON its own."""
    words = {"pandas.csv": ("False", "True"), "json.csv": ("false", "true"), "sheet.csv": ("FALSE", "TRUE")}
    for name, (no, yes) in words.items():
        rows = [",".join([f"{i}.png", *(yes if mark else no for mark in row)]) for i, row in enumerate(MARKS)]
        (folder / name).write_text(lines("image,cat,dog,outdoor", *rows))
        source = open_source(str(folder / name), labels="several")
        assert source.class_names == CLASSES and marks(source).tolist() == MARKS.tolist()


def test_columns_can_be_named(folder: Path) -> None:
    for name in ("marks.csv", "marks.parquet"):
        source = open_source(f"{tables(folder)[name]}:label=outdoor,cat", labels="several")
        assert source.class_names == ("outdoor", "cat")
        np.testing.assert_array_equal(marks(source), MARKS[:, [2, 0]])


def numbered(folder: Path, lists: list[list[int]]) -> dict[str, Path]:
    """Lists of numbers in every form."""
    texts = {"bars.csv": "|".join, "spaces.csv": " ; ".join, "json.tsv": lambda one: f"[{', '.join(one)}]"}
    for name, text in texts.items():
        mark = "\t" if name.endswith("tsv") else ","
        rows = [f"{i}.png{mark}{text(list(map(str, one)))}" for i, one in enumerate(lists)]
        (folder / name).write_text(lines(f"image{mark}label", *rows))
    (folder / "lists.jsonl").write_text(
        lines(*(json.dumps({"image": f"{i}.png", "label": one}) for i, one in enumerate(lists)))
    )
    images = pa.array([(folder / f"{i}.png").read_bytes() for i in range(len(lists))])
    pq.write_table(pa.table({"image": images, "label": pa.array(lists)}), folder / "lists.parquet")
    names = [str(number) for number in range(13)]
    feature = {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "List"}
    declared = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    table = pa.table({"image": images, "label": pa.array(lists)}).replace_schema_metadata(declared)
    pq.write_table(table, folder / "declared.parquet")
    return {name: folder / name for name in (*texts, "lists.jsonl", "lists.parquet", "declared.parquet")}


def test_minus_one_beside_classes_is_none_of_them(folder: Path) -> None:
    """Lists of one length, filled up; the last class is the one that NumPy's index −1 would mean."""
    files = numbered(folder, [[*one, *[-1] * (3 - len(one))] if one else [] for one in NUMBERS])
    for name, file in files.items():
        source = open_source(str(file), labels="several")
        classes = list(range(13)) if name == "declared.parquet" else [3, 7, 12]
        truth = MultiLabelBinarizer(classes=classes).fit_transform(NUMBERS)
        assert source.class_names == tuple(map(str, classes)), name
        np.testing.assert_array_equal(marks(source), truth, err_msg=name)


def test_minus_one_alone_is_an_image_without_a_label(folder: Path) -> None:
    """As where an image has one class: refused by name, and a test set of such images is left aside."""
    for file in numbered(folder, [*NUMBERS[:4], [-1], [-1, -1]]).values():
        with pytest.raises(DataError, match=r"(4.png|row 4) has no label \(2 such images in .*\): leave them out; for"):
            open_source(str(file), labels="several")
    training = numbered(folder, NUMBERS)["declared.parquet"].read_bytes()
    (folder / "set").mkdir()
    (folder / "set" / "test.parquet").write_bytes(numbered(folder, [[-1]] * 6)["declared.parquet"].read_bytes())
    (folder / "set" / "train.parquet").write_bytes(training)
    said: list[str] = []
    train, validation = open_sources(data(folder / "set", val_fraction=0.3), said.append, several=True)
    assert len(train) + len(validation) == 6
    assert any("test has no labels, so it is no use for validation" in line for line in said)


def test_minus_one_is_a_class_where_it_is_no_mark(folder: Path) -> None:
    """By the rule for one class: among names, or beside other negative numbers."""
    for rows in (["cat|-1", "-1", "dog"], ["-2|-1", "-1", "3"]):
        (folder / "a.csv").write_text(lines("image,label", *(f"{i}.png,{one}" for i, one in enumerate(rows))))
        source = open_source(str(folder / "a.csv"), labels="several")
        made = MultiLabelBinarizer(classes=source.class_names).fit_transform([one.split("|") for one in rows])
        assert "-1" in source.class_names
        np.testing.assert_array_equal(marks(source), made)


def data(file: Path, **settings: object) -> Data:
    augment = Augmentation(policy="none", mixup=0.0, cutmix=0.0, label_smoothing=0.0)
    base = {"source": str(file), "labels": "several", "image_size": 8, "workers": 0, "augment": augment}
    return Data.model_validate(base | settings)


def test_targets_are_rows_of_marks_smoothed_and_mixed(folder: Path) -> None:
    file = tables(folder)["bars.csv"]
    source = open_source(str(file), labels="several")
    (batch,) = EvalLoader(source, data(file), 6)
    np.testing.assert_array_equal(batch.target.numpy(), MARKS)
    augment = Augmentation(policy="none", mixup=1.0, cutmix=0.0, label_smoothing=0.3)
    (mixed,) = TrainLoader(source, data(file, augment=augment), 6).epoch(0)
    # What timm's BinaryCrossEntropy makes of one label, for each: s/k, and 1 − s + s/k on those that are there. Images
    # are plain greys, so the share of each in a mixture follows from its pixels and a partner's row.
    smooth = MARKS * 0.7 + 0.1
    plain = {int(i): batch.images[i, 0, 0, 0] for i in range(6)}
    for row, index in enumerate(mixed.index.tolist()):
        pixel, target = mixed.images[row, 0, 0, 0], mixed.target[row]
        options = []
        for other in range(6):
            if other != index:
                share = float((pixel - plain[other]) / (plain[index] - plain[other]))
                options.append(np.abs(share * smooth[index] + (1 - share) * smooth[other] - target.numpy()).max())
        assert min(options) < 1e-4


def test_images_are_kept_in_balance_by_their_rarest_class(folder: Path) -> None:
    rng = np.random.default_rng(3)
    rows = [[name for name in CLASSES if rng.random() < 0.3] for _ in range(60)]
    (folder / "many.csv").write_text(
        lines("image,label", *(f"{i % 6}.png,{'|'.join(one)}" for i, one in enumerate(rows)))
    )
    source = open_source(str(folder / "many.csv"), labels="several")
    sizes = {name: sum(name in one for one in rows) for name in source.class_names}
    rarest = [min(sorted(one), key=lambda name: sizes[name]) if one else None for one in rows]
    assert strata(source).tolist() == [len(sizes) if n is None else source.class_names.index(n) for n in rarest]


def test_parts_of_a_source_keep_their_sets(folder: Path) -> None:
    file = folder / "many.csv"
    rng = np.random.default_rng(0)
    rows = [[name for name in CLASSES if rng.random() < 0.4] for _ in range(60)]
    file.write_text(lines("image,label", *(f"{i % 6}.png,{'|'.join(one)}" for i, one in enumerate(rows))))
    truth = MultiLabelBinarizer(classes=CLASSES).fit_transform(rows)
    train, validation = open_sources(data(file, val_fraction=0.25), several=True)
    assert len(train) + len(validation) == 60
    assert (marks(train).sum(axis=0) + marks(validation).sum(axis=0)).tolist() == truth.sum(axis=0).tolist()
    assert (class_sizes(validation) > 0).all()
    (folder / "two.txt").write_text("outdoor\ncat\n")
    train, validation = open_sources(data(file, classes=str(folder / "two.txt"), train_size=20), several=True)
    assert train.class_names == ("cat", "outdoor")
    assert len(train) == 20
    assert marks(validation).shape[1] == 2


def test_validation_may_miss_a_class(folder: Path) -> None:
    tables(folder)
    (folder / "val.csv").write_text("image,label\n1.png,outdoor|dog\n2.png,\n")
    _, validation = open_sources(data(folder / "bars.csv", val_source=str(folder / "val.csv")), several=True)
    assert validation.class_names == CLASSES
    assert marks(validation).tolist() == [[0, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "image,label\n1.png,cat\n2.png,cat\n", r"has a single class, 'cat', and with data.labels=several"),
        ("a.csv", "image,label\n1.png,\n2.png,\n", r"has no image of any class, and with"),
        (
            "a.csv",
            "image,a,b\n1.png,1,0\n2.png,,1\n",
            r"row 2 \(2.png\) has nothing in column 'a' \(1 in all\); write 0",
        ),
        ("a.csv:label=a,c", "image,a,b\n1.png,1,0\n", r":label=a,c names columns .*: there is no column 'c'"),
        ("a.csv:label=a,a", "image,a,b\n1.png,1,0\n", r":label=a,a names columns .*: 'a' twice"),
        ("a.csv:label=a,b", "image,a,b\n1.png,1,x\n", r"the column 'b' holds 'x', and not 0 and 1"),
        (".", "", r"data.labels=several: a source of the kind folder gives an image one class; give a CSV"),
    ],
)
def test_bad_input_is_one_message(folder: Path, name: str, content: str, message: str) -> None:
    (folder / name.partition(":")[0]).is_dir() or (folder / name.partition(":")[0]).write_text(content)
    with pytest.raises(DataError, match=message):
        open_sources(data(folder / name), several=True)


def test_parquet_with_other_values_is_refused(folder: Path) -> None:
    images = pa.array([(folder / "1.png").read_bytes()] * 2)
    pq.write_table(pa.table({"image": images, "a": [0, 1], "b": [0, 2]}), folder / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet has no label column"):
        open_source(str(folder / "a.parquet"), labels="several")
    with pytest.raises(DataError, match=r"a.parquet row 1 has 2 in column 'b', must be 0 or 1"):
        open_source(f"{folder / 'a.parquet'}:label=a,b", labels="several")
    with pytest.raises(DataError, match=r"the column 'a' .* are named together, two at least: :label=dog,cat"):
        open_source(f"{folder / 'a.parquet'}:label=a", labels="several")
    with pytest.raises(DataError, match=r"'a', 'b' mark several classes; set data.labels=several"):
        open_source(f"{folder / 'a.parquet'}:label=a,b")


def test_who_cannot_do_with_several_says_so(folder: Path) -> None:
    file = tables(folder)["bars.csv"]
    with pytest.raises(DataError, match=r"made for images of one class each, and data.labels=several"):
        open_sources(data(file))
    with pytest.raises(DataError, match=r"row 3 \(2.png\) has no label .*, or let images have .* data.labels=several"):
        open_source(str(file))
    with pytest.raises(DataError, match=r"several labels: 'dog', 'outdoor' .*; data.labels=several trains on all"):
        open_source(str(folder / "marks.csv"))


def test_a_parquet_file_that_looks_like_several_says_so(folder: Path) -> None:
    files = tables(folder)
    for name, what in (("marks.parquet", "columns of 0 and 1"), ("lists.parquet", "a column of lists")):
        with pytest.raises(DataError, match=rf"has no label column .*; {what} .*: data.labels=several"):
            open_source(str(files[name]))


def test_settings_that_are_for_one_class_are_refused_together() -> None:
    content = {"name": "x", "data": {"source": "a.csv", "labels": "several", "balance": "weights"}, "advice": "cache"}
    with pytest.raises(RecipeError, match=r"2 problems.*data.balance is for images of one class.*advice: cache"):
        recipe_from(content)
    plain = recipe_from({"name": "x", "data": {"source": "a.csv"}})
    assert "labels" not in plain.content()["data"]


def test_one_class_each_is_as_before(folder: Path) -> None:
    (folder / "a.csv").write_text("image,label\n1.png,cat\n2.png,dog\n")
    source = open_source(str(folder / "a.csv"))
    assert sets_of(source) is None
    (batch,) = EvalLoader(source, data(folder / "a.csv", labels="one"), 2)
    assert torch.equal(batch.target, torch.eye(2))
