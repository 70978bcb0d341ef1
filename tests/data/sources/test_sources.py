"""Sources, against `datasets`, `tarfile` and the files themselves; and each error."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from coadvise.data.decode import decode
from coadvise.data.sources import parquet as parquet_module
from coadvise.data.sources.kinds import find_kind
from coadvise.data.sources.opening import open_source, open_sources
from coadvise.data.sources.shards import expand, split_of
from coadvise.data.sources.subsets import balanced_subset, hold_out
from coadvise.errors import DataError
from coadvise.recipe.schema import Data


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def sources(source: object, **options: object) -> tuple:
    return open_sources(Data(source=str(source), **options))


# --- digits ----------------------------------------------------------------------------------------------


def test_digits_against_scikit_learn():
    from sklearn.datasets import load_digits

    train, validation = sources("digits")
    assert (len(train), len(validation)) == (797, 1000)
    assert train.class_names == validation.class_names == tuple("0123456789")
    bunch = load_digits()
    expected = {np.rint(i * 255 / 16).astype(np.uint8).tobytes() for i in bunch.images}
    both = [(np.asarray(s.read(i)), int(s.labels[i])) for s in (train, validation) for i in range(len(s))]
    assert {pixels.tobytes() for pixels, _ in both} == expected
    assert sorted(label for _, label in both) == sorted(bunch.target)
    assert np.bincount(train.labels).min() >= 79
    assert decode(train.read(0), "digit").size == (8, 8)


def test_sizes_are_balanced_nested_and_the_same_for_every_seed():
    small, _ = sources("digits", train_size=50, seed=1)
    again, _ = sources("digits", train_size=50, seed=2)
    large, validation = sources("digits", train_size=200, val_size=100)
    assert np.bincount(small.labels).tolist() == [5] * 10 and np.bincount(validation.labels).tolist() == [10] * 10
    names = [small.describe(i) for i in range(50)]
    assert names == [again.describe(i) for i in range(50)]
    assert set(names) <= {large.describe(i) for i in range(200)}
    with pytest.raises(DataError, match=r"train_size is 5000, but there are 797 .* all with data\.train_size=null"):
        sources("digits", train_size=5000)


def test_balanced_subset_fills_up_scarce_classes():
    labels = np.array([0] * 50 + [1] * 3 + [2] * 20)
    chosen = labels[balanced_subset(labels, 23)]
    assert np.bincount(chosen).tolist() == [10, 3, 10]
    assert len(set(balanced_subset(labels, 73))) == 73


def test_hold_out_takes_a_part_of_each_class():
    labels = np.array([0] * 100 + [1] * 10 + [2] * 2 + [3])
    train, validation = hold_out(labels, 0.2)
    assert sorted([*train, *validation]) == list(range(113))
    assert np.bincount(labels[validation], minlength=4).tolist() == [20, 2, 1, 0]


# --- folders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["val", "validation", "valid", "test"])
@pytest.mark.parametrize("prefix", ["", "folder:"])
def test_folder_with_splits(tmp_path, write_folder, name, prefix):
    write_folder(tmp_path / "train", count=4)
    write_folder(tmp_path / name, count=2)
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "cat" / "deeper").mkdir()
    (tmp_path / "train" / "cat" / "deeper" / "X.PNG").write_bytes(b"x")
    train, validation = sources(f"{prefix}{tmp_path}")
    assert (len(train), len(validation)) == (9, 4)
    assert train.class_names == ("cat", "dog") and train.labels.tolist() == [0] * 5 + [1] * 4
    for index in range(9):
        path = Path(train.describe(index))
        assert train.read(index) == path.read_bytes()
        assert path.relative_to(tmp_path / "train").parts[0] == train.class_names[train.labels[index]]
    copy = pickle.loads(pickle.dumps(train))
    assert copy.read(3) == train.read(3)


def test_folder_of_classes_alone(tmp_path, write_folder):
    write_folder(tmp_path, count=10, classes=("train", "car", "bus"))  # a class may be called `train`
    train, validation = sources(tmp_path, val_fraction=0.2)
    assert (len(train), len(validation)) == (24, 6)
    assert np.bincount(validation.labels).tolist() == [2, 2, 2]
    names = [{source.describe(i) for i in range(len(source))} for source in (train, validation)]
    assert not names[0] & names[1]
    again = sources(tmp_path, val_fraction=0.2, seed=7)[1]
    assert {again.describe(i) for i in range(6)} == names[1]


def test_another_validation_source_and_order_of_classes(tmp_path, write_folder):
    write_folder(tmp_path / "a", ("ant", "bee"))
    (tmp_path / "p").mkdir()
    write_parquet(tmp_path / "p" / "sketch.parquet", ["bee", "ant"], [0, 0, 1])
    train, validation = sources(tmp_path / "a", val_source=f"{tmp_path}/p", val_split="sketch")
    assert len(train) == 10 and train.class_names == validation.class_names == ("ant", "bee")
    assert validation.labels.tolist() == [1, 1, 0]


# --- Parquet ---------------------------------------------------------------------------------------------


def write_parquet(path: Path, names: list[str] | None, labels: list, column: str = "label", **options: object) -> None:
    """Rows of tiny PNGs; `names` are declared the way `datasets` does it."""
    images = [png(Image.new("RGB", (6, 5), (i % 256, 7, 9))) for i in range(len(labels))]
    struct = pa.array(
        [{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({"image": options.get("image", struct), column: labels})
    if names is not None:
        features = {"image": {"_type": "Image"}, column: {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=3)


def test_parquet_against_datasets(tmp_path, photo):
    datasets = pytest.importorskip("datasets")

    features = datasets.Features({"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=["x", "y", "z"])})
    rows = {"img": [photo(i) for i in range(11)], "fine_label": [i % 3 for i in range(11)]}
    datasets.Dataset.from_dict(rows, features).to_parquet(str(tmp_path / "train-00000-of-00001.parquet"), batch_size=4)
    theirs = datasets.load_dataset("parquet", data_files=str(tmp_path / "*.parquet"), cache_dir=str(tmp_path / "c"))
    ours = open_source(str(tmp_path / "*.parquet"), "train")
    assert ours.class_names == ("x", "y", "z") and ours.labels.tolist() == theirs["train"]["fine_label"][:]
    for index, row in enumerate(theirs["train"]):
        assert np.array_equal(np.asarray(decode(ours.read(index), "x")), np.asarray(row["img"].convert("RGB")))


def test_parquet_splits_shards_and_a_worker_of_its_own(tmp_path):
    write_parquet(tmp_path / "train-00000-of-00002.parquet", ["a", "b"], [0, 1, 1, 0, 1])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", ["a", "b"], [1, 1])
    write_parquet(tmp_path / "test-00000-of-00001.parquet", ["a", "b"], [0, 1])
    write_parquet(tmp_path / "sketch.parquet", ["a", "b"], [1])
    assert set(find_kind(str(tmp_path)).splits()) == {"train", "test", "sketch"}
    train, validation = sources(tmp_path)
    assert train.labels.tolist() == [0, 1, 1, 0, 1, 1, 1] and validation.labels.tolist() == [0, 1]
    assert open_source(f"parquet:{tmp_path}", "sketch").labels.tolist() == [1]
    assert [s.labels.tolist() for s in sources(tmp_path, val_split="sketch")][1] == [1]
    assert train.describe(6).endswith("train-00001-of-00002.parquet row 1")
    copy = pickle.loads(pickle.dumps(train))
    assert [copy.read(i) for i in range(7)] == [train.read(i) for i in range(7)]
    assert np.asarray(decode(train.read(4), "x"))[0, 0].tolist() == [4, 7, 9]
    with pytest.raises(DataError, match=r"has no split 'sketc' \(did you mean sketch\?\)"):
        open_source(str(tmp_path), "sketc")
    with pytest.raises(DataError, match=r"has the splits .* say which"):
        open_source(str(tmp_path))


def test_parquet_too_large_for_memory_is_mapped(tmp_path, monkeypatch):
    file = tmp_path / "train.parquet"
    write_parquet(file, ["a", "b"], [0, 1] * 10)
    expected = [open_source(str(file)).read(i) for i in range(20)]
    monkeypatch.setattr(parquet_module, "IN_MEMORY", 10)
    source = open_source(str(file))
    assert not source.in_memory and [source.read(i) for i in range(20)] == expected
    assert [pickle.loads(pickle.dumps(source)).read(i) for i in range(20)] == expected


def test_parquet_of_plain_binary_and_labels_without_names(tmp_path):
    images = pa.array([png(Image.new("L", (4, 4), i)) for i in range(4)], pa.binary())
    write_parquet(tmp_path / "a.parquet", None, [30, 4, 4, 100], image=images)
    source = open_source(str(tmp_path / "a.parquet"))
    assert source.class_names == ("4", "30", "100") and source.labels.tolist() == [1, 0, 0, 2]
    assert decode(source.read(3), "x").getpixel((0, 0)) == (3, 3, 3)
    write_parquet(tmp_path / "b.parquet", None, ["dog", "cat", "dog"])
    source = open_source(str(tmp_path / "b.parquet"))
    assert source.class_names == ("cat", "dog") and source.labels.tolist() == [1, 0, 1]


def test_parquet_errors(tmp_path):
    write_parquet(tmp_path / "range.parquet", ["a", "b"], [0, 1, 2, 5])
    with pytest.raises(DataError, match=r"range.parquet row 2 has label 2, but there are 2 classes, 0 to 1; 2 labels"):
        open_source(str(tmp_path / "range.parquet"))
    write_parquet(tmp_path / "unlabelled.parquet", ["a", "b"], [-1, -1])
    with pytest.raises(DataError, match="marks images without a label"):
        open_source(str(tmp_path / "unlabelled.parquet"))
    write_parquet(tmp_path / "null.parquet", ["a", "b"], [0, None])
    with pytest.raises(DataError, match=r"null.parquet row 1 has no label in column 'label'"):
        open_source(str(tmp_path / "null.parquet"))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"broken.parquet is no readable Parquet file"):
        open_source(str(tmp_path / "broken.parquet"))
    write_parquet(tmp_path / "column.parquet", None, [0, 1], column="age")
    with pytest.raises(DataError, match=r"no label column \(its columns: image, age\)"):
        open_source(str(tmp_path / "column.parquet"))
    empty = pa.array([None, None], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    write_parquet(tmp_path / "none.parquet", ["a"], [0, 0], image=empty)
    with pytest.raises(DataError, match=r"none.parquet row 1 holds no image"):
        open_source(str(tmp_path / "none.parquet")).read(1)
    write_parquet(tmp_path / "zero.parquet", ["a"], pa.array([], pa.int64()))
    with pytest.raises(DataError, match="has no images"):
        open_source(str(tmp_path / "zero.parquet"))


# --- WebDataset ------------------------------------------------------------------------------------------


def write_tar(path: Path, samples: list[tuple[str, dict[str, bytes]]]) -> None:
    with tarfile.open(path, "w") as archive:
        for key, members in samples:
            for extension, body in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(body)
                archive.addfile(info, io.BytesIO(body))


def tar_samples(photo, count: int, first: int = 0) -> list[tuple[str, dict[str, bytes]]]:
    return [
        (f"n{i % 3}/s{i:03d}", {"cls": str(i % 3).encode(), "png": png(photo(i, (9, 8))), "txt": b"words"})
        for i in range(first, first + count)
    ]


@pytest.mark.parametrize("pattern", ["{}", "wds:{}/train-{{00..01}}.tar", "{}/train-*.tar", "{}/train-{{00,01}}.tar"])
def test_tars_against_tarfile(tmp_path, photo, pattern):
    write_tar(tmp_path / "train-00.tar", tar_samples(photo, 7))
    write_tar(tmp_path / "train-01.tar", tar_samples(photo, 4, 7))
    source = open_source(pattern.format(tmp_path), "train")
    expected = []
    for name in ("train-00.tar", "train-01.tar"):
        with tarfile.open(tmp_path / name) as archive:
            for member in archive.getmembers():
                if member.name.endswith(".png"):
                    label = archive.extractfile(member.name.replace(".png", ".cls")).read()
                    expected.append((archive.extractfile(member).read(), int(label)))
    copy = pickle.loads(pickle.dumps(source))
    assert [(copy.read(i), int(source.labels[i])) for i in range(len(source))] == expected
    assert source.class_names == ("0", "1", "2")
    assert source.describe(8) == f"{tmp_path}/train-01.tar member n2/s008.png"


def test_tars_written_by_webdataset(tmp_path, photo):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for i in range(5):
            writer.write({"__key__": f"k{i}", "jpg": photo(i), "json": {"label": ["cat", "ant"][i % 2]}})
    source = open_source(str(tmp_path / "a.tar"))
    assert source.class_names == ("ant", "cat") and source.labels.tolist() == [1, 0, 1, 0, 1]
    theirs = webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False).decode("pil")
    for index, row in enumerate(theirs):
        assert np.array_equal(np.asarray(decode(source.read(index), "x")), np.asarray(row["jpg"]))


def test_the_index_is_kept_and_made_again_when_the_tar_changes(tmp_path, photo, monkeypatch):
    tar, index = tmp_path / "x.tar", tmp_path / "x.tar.coadvise.npz"
    write_tar(tar, tar_samples(photo, 3))
    open_source(str(tar))
    written = index.stat().st_mtime_ns
    monkeypatch.setattr(tarfile, "open", lambda *_, **__: pytest.fail("the tar was read again"))
    assert len(open_source(str(tar))) == 3 and index.stat().st_mtime_ns == written
    monkeypatch.undo()
    write_tar(tar, tar_samples(photo, 5))
    assert len(open_source(str(tar))) == 5
    index.write_bytes(index.read_bytes()[:50])  # a damaged index does no harm
    assert len(open_source(str(tar))) == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.tar", "x.tar.coadvise.npz"]


def test_the_index_goes_to_the_cache_where_the_folder_is_read_only(tmp_path, photo, monkeypatch):
    from coadvise.data.sources import webdataset as module

    write_tar(tmp_path / "x.tar", tar_samples(photo, 3))
    write = module.atomic_file

    def refuse(place: Path):  # a mode of the folder would not stop root
        if place.parent == tmp_path:
            raise PermissionError(place)
        return write(place)

    monkeypatch.setattr(module, "atomic_file", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(open_source(str(tmp_path / "x.tar"))) == 3
    assert len(list((tmp_path / "cache" / "coadvise" / "tars").iterdir())) == 1


def test_class_names_of_tars(tmp_path, photo):
    write_tar(tmp_path / "x.tar", tar_samples(photo, 6))
    (tmp_path / "classes.txt").write_text("zebra\nape\nbird\nfish\n")
    source = open_source(str(tmp_path / "x.tar"))
    assert source.class_names == ("zebra", "ape", "bird", "fish") and source.labels.tolist() == [0, 1, 2, 0, 1, 2]
    write_tar(tmp_path / "y.tar", [(f"{i}", {"png": b"x", "cls": name}) for i, name in enumerate([b"bird", b"ape"])])
    assert open_source(str(tmp_path / "y.tar")).labels.tolist() == [2, 1]
    write_tar(tmp_path / "z.tar", [(f"{i}", {"png": b"x", "cls": name}) for i, name in enumerate([b"3", b"-1"])])
    with pytest.raises(DataError, match=r"member 1.png has label -1 \(−1 marks images without a label"):
        open_source(str(tmp_path / "z.tar"))
    (tmp_path / "classes.txt").write_text("zebra\nape\n")
    with pytest.raises(DataError, match="has label 2, but there are 2 classes"):
        open_source(str(tmp_path / "x.tar"))


def test_tar_errors(tmp_path, photo):
    write_tar(tmp_path / "x.tar", tar_samples(photo, 6))
    whole = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2 + 100])
    (tmp_path / "header.tar").write_bytes(whole[: 3 * 1024 + 100])
    (tmp_path / "unended.tar").write_bytes(whole.rstrip(b"\0") + bytes(-len(whole.rstrip(b"\0")) % 512))
    (tmp_path / "joined.tar").write_bytes(whole + whole)
    (tmp_path / "junk.tar").write_bytes(b"nothing of the kind" * 100)
    import gzip

    (tmp_path / "z.tar.gz").write_bytes(gzip.compress(whole))
    write_tar(tmp_path / "bare.tar", [("a", {"png": b"x"})])
    for name, message in (
        ("cut.tar", "cut.tar is no readable tar"),
        ("header.tar", "header.tar is no readable tar"),
        ("unended.tar", "unended.tar is no readable tar: it has no end mark"),
        ("joined.tar", "damaged, or another tar joined to it"),
        ("junk.tar", "junk.tar is no readable tar"),
        ("z.tar.gz", "it is compressed, which rules out random access"),
        ("bare.tar", r"bare.tar member a.png has no label"),
        ("none.tar", "none.tar does not exist"),
        ("x-{0..1}.tar", "x-0.tar does not exist"),
        ("q*.tar", "there are no tars at"),
    ):
        with pytest.raises(DataError, match=message):
            open_source(str(tmp_path / name))


def test_patterns_and_names_of_splits(tmp_path):
    assert [p.name for p in expand("/a/x-{08..11}-{p,q}.tar")][:3] == ["x-08-p.tar", "x-08-q.tar", "x-09-p.tar"]
    root = Path("/r")
    for name, split in (
        ("train-00000-of-00002.parquet", "train"), ("train.tar", "train"), ("train_003.tar", "train"),
        ("data/validation-00000-of-00001-b42fff4d5ad4c4d0.parquet", "validation"), ("fold2.tar", "fold2"),
        ("default/train/0000.parquet", "train"), ("0001.tar", "all"), ("part-0001.parquet", "all"),
        ("art_painting-00000-of-00001.parquet", "art_painting"), ("train-{00..09}.tar", "train"),
    ):  # fmt: skip
        assert split_of(root / name, root) == split


# --- Hugging Face and torchvision ------------------------------------------------------------------------


def test_hf_from_disk(tmp_path, photo):
    datasets = pytest.importorskip("datasets")

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])})
    make = lambda n: datasets.Dataset.from_dict(
        {"image": [photo(i) for i in range(n)], "label": [i % 2 for i in range(n)]}, features
    )
    splits = datasets.DatasetDict({"train": make(6).shuffle(seed=1), "test": make(4)})
    splits.save_to_disk(str(tmp_path / "saved"))
    train, validation = sources(f"hf:{tmp_path}/saved")
    assert (len(train), len(validation)) == (6, 4) and train.class_names == ("x", "y")
    assert train.labels.tolist() == splits["train"]["label"][:]
    copy = pickle.loads(pickle.dumps(train))
    for index in range(6):
        assert isinstance(copy.read(index), bytes)
        assert np.array_equal(np.asarray(decode(copy.read(index), "x")), np.asarray(splits["train"][index]["image"]))


def test_hf_without_datasets(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install \"coadvise\[hf\]\""):
        open_source("hf:mnist", "train")


def write_mnist(root: Path, train: np.ndarray, test: np.ndarray) -> None:
    """The official idx files; torchvision checks that they are there and nothing more."""
    root.mkdir(parents=True)
    for name, images in (("train", train), ("t10k", test)):
        header = np.array([0x803, *images.shape], dtype=">i4").tobytes()
        (root / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = (np.arange(len(images)) % 10).astype(np.uint8)
        header = np.array([0x801, len(images)], dtype=">i4").tobytes()
        (root / f"{name}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())


def test_torchvision(tmp_path):
    generator = np.random.default_rng(0)
    images, few = (generator.integers(0, 256, (n, 28, 28), dtype=np.uint8) for n in (20, 10))
    write_mnist(tmp_path / "FashionMNIST" / "raw", images, few)
    train, validation = sources(f"torchvision:fashionmnist@{tmp_path}")
    assert (len(train), len(validation)) == (20, 10)
    assert train.class_names[0] == "T-shirt/top" and train.labels.tolist() == [i % 10 for i in range(20)]
    copy = pickle.loads(pickle.dumps(validation))
    assert np.array_equal(np.asarray(copy.read(3)), few[3])
    with pytest.raises(DataError, match=r"torchvision has no data set 'CIFAR1O' \(did you mean CIFAR10\?\)"):
        open_source("torchvision:CIFAR1O", "train")
    with pytest.raises(DataError, match="has no split 'extra'"):
        open_source(f"torchvision:FashionMNIST@{tmp_path}", "extra")


def test_torchvision_with_files_and_a_split_argument(tmp_path, write_folder):
    root = write_folder(tmp_path / "eurosat" / "2750", ("Forest", "River"), count=3)
    source = open_source(f"torchvision:EuroSAT@{tmp_path}")
    assert source.class_names == ("Forest", "River") and source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert source.read(4) == (root / "River" / "01.png").read_bytes()
    assert source.describe(4) == str(root / "River" / "01.png")
    assert [len(part) for part in sources(f"torchvision:EuroSAT@{tmp_path}", val_fraction=0.34)] == [4, 2]


def test_torchvision_pets(tmp_path, photo):
    root = tmp_path / "oxford-iiit-pet"
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    for split, count in (("trainval", 4), ("test", 2)):
        lines = []
        for number in range(count):
            name = ["Abyssinian", "american_bulldog"][number % 2] + f"_{split}{number}"
            photo(number).save(root / "images" / f"{name}.jpg")
            lines.append(f"{name} {number % 2 + 1} 1 1")
        (root / "annotations" / f"{split}.txt").write_text("\n".join(lines))
    train, validation = sources(f"torchvision:oxfordiiitpet@{tmp_path}")
    assert train.class_names == ("Abyssinian", "American Bulldog") and train.labels.tolist() == [0, 1, 0, 1]
    assert train.read(1) == (root / "images" / "american_bulldog_trainval1.jpg").read_bytes()
    assert validation.labels.tolist() == [0, 1]


def test_torchvision_that_cannot_be_had(tmp_path, monkeypatch):

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)
    with pytest.raises(DataError, match=r"torchvision:CIFAR10 is not in .* and cannot be downloaded: no network; put"):
        open_source(f"torchvision:CIFAR10@{tmp_path}", "train")


# --- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".tar", ".parquet"])
def test_a_pattern_of_which_a_file_is_missing(tmp_path, ending):
    """It is not read in part: a shard that was not copied would pass unseen."""
    for number in (0, 2):
        (tmp_path / f"train-{number}{ending}").touch()
    with pytest.raises(DataError, match=rf"are missing at .*train-1\{ending} does not exist"):
        open_source(str(tmp_path / f"train-{{0..2}}{ending}"))


def test_missing_sources(tmp_path):
    for source, message in (
        ("nowhere/at/all", "nowhere/at/all does not exist"),
        ("x" * 5000, "the data source x{299}… does not exist"),
        ("digit", r"digit does not exist \(did you mean digits\?\)"),
        ("tochvision:CIFAR10", r"unknown kind 'tochvision' \(did you mean torchvision\?\)"),
        ("folder:/nope", "/nope does not exist"),
        ("parquet:/nope", "no Parquet files at /nope"),
        ("/nope/x.parquet", "no Parquet files at /nope/x.parquet"),
        ("digits:8", "takes no further name"),
    ):
        with pytest.raises(DataError, match=message):
            sources(source)
    (tmp_path / "file.zip").write_bytes(b"x")
    with pytest.raises(DataError, match=r"file.zip is a file of an unknown kind"):
        sources(tmp_path / "file.zip")


def test_folder_errors(tmp_path, write_folder, photo):
    with pytest.raises(DataError, match="has no class folders"):
        sources(tmp_path)
    write_folder(tmp_path / "a" / "train")
    (tmp_path / "a" / "val").mkdir()
    with pytest.raises(DataError, match=r"a/val has no class folders"):
        sources(tmp_path / "a")
    (tmp_path / "a" / "val" / "cat").mkdir()
    with pytest.raises(DataError, match=r"the class folder .*a/val/cat holds no images"):
        sources(tmp_path / "a")
    photo().save(tmp_path / "a" / "val" / "cat" / "x.png")
    (tmp_path / "a" / "val" / "cow").mkdir()
    photo().save(tmp_path / "a" / "val" / "cow" / "x.png")
    with pytest.raises(DataError, match=r"differ: 'cow' in validation, not in training, which has images of 'dog'"):
        sources(tmp_path / "a")
    with pytest.raises(DataError, match=r"no split 'tset' \(did you mean test\?\)|known: train, val"):
        sources(tmp_path / "a", val_split="tset")
    with pytest.raises(DataError, match="both 'train'"):
        sources(tmp_path / "a", val_split="train")
    for name in ("train", "val"):
        (tmp_path / "flat" / name).mkdir(parents=True)
        photo().save(tmp_path / "flat" / name / "x.png")
    with pytest.raises(DataError, match="no class folders in there"):
        sources(tmp_path / "flat")
    write_folder(tmp_path / "single", count=1)
    with pytest.raises(DataError, match="the validation set is empty"):
        sources(tmp_path / "single")
    write_folder(tmp_path / "onlyval" / "val")
    write_folder(tmp_path / "onlyval" / "other")
    with pytest.raises(DataError, match=r"none of them for training; set data\.train_split"):
        sources(tmp_path / "onlyval")


def test_a_file_that_vanished_is_named(tmp_path, write_folder):
    source = open_source(str(write_folder(tmp_path / "x")))
    os.unlink(source.describe(2))
    with pytest.raises(DataError, match=r"cat/02.png cannot be read: No such file"):
        source.read(2)


# --- real data -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "counts", "classes", "size"),
    [
        ("cifar10", (50000, 10000), 10, (32, 32)),
        ("pacs", (560, 333), 7, (227, 227)),
        ("tiny_imagenet_100", (49990, 4996), 100, (64, 64)),
    ],
)
def test_shared_data(shared_data, name, counts, classes, size):
    train, validation = sources(shared_data / name)
    assert (len(train), len(validation)) == counts and len(train.class_names) == classes
    info = json.loads((shared_data / name / "info.json").read_text())
    assert all(text in json.dumps(info) for text in train.class_names)
    for source in (train, validation):
        for index in range(0, len(source), len(source) // 20):
            assert decode(source.read(index), source.describe(index)).size == size


def test_shared_photographs(shared_data):
    source = open_source(str(shared_data / "imagenet1k_samples"), "test")
    assert len(source) == 120 and len(source.class_names) == 1000
    for index in range(0, 120, 10):
        assert min(decode(source.read(index), source.describe(index)).size) > 50
    assert len(open_source(str(shared_data / "pacs"), "sketch")) == 140
