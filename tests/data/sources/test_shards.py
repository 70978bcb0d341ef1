"""Which split a Parquet file or tar belongs to, against the layout on disk."""

from __future__ import annotations

import io
import os
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from coadvise.data.sources.kinds import find_kind
from coadvise.data.sources.opening import open_source, open_sources
from coadvise.data.sources.shards import split_of
from coadvise.data.sources.splits import choose_split, find_split, meaning
from coadvise.errors import DataError
from coadvise.recipe.schema import Data


def pixel(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (3, 2), value).save(out, "PNG")
    return out.getvalue()


def write_shard(path: Path, first: int, count: int) -> None:
    """Images whose grey values are `first` and so on, of two classes in turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        values = range(first, first + count)
        table = pa.table({"image": pa.array(map(pixel, values), pa.binary()), "label": [one % 2 for one in values]})
        pq.write_table(table, path)
        return
    with tarfile.open(path, "w") as archive:
        for value in range(first, first + count):
            for ending, body in (("png", pixel(value)), ("cls", str(value % 2).encode())):
                member = tarfile.TarInfo(f"{value:04d}.{ending}")
                member.size = len(body)
                archive.addfile(member, io.BytesIO(body))


def greys(source) -> list[int]:
    return sorted(Image.open(io.BytesIO(source.read(i))).getpixel((0, 0)) for i in range(len(source)))


@pytest.mark.parametrize("ending", [".tar", ".parquet"])
@pytest.mark.parametrize(
    ("training", "validation"),
    [
        ("train/shard-000000", "val/shard-000000"),
        ("train/data_0", "test/data_0"),
        ("train/images", "val/images"),
        ("train/imagenet-0", "val/imagenet-0"),
        ("split=train/part-0", "split=validation/part-0"),
        ("train.parquet/part-00000-0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f-c000.snappy",
         "test.parquet/part-00000-0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e60-c000.snappy"),
        ("part-00000-0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f-c000.snappy", "val/part-00000-1-c000.snappy"),
        ("training_set/shard-0", "test_set/shard-0"),
        ("Train/shard-0", "Val/shard-0"),
        ("train2017/shard-0", "val2017/shard-0"),
        ("cifar_train", "cifar_test"),
        ("imagenet-train-000000", "imagenet-val-000000"),
        ("imagenet-train/shard-0", "imagenet-val/shard-0"),
        ("a/train/shard-0", "a/test/shard-0"),
        ("train-00000-of-00001", "validation-00000-of-00001"),
        ("train/0000", "eval/0000"),
    ],
)  # fmt: skip
def test_no_validation_image_is_trained_on(tmp_path, training, validation, ending):
    """What lies on disk as training and validation is what comes out, and is said."""
    write_shard(tmp_path / f"{training}{ending}", 0, 8)
    write_shard(tmp_path / f"{validation}{ending}", 100, 4)
    if training.startswith("part"):  # a part file beside a folder: its split has no usual name
        known = find_kind(str(tmp_path)).splits()
        assert set(known) == {"all", "val"}
        data = Data(source=str(tmp_path), train_split="all")
    else:
        data = Data(source=str(tmp_path))
    said: list[str] = []
    train, val = open_sources(data, said.append)
    assert greys(train) == list(range(8)) and greys(val) == list(range(100, 104))
    assert said[0].startswith("training: 8 images of 2 classes (0: 4, 1: 4) from ")
    assert said[1].startswith("validation: 4 images of 2 classes (0: 2, 1: 2) from ") and len(said) == 2


@pytest.mark.parametrize("ending", [".tar", ".parquet"])
@pytest.mark.parametrize("names", [("train/val-000", "val/val-000"), ("train/cifar_test", "val/x"), ("val/train", "x")])
def test_names_that_contradict_each_other_are_refused(tmp_path, names, ending):
    for number, name in enumerate(names):
        write_shard(tmp_path / f"{name}{ending}", 10 * number, 4)
    with pytest.raises(DataError, match=r"is named as one for training and as one for validation"):
        open_sources(Data(source=str(tmp_path)))


@pytest.mark.parametrize("pattern", ["{}/*/shard-*.tar", "{}/{{train,val}}/shard-{{00..01}}.tar", "{}/t*/*.tar"])
def test_folders_below_the_fixed_part_of_a_pattern_decide(tmp_path, pattern):
    for number in range(2):
        write_shard(tmp_path / "train" / f"shard-{number:02d}.tar", 10 * number, 4)
        write_shard(tmp_path / "val" / f"shard-{number:02d}.tar", 100 + 10 * number, 4)
    train, val = open_sources(Data(source=pattern.format(tmp_path)))
    if "t*" in pattern:
        assert sorted(greys(train) + greys(val)) == [0, 1, 2, 3, 10, 11, 12, 13]
    else:
        assert greys(train) == [0, 1, 2, 3, 10, 11, 12, 13] and min(greys(val)) == 100


def test_files_of_other_programs_are_no_shards(tmp_path):
    write_shard(tmp_path / "train" / "part-0.parquet", 0, 6)
    for name in ("_metadata.parquet", "_temporary/0/part-1.parquet", ".hidden/part-2.parquet", ".part-0.parquet",
                 "train/_delta_log/1.parquet", "@eaDir/part-3.parquet"):  # fmt: skip
        write_shard(tmp_path / name, 50, 6)
    assert greys(open_source(str(tmp_path))) == list(range(6))


def test_splits_of_other_names_are_left_as_they_were(tmp_path):
    for name in ("train", "test", "art_painting", "sketch", "bullet_train"):
        write_shard(tmp_path / f"{name}-00000-of-00001.parquet", 0, 4)
    assert set(find_kind(str(tmp_path)).splits()) == {"train", "test", "art_painting", "sketch", "bullet_train"}
    said: list[str] = []
    open_sources(Data(source=str(tmp_path)), said.append)
    assert said[2:] == ["note: not used: art_painting, bullet_train, sketch"]
    assert split_of(Path("/r/cats/0000.tar"), Path("/r")) == "cats"
    assert split_of(Path("/r/cats/fold2-03.tar"), Path("/r")) == "fold2"


def test_what_names_stand_for():
    stands = Counter(
        {name: meaning(name) for name in ("Training Set", "train_images", "trainset", "TrainData", "split=dev", "test1",
                                          "val2017", "train_val", "bullet_train", "images", "cat", "", "protest")}
    )  # fmt: skip
    assert dict(stands) == {
        "Training Set": "training", "train_images": "train", "trainset": "train", "TrainData": "train",
        "split=dev": "dev", "test1": "test", "val2017": "val", "train_val": "trainval", "bullet_train": None,
        "images": None, "cat": None, "": None, "protest": None,
    }  # fmt: skip
    assert find_split("val", ["training_set", "validation_set"], "x") == "validation_set"
    assert choose_split(["cifar_train", "mnist_train"], ["train"], ["cifar_test", "mnist_test"]) is None
    assert choose_split(["bullet_train", "car"], ["train"], ["bullet_train", "car"]) is None
    assert choose_split(["cifar_train", "train"], ["train"], ["cifar_test"]) == "train"


def test_two_training_sets_are_a_question(tmp_path):
    for name in ("cifar_train", "cifar_test", "mnist_train", "mnist_test"):
        write_shard(tmp_path / f"{name}.parquet", 0, 4)
    with pytest.raises(DataError, match=r"none of them for training|set data.train_split"):
        open_sources(Data(source=str(tmp_path)))
    said: list[str] = []
    open_sources(Data(source=str(tmp_path), train_split="mnist_train"), said.append)
    assert said[1].endswith(f"{tmp_path}, split mnist_test")


@pytest.mark.parametrize("ending", [".tar", ".parquet"])
def test_a_shard_whose_name_is_not_utf_8_is_refused(tmp_path, ending):
    write_shard(tmp_path / f"x{ending}", 0, 4)
    os.rename(tmp_path / f"x{ending}", os.fsencode(tmp_path) + b"/caf\xe9" + ending.encode())
    with pytest.raises(DataError, match=r"caf\\xe9\..* is not UTF-8"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("ending", [".tar", ".parquet"])
@pytest.mark.parametrize(
    ("names", "split", "others"),
    [
        (("train1", "train2"), "train", ()),
        (("part1", "part2", "part3"), None, ()),
        (("photos08", "photos09", "photos10"), None, ()),
        (("train1", "train2", "val1"), "train", ("val1",)),
        (("train0", "train1", "test0", "test1", "test2"), "train", ("test0", "test1", "test2")),
        (("train1", "train2", "part1", "part2", "val"), "train", ("val",)),
    ],
)
def test_numbers_without_a_separator(tmp_path, names, split, others, ending):
    """All files of one name but for the number are used together; each can be had alone by its name."""
    for number, name in enumerate(names):
        write_shard(tmp_path / f"{name}{ending}", 10 * number, 4)
    values = {name: [10 * number + one for one in range(4)] for number, name in enumerate(names)}
    said: list[str] = []
    data = Data(source=str(tmp_path), val_fraction=0.25)
    train, val = open_sources(data, said.append)
    own = [name for name in names if name.startswith(split or names[0].rstrip("0123456789"))]
    expected = [value for name in own for value in values[name]]
    assert sorted(greys(train) + (greys(val) if not others else [])) == expected
    if others:
        assert greys(val) == [value for name in others for value in values[name]]
    assert said[0].endswith(f"from {tmp_path}" + (f", split {split}" if split else ""))
    assert greys(open_source(str(tmp_path), names[1])) == values[names[1]]
    if split is None:
        assert greys(open_source(str(tmp_path))) == expected
        alone = Data(source=str(tmp_path), train_split=names[1], val_split=names[0])
        assert [greys(one) for one in open_sources(alone)] == [values[names[1]], values[names[0]]]


@pytest.mark.parametrize("ending", [".tar", ".parquet"])
@pytest.mark.parametrize(
    "names",
    [
        ("cifar10", "cifar100"),
        ("train2014", "train2017"),
        ("train2014", "train2015"),
        ("v1", "v2"),
        ("photos_v1", "photos_v2"),
        ("split1", "split2"),
        ("fold1", "fold2", "fold3"),
        ("train1", "train3"),
        ("train1", "train2", "val1", "val2"),
        ("train1", "train01"),
    ],
)
def test_numbers_that_may_mean_something_else(tmp_path, names, ending):
    """Versions, years, sizes, and ways of splitting the same images are not mixed unasked."""
    for number, name in enumerate(names):
        write_shard(tmp_path / f"{name}{ending}", 10 * number, 4)
    hint = ", or put a hyphen before the numbers" if names[0] in ("cifar10", "train1") else "$"
    with pytest.raises(DataError, match=f"has the splits .*; set data.train_split{hint}"):
        open_sources(Data(source=str(tmp_path)))
    train, val = open_sources(Data(source=str(tmp_path), train_split=names[0], val_split=names[1]))
    assert greys(train) == [0, 1, 2, 3] and greys(val) == [10, 11, 12, 13]
    assert greys(open_source(str(tmp_path), names[1])) == [10, 11, 12, 13]
    # What the message may advise can be done.
    for number, name in enumerate(names[:2]):
        (tmp_path / f"{name}{ending}").rename(tmp_path / f"train-{number}{ending}")
    train, val = open_sources(Data(source=f"{tmp_path}/train*{ending}", val_fraction=0.25))
    assert sorted(greys(train) + greys(val)) == [0, 1, 2, 3, 10, 11, 12, 13]


def test_names_are_found_alike_by_every_way(tmp_path):
    """In capitals or not, of one file or of several, by an alias of the whole."""
    for number, name in enumerate(("Train", "ValSet1", "ValSet2")):
        write_shard(tmp_path / f"{name}.tar", 10 * number, 4)
    for name, expected in (("val", [*range(10, 14), *range(20, 24)]), ("valset1", list(range(10, 14)))):
        assert greys(open_source(str(tmp_path), name)) == expected
        assert greys(open_sources(Data(source=str(tmp_path), val_split=name))[1]) == expected


@pytest.mark.parametrize("name", ["v2", "photos1", "cifar10", "train2017"])
def test_a_single_file_with_a_number_keeps_its_name(tmp_path, name):
    write_shard(tmp_path / f"{name}.tar", 0, 8)
    assert find_kind(str(tmp_path / f"{name}.tar")).splits() == ((name,) if name == "train2017" else ())
    train, val = open_sources(Data(source=str(tmp_path / f"{name}.tar"), val_fraction=0.25))
    assert sorted(greys(train) + greys(val)) == list(range(8))
    assert greys(open_source(str(tmp_path), name)) == list(range(8))


def test_numbers_of_folders_say_nothing_of_files(tmp_path):
    """`train1/` and `train2/` may be anything; a file `train.tar` stands for itself beside `train1.tar`."""
    for number, name in enumerate(("train1/a-0", "train2/a-0", "val/a-0")):
        write_shard(tmp_path / "a" / f"{name}.tar", 10 * number, 4)
    assert find_kind(str(tmp_path / "a")).splits() == ("train1", "train2", "val")
    for number, name in enumerate(("train", "train1", "train2")):
        write_shard(tmp_path / "b" / f"{name}.tar", 10 * number, 4)
    assert find_kind(str(tmp_path / "b")).splits() == ("train", "train1", "train2")


@pytest.mark.parametrize("ending", [".tar", ".parquet"])
@pytest.mark.parametrize("linked", ["train", "val"])
def test_linked_folders_are_followed(tmp_path, linked, ending):
    """As those of an image folder are: a large split may lie on another disk."""
    for split, first, count in (("train", 0, 8), ("val", 8, 4)):
        place = tmp_path / ("elsewhere" if split == linked else "set") / split
        write_shard(place / f"part-0{ending}", first, count)
    (tmp_path / "set" / linked).symlink_to(tmp_path / "elsewhere" / linked)
    train, val = open_sources(Data(source=str(tmp_path / "set")))
    assert greys(train) == list(range(8)) and greys(val) == list(range(8, 12))


@pytest.mark.parametrize("ending", [".tar", ".parquet"])
@pytest.mark.parametrize("name", ["photos[1]", "x{y}/photos", "a*b", "what?"])
def test_a_file_that_is_there_is_no_pattern(tmp_path, name, ending):
    """As browsers name a second download; another file fits the pattern."""
    write_shard(tmp_path / f"{name}{ending}", 0, 8)
    write_shard(tmp_path / f"photos1{ending}", 100, 8)
    train, val = open_sources(Data(source=str(tmp_path / f"{name}{ending}"), val_fraction=0.25))
    assert sorted(greys(train) + greys(val)) == list(range(8))
