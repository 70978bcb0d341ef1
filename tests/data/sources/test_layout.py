"""How folders of images are laid out in the world, against what lies on disk; and what is said of them."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from coadvise.data.sources.opening import open_source, open_sources
from coadvise.errors import DataError
from coadvise.recipe.schema import Data


def fill(folder: Path, count: int = 5) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("L", (3, 2), number).save(folder / f"{number}.png")


def fill_all(root: Path, *folders: str, count: int = 5) -> Path:
    for folder in folders:
        fill(root / folder, count)
    return root


def write_tar(path: Path, label: bool) -> None:
    """Six images, with labels as WebDataset has them or in class folders as somebody packed them."""
    out = io.BytesIO()
    Image.new("L", (3, 2)).save(out, "PNG")
    with tarfile.open(path, "w") as archive:
        for number in range(6):
            name = f"{number}" if label else f"class{number % 2}/{number}"
            for ending, body in (("png", out.getvalue()), *([("cls", str(number % 2).encode())] if label else [])):
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.size = len(body)
                archive.addfile(member, io.BytesIO(body))


def opened(source: object, **options: object) -> tuple[list, list[str]]:
    said: list[str] = []
    return list(open_sources(Data(source=str(source), **options), said.append)), said


def files(source) -> list[str]:
    return sorted(source.describe(index) for index in range(len(source)))


# --- wrappers and sets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", ["PetImages", "a/b", "data"])
def test_a_folder_around_the_classes_is_looked_into(tmp_path, wrapper):
    fill_all(tmp_path / wrapper, "Cat", "Dog")
    (tmp_path / "readme[1].txt").write_text("words")
    (tmp_path / ".git").mkdir()
    (train, val), said = opened(tmp_path)
    assert train.class_names == ("Cat", "Dog")
    assert files(train) + files(val) != [] and sorted(files(train) + files(val)) == sorted(
        str(path) for path in tmp_path.rglob("*.png")
    )
    assert said == [
        f"training: 8 images of 2 classes (Cat: 4, Dog: 4) from {tmp_path / wrapper}",
        "validation: 2 images of 2 classes (Cat: 1, Dog: 1) held out of the training images (data.val_fraction=0.1)",
    ]
    for index in range(len(train)):
        assert Path(train.describe(index)).parent.name == train.class_names[train.labels[index]]


@pytest.mark.parametrize(
    ("training", "validation"),
    [
        ("training_set", "test_set"), ("training_set/training_set", "test_set/test_set"), ("Training", "Testing"),
        ("seg_train/seg_train", "seg_test/seg_test"), ("train_images", "val_images"), ("x/train", "x/valid"),
        ("trainset", "testset"), ("dogs-train", "dogs-test"), ("Train Data", "Validation Data"), ("train", "eval"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "folder:"])
def test_sets_are_no_classes(tmp_path, training, validation, prefix):
    fill_all(tmp_path / training, "cats", "dogs", count=4)
    fill_all(tmp_path / validation, "cats", "dogs", count=2)
    if prefix and training.startswith("x/"):
        prefix, root = prefix, tmp_path / "x"  # with the prefix, the folder is taken as it is
    else:
        root = tmp_path
    (train, val), said = opened(f"{prefix}{root}")
    assert files(train) == sorted(str(path) for path in (tmp_path / training).rglob("*.png"))
    assert files(val) == sorted(str(path) for path in (tmp_path / validation).rglob("*.png"))
    assert train.class_names == val.class_names == ("cats", "dogs")
    assert said == [
        f"training: 8 images of 2 classes (cats: 4, dogs: 4) from {tmp_path / training}",
        f"validation: 4 images of 2 classes (cats: 2, dogs: 2) from {tmp_path / validation}",
    ]


def test_a_single_class_is_refused_unless_it_is_asked_for(tmp_path):
    fill(tmp_path / "cat", 10)
    with pytest.raises(
        DataError, match=re.escape("has a single class, 'cat', so there is nothing to tell apart")
    ) as told:
        opened(tmp_path)
    way_out = str(told.value).rpartition("data.source=")[2]
    assert way_out == f"folder:{tmp_path}"
    (train, val), _ = opened(way_out)
    assert train.class_names == ("cat",) and (len(train), len(val)) == (9, 1)
    assert open_source(str(tmp_path)).class_names == ("cat",)  # to be evaluated on, it is good enough
    fill_all(tmp_path / "wrapped" / "PetImages", "Cat", "Dog")
    assert opened(f"folder:{tmp_path / 'wrapped'}")[0][0].class_names == ("PetImages",)
    pq.write_table(pa.table({"image": pa.array([b"x"] * 4, pa.binary()), "label": [3] * 4}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"single class, '3'.*data.source=parquet:"):
        opened(tmp_path / "x.parquet")


def test_splits_inside_of_classes_are_refused(tmp_path):
    fill_all(tmp_path, "cat/train", "cat/test", "dog/train", "dog/test")
    with pytest.raises(DataError, match=r"every class folder of .* has test and train inside; put these outside"):
        opened(tmp_path)
    (train, val), _ = opened(f"folder:{tmp_path}")
    assert (len(train), len(val)) == (18, 2)


def test_a_folder_that_holds_the_classes_again_is_refused(tmp_path):
    """As archives that were packed twice have it: flowers/{rose,tulip} and flowers/flowers/{rose,tulip}."""
    fill_all(tmp_path, "rose", "tulip", "flowers/rose", "flowers/tulip")
    with pytest.raises(DataError, match=r"/flowers holds folders of the same names as .* \(rose, tulip\)"):
        opened(tmp_path)
    assert opened(tmp_path / "flowers")[0][0].class_names == ("rose", "tulip")
    fill_all(tmp_path / "sets", "train/a", "train/b", "test/a", "test/b", "x/train/a", "x/train/b")
    assert opened(tmp_path / "sets")[1][-1] == "note: not used: x"


def test_folders_beside_the_one_with_the_images(tmp_path):
    """Annotations beside images: the message names the folder to give."""
    fill_all(tmp_path, "images/train/cat", "images/train/dog", "images/val/cat", "images/val/dog")
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataError, match=r"labels holds no images") as told:
        opened(tmp_path)
    way_out = re.findall(r"data\.source=(\S+)", str(told.value))
    assert way_out == [str(tmp_path / "images")] and len(opened(way_out[0])[0][1]) == 10


def test_classes_that_look_like_sets_are_pointed_out(tmp_path):
    fill_all(tmp_path, "fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog")
    (train, _), said = opened(tmp_path)
    assert train.class_names == ("fold1", "fold2")
    assert "each has the folders cat, dog: if those are the classes" in said[-1]
    fill(tmp_path / "fold2" / "cow")
    assert len(opened(tmp_path)[1]) == 2


@pytest.mark.parametrize("classes", [("bus", "car", "train"), ("beaker", "funnel", "test_tube"), ("eval_kit", "plane")])
def test_a_class_may_be_named_like_a_set(tmp_path, classes):
    fill_all(tmp_path, *classes)
    (train, val), _ = opened(tmp_path)
    assert train.class_names == val.class_names == classes
    each = len(list((tmp_path / classes[0]).iterdir()))
    assert len(train) + len(val) == each * len(classes)


def test_sets_without_classes_are_refused(tmp_path):
    fill_all(tmp_path / "two", "train", "test", "more")
    fill_all(tmp_path / "named", "dogs_train", "dogs_test")
    for name in ("two", "named"):
        with pytest.raises(DataError, match="but no class folders in there"):
            opened(tmp_path / name)
    assert opened(fill_all(tmp_path / "fine", "bullet_train", "car"))[0][0].class_names == ("bullet_train", "car")


# --- test sets without labels, and classes that one side lacks --------------------------------------------


@pytest.mark.parametrize("test", ["test", "test/unknown", "test_set/test_set", "test1"])
def test_an_unlabelled_test_set_is_left_aside(tmp_path, test):
    fill_all(tmp_path, "train/cat", "train/dog", test, count=10)
    (train, val), said = opened(tmp_path)
    assert sorted(files(train) + files(val)) == sorted(str(path) for path in (tmp_path / "train").rglob("*.png"))
    assert np.bincount(val.labels).tolist() == [1, 1]
    assert said[-1] == f"note: {test.split('/')[0]} has images in no class folders, so it is no use for validation"


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_test_set_whose_labels_are_all_minus_one_is_left_aside(tmp_path, split):
    """As public data sets have them; in a validation set they are a mistake."""
    features = {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}
    for name, labels in (("train", [0, 1] * 10), (split, [-1] * 6)):
        table = pa.table({"image": pa.array([b"x"] * len(labels), pa.binary()), "label": labels})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, tmp_path / f"{name}-00000-of-00001.parquet")
    if split == "validation":
        with pytest.raises(DataError, match="marks images without a label"):
            opened(tmp_path)
        return
    (train, val), said = opened(tmp_path)
    assert np.bincount(train.labels).tolist() == [9, 9] and np.bincount(val.labels).tolist() == [1, 1]
    assert said[-1] == "note: test has no labels, so it is no use for validation"
    with pytest.raises(DataError, match="marks images without a label"):
        opened(tmp_path, val_split="test")


def test_an_unlabelled_validation_set_is_a_mistake_with_a_way_out(tmp_path):
    fill_all(tmp_path, "train/cat", "train/dog", "val")
    with pytest.raises(DataError, match=r"/val has no class folders; .* give the training folder alone"):
        opened(tmp_path)
    (train, val), _ = opened(tmp_path / "train")
    assert (len(train), len(val)) == (8, 2)


def test_validation_may_lack_a_class(tmp_path):
    """With the empty folder or without it; labels are those of the names."""
    fill_all(tmp_path, "train/ant", "train/bee", "train/cow", "val/ant", "val/cow")
    for _ in range(2):
        (train, val), said = opened(tmp_path)
        assert val.class_names == train.class_names == ("ant", "bee", "cow")
        names = [Path(val.describe(index)).parent.name for index in range(len(val))]
        assert [val.class_names[label] for label in val.labels] == names and set(names) == {"ant", "cow"}
        assert said[1].startswith("validation: 10 images of 3 classes (ant: 5, bee: 0, cow: 5)")
        assert said[-1] == "note: there are no validation images of 'bee'"
        (tmp_path / "val" / "bee").mkdir(exist_ok=True)


def test_training_may_not_lack_a_class(tmp_path):
    fill_all(tmp_path, "train/ant", "train/cow", "val/ant", "val/bee", "val/cow")
    with pytest.raises(DataError, match=r"differ: 'bee' in validation, not in training; add images of it to training"):
        opened(tmp_path)
    (tmp_path / "train" / "bee").mkdir()
    with pytest.raises(DataError, match=r"the class folder .*train/bee holds no images .*; add some, or remove"):
        opened(tmp_path)


# --- archives beside folders ------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", "train", "cat"])
@pytest.mark.parametrize("archive", ["tar", "parquet", "broken"])
def test_an_archive_beside_class_folders_is_left_aside(tmp_path, archive, place):
    fill_all(tmp_path, *(("train/cat", "train/dog") if place == "train" else ("cat", "dog")))
    if archive == "tar":
        write_tar(tmp_path / place / "backup.tar", label=False)
    elif archive == "parquet":
        pq.write_table(pa.table({"file_name": ["0.png"], "label": [0]}), tmp_path / place / "metadata.parquet")
    else:
        (tmp_path / place / "broken.tar").write_bytes(b"no tar")
    (train, val), said = opened(tmp_path)
    assert sorted(files(train) + files(val)) == sorted(str(path) for path in tmp_path.rglob("*.png"))
    assert any("not read: the images in the class folders are" in line for line in said)


@pytest.mark.parametrize(
    ("names", "asks"), [(("0.view.png", "0.cls"), True), (("._0.png", "._0.cls"), False)], ids=["dotted", "litter"]
)
def test_an_archive_has_samples_where_a_source_would_read_some(tmp_path, names, asks):
    """A name ends at its first dot, as for webdataset; what a Mac leaves behind is no sample."""
    fill_all(tmp_path, "cat", "dog")
    with tarfile.open(tmp_path / "shard-0.tar", "w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"1"))
    if asks:
        with pytest.raises(DataError, match="may be read in 2 ways"):
            opened(tmp_path)
    else:
        assert opened(tmp_path)[0][0].class_names == ("cat", "dog")


def test_two_ways_to_read_a_folder_are_a_question(tmp_path):
    fill_all(tmp_path, "wrapped/cat", "wrapped/dog")
    write_tar(tmp_path / "shard-0.tar", label=True)
    with pytest.raises(DataError, match="may be read in 2 ways") as told:
        opened(tmp_path)
    ways = re.findall(r"data\.source=(\S+)", str(told.value))
    assert ways == [f"folder:{tmp_path / 'wrapped'}", f"wds:{tmp_path}"]
    assert [opened(way)[0][0].class_names for way in ways] == [("cat", "dog"), ("0", "1")]
    shutil.rmtree(tmp_path / "wrapped")
    assert opened(tmp_path)[0][0].class_names == ("0", "1")
    pq.write_table(pa.table({"image": pa.array([b"x"] * 4, pa.binary()), "label": [0, 1] * 2}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"may be read in 2 ways .*parquet:.* or data.source=wds:"):
        opened(tmp_path)
    pq.write_table(pa.table({"key": ["0"], "label": [0]}), tmp_path / "x.parquet")  # as img2dataset writes it
    assert opened(tmp_path)[0][0].class_names == ("0", "1")


# --- litter, other files, names ---------------------------------------------------------------------------

LITTER = (
    "@eaDir", ".ipynb_checkpoints", "__MACOSX", "#recycle", "lost+found", "$RECYCLE.BIN", "System Volume Information",
    ".git", "@Recycle", ".Trash-1000", "__pycache__", "#snapshot",
)  # fmt: skip


def test_what_systems_leave_behind_is_no_class(tmp_path):
    fill_all(tmp_path, "cat", "dog", *LITTER, *(f"cat/{name}" for name in LITTER))
    fill_all(tmp_path, "@eaDir/cat")
    for name in ("._0.png", "Thumbs.db", ".DS_Store"):
        (tmp_path / "cat" / name).write_bytes(b"x")
    (train, val), said = opened(tmp_path)
    assert sorted(files(train) + files(val)) == sorted(
        str(tmp_path / c / f"{n}.png") for c in ("cat", "dog") for n in range(5)
    )
    assert train.class_names == ("cat", "dog") and len(said) == 2


def test_files_that_are_left_out_are_counted(tmp_path):
    fill_all(tmp_path, "cat", "dog")
    for number in range(3):
        (tmp_path / "cat" / f"IMG_{number}.HEIC").write_bytes(b"x")
    (tmp_path / "dog" / "picture").write_bytes(b"x")
    fill(tmp_path, 2)
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    (train, val), said = opened(tmp_path)
    assert len(train) + len(val) == 10
    assert said[2].startswith(
        "note: 5 files of other kinds (3 .heic, 1 pipes or devices, 1 without an extension) in the class folders of "
    )
    assert said[3] == f"note: 2 images of {tmp_path} in none of its class folders: not read"
    fill_all(tmp_path / "raw", "cat", "dog")
    for path in (tmp_path / "raw" / "cat").iterdir():
        path.rename(path.with_suffix(".HEIC"))
    with pytest.raises(DataError, match=r"raw/cat holds no images .*, but 5 files of other kinds \(5 \.heic\)"):
        opened(tmp_path / "raw")


def test_names_that_no_file_can_hold_are_refused_at_the_start(tmp_path):
    fill_all(tmp_path, "dog")
    os.rename(os.fsencode(fill_all(tmp_path, "cafe") / "cafe"), os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(DataError, match=r"the class name caf\\xe9 is not UTF-8") as told:
        opened(tmp_path)
    str(told.value).encode()
    with pytest.raises(DataError, match=r"caf\\xe9 is not UTF-8") as told:
        opened(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    str(told.value).encode()


def test_links(tmp_path):
    """Linked folders and files are read; a link that leads in a circle is not followed for ever."""
    fill_all(tmp_path / "elsewhere", "dogs")
    fill(tmp_path / "data" / "cat")
    (tmp_path / "data" / "dog").symlink_to(tmp_path / "elsewhere" / "dogs")
    (tmp_path / "data" / "cat" / "linked.png").symlink_to(tmp_path / "elsewhere" / "dogs" / "0.png")
    (train, val), _ = opened(tmp_path / "data")
    assert len(train) + len(val) == 11
    for place in (tmp_path / "data", tmp_path / "data" / "cat", Path("/")):  # a folder around counts, too
        (tmp_path / "data" / "cat" / "up").symlink_to(place)
        with pytest.raises(DataError, match=r"cat/up is a link that leads back to a folder it lies in"):
            opened(tmp_path / "data")
        (tmp_path / "data" / "cat" / "up").unlink()


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    fill_all(tmp_path, "cat", "dog/inner")
    scandir = os.scandir

    def refuse(place):  # a mode of the folder would not stop root
        if str(place).endswith("inner"):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"dog/inner cannot be listed: Permission denied"):
        opened(tmp_path)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc here")
def test_proc_is_refused():
    with pytest.raises(DataError, match="/proc"):
        opened("/proc")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_class_list_as_windows_writes_it(tmp_path, encoding):
    fill_all(tmp_path / "data", "cat", "dög", "eel")
    (tmp_path / "classes.txt").write_bytes("cat\r\ndög  # a comment\r\n".encode(encoding))
    (train, _), said = opened(tmp_path / "data", classes=str(tmp_path / "classes.txt"))
    assert train.class_names == ("cat", "dög") and said[0].startswith(
        "training: 8 images of 2 classes (cat: 4, dög: 4)"
    )


def test_many_classes_are_summed_up(tmp_path):
    for number in range(12):
        fill(tmp_path / f"c{number:02d}", 2 + number % 3)
    _, said = opened(tmp_path)
    assert said[0].startswith("training: 24 images of 12 classes (c00, c01, c02, c03, …, c11; 1 to 3 images each) from")
