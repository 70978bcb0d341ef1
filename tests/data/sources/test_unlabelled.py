"""Images without labels beside labelled ones: what is found, what is left out, and what is said of it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.runs import photographs
from PIL import Image
from torchvision.datasets import STL10

from coadvise.data.sources.opening import open_source, open_sources
from coadvise.data.sources.unlabelled import Joined, labelled_part, open_for_training
from coadvise.errors import DataError, RecipeError
from coadvise.recipe.schema import Data


def pictures(root: Path, names: list[str]) -> Path:
    for at, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), at, dtype=np.uint8)).save(root / name)
    return root


def joined(source: str, unlabelled: Path | str, **settings: object) -> tuple[Joined, list[str]]:
    lines: list[str] = []
    found = open_for_training(Data(source=source, unlabelled=str(unlabelled), **settings), ["cnn"], lines.append)[0]
    assert isinstance(found, Joined)
    return found, lines


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["b.png", "a.png", "deep/er/c.png"], ["a.png", "b.png", "deep/er/c.png"]),
        (["cat/a.png", "dog/b.png"], ["cat/a.png", "dog/b.png"]),
        (["train/a.png", "val/b.png"], ["train/a.png"]),
        (["train/a.png", "unlabeled/b.png", "test/c.png"], ["unlabeled/b.png"]),
        (["train/a.png", "wagon/b.png"], ["train/a.png", "wagon/b.png"]),
    ],
)
@pytest.mark.parametrize("prefix", ["", "folder:"])
def test_a_folder_needs_no_class_folders(tmp_path: Path, names: list[str], taken: list[str], prefix: str) -> None:
    source, more = photographs(tmp_path / "own", 3), pictures(tmp_path / "more", names)
    found, lines = joined(source, f"{prefix}{more}")
    assert found.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [-1] * len(taken)
    assert found.class_names == ("dark", "grey", "light")
    assert [found.describe(9 + i) for i in range(len(taken))] == [str(more / name) for name in taken]
    for i in range(len(found)):
        assert found.read(i) == Path(found.describe(i)).read_bytes()
    assert f"an epoch shows 9 labelled and {len(taken)} unlabelled images" in lines
    assert labelled_part(found) is found.labelled and len(found.labelled) == 9


def test_known_images_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A validation image would be learnt from; one with a label would come twice."""
    root = Path(photographs(tmp_path, 5)) / "train"
    monkeypatch.chdir(tmp_path)
    found, lines = joined(str(root), "./train", train_size=6)
    train, validation = open_sources(Data(source=str(root), train_size=6))
    known = {one.describe(i) for one in (train, validation) for i in range(len(one))}
    everything = {str(path) for path in root.rglob("*.png")}
    assert len(known) == 9 and len(everything) == 15
    assert {str(Path(found.describe(i)).resolve()) for i in range(6, len(found))} == everything - known
    assert "note: 9 images of train that training or validation has as well: left out there" in lines
    with pytest.raises(DataError, match="all of its images are training or validation images"):
        joined(str(root), root)


def linked(tmp_path: Path) -> tuple[Path, list[str]]:
    """A pool of 20 images that all differ, and `own/CLASS/N.png`, links to its first ten."""
    rng, pool = np.random.default_rng(0), tmp_path / "pool"
    pool.mkdir()
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(pool / f"{i:02}.png")
    for i in range(10):
        place = tmp_path / "own" / ("cat", "dog")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i}.png").symlink_to(pool / f"{i:02}.png")
    return pool, [str(pool / f"{i:02}.png") for i in range(10)]


@pytest.mark.parametrize("kind", ["links", "table", "parquet of paths", "folder by a link"])
def test_images_are_known_under_every_name(kind: str, tmp_path: Path) -> None:
    """What is learnt from has none of the validation images' bytes, nor a labelled image a second time."""
    pool, files = linked(tmp_path)
    source, labels = str(tmp_path / "own"), ["cat", "dog"] * 5
    if kind == "table":
        rows = [f"{path},{label}" for path, label in zip(files, labels, strict=True)]
        (tmp_path / "table.csv").write_text("\n".join(["path,label", *rows]))
        source = str(tmp_path / "table.csv")
    elif kind == "parquet of paths":
        pq.write_table(pa.table({"path": files, "label": labels}), tmp_path / "table.parquet")
        source = str(tmp_path / "table.parquet")
    (tmp_path / "other name").symlink_to(pool)
    found, lines = joined(source, tmp_path / "other name" if kind == "folder by a link" else pool, val_fraction=0.4)
    known = {Path(path).read_bytes() for path in files}
    learnt = [found.read(i) for i in range(len(found.labelled), len(found))]
    assert len(learnt) == 10 and not known & set(learnt)
    assert any("10 images of" in line and "left out there" in line for line in lines)


@pytest.mark.parametrize("kind", ["tar", "parquet", "hf"])
def test_a_file_of_many_images_is_known_under_every_name(kind: str, tmp_path: Path) -> None:
    """Through a link to the file, and to the folder it lies in."""
    folder, files = linked(tmp_path)[0].parent, sorted((tmp_path / "pool").iterdir())
    source = str(folder / f"all.{kind}")
    rows = [{"image": {"bytes": path.read_bytes(), "path": None}, "label": i % 2} for i, path in enumerate(files)]
    if kind == "tar":
        with tarfile.open(source, "w") as archive:
            for i, path in enumerate(files):
                path.with_suffix(".cls").write_text(str(i % 2))
                archive.add(path, path.name)
                archive.add(path.with_suffix(".cls"), f"{path.stem}.cls")
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), source)
    else:
        import datasets

        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
        datasets.Dataset.from_list(rows, features=features).save_to_disk(source)
    (folder / f"link.{kind}").symlink_to(source)
    (folder / "again").symlink_to(folder)
    prefix = "hf:" if kind == "hf" else ""
    for name in (folder / f"link.{kind}", folder / "again" / f"all.{kind}"):
        with pytest.raises(DataError, match="all of its images are training or validation images"):
            joined(f"{prefix}{source}", f"{prefix}{name}")
        found, _ = joined(f"{prefix}{source}", f"{prefix}{name}", train_size=6, val_size=1)
        learnt = [found.read(i) for i in range(6, len(found))]
        assert len(learnt) == 13 and not {found.read(i) for i in range(6)} & set(learnt)


def test_labels_of_other_sources_are_not_looked_at(tmp_path: Path) -> None:
    """Of other classes, in Parquet and in a table; and a test set without labels."""
    source, more = photographs(tmp_path / "own", 3), pictures(tmp_path / "more", ["a.png", "b.png", "c.png"])
    rows = [{"image": {"bytes": path.read_bytes(), "path": None}, "label": -1} for path in sorted(more.iterdir())]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "more.parquet")
    (more / "list.csv").write_text("path,label,split\na.png,zebra,train\nb.png,,unlabelled\nc.png,,unlabelled\n")
    for unlabelled, count in ((tmp_path / "more.parquet", 3), (more / "list.csv", 2)):
        found, _ = joined(source, unlabelled)
        assert found.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [-1] * count
        assert found.class_names == ("dark", "grey", "light")
        for i in range(9, 9 + count):
            assert found.read(i) == (more / "abc"[3 - count + i - 9]).with_suffix(".png").read_bytes()


@pytest.mark.parametrize("columns", [["path"], ["path", "label"], ["path", "dog", "cat"]])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "hf"])
def test_a_table_needs_no_labels(kind: str, columns: list[str], tmp_path: Path) -> None:
    """None at all, for some of its rows, or marks that are none."""
    source, more = photographs(tmp_path / "own", 3), pictures(tmp_path / "more", ["a.png", "b.png"])
    first, second = (dict.fromkeys(columns, value) for value in ("7", None))
    rows = [first | {"path": "a.png"}, second | {"path": "b.png"}]
    address = str(more / f"table.{kind}")
    if kind == "csv":
        lines = [columns, *([value or "" for value in row.values()] for row in rows)]
        Path(address).write_text("".join(",".join(line) + "\n" for line in lines))
    elif kind == "jsonl":
        Path(address).write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), address)
    else:
        import datasets

        held = [{"image": {"bytes": (more / row.pop("path")).read_bytes(), "path": None}, **row} for row in rows]
        features = {name: datasets.Value("string") for name in columns[1:]} | {"image": datasets.Image()}
        datasets.Dataset.from_list(held, features=datasets.Features(features)).save_to_disk(address)
        address = f"hf:{address}"
    found, _ = joined(source, address)
    assert found.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [-1] * 2
    assert [found.read(9 + i) for i in range(2)] == [(more / name).read_bytes() for name in ("a.png", "b.png")]


def test_a_tar_needs_no_labels(tmp_path: Path) -> None:
    """None at all, what are no labels, and one for two images; with labels, tarfile finds the same images."""
    names = ["a.png", "b.png", "c.1.png", "c.2.png"]
    source, more = photographs(tmp_path / "own", 3), pictures(tmp_path / "more", names)
    (tmp_path / "classes.txt").write_text("zebra\n")
    beside = {"bare.tar": {}, "odd.tar": {"a.json": "{", "b.cls": "x" * 2000, "c.json": '{"label": [1]}'}}
    for name, texts in {**beside, "own.tar": {"a.cls": "0", "b.cls": "0", "c.1.cls": "0", "c.2.cls": "0"}}.items():
        for member, text in texts.items():
            (more / member).write_text(text)
        tar = tmp_path / name
        with tarfile.open(tar, "w") as archive:
            for path in sorted(more.iterdir()):
                archive.add(path, path.name)
        for _ in range(2):  # the second time from the index
            found, _ = joined(source, tar)
            assert found.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [-1] * 4
            assert found.class_names == ("dark", "grey", "light")
            with tarfile.open(tar) as archive:
                expected = [archive.extractfile(one) for one in archive if one.name.endswith(".png")]
                assert [found.read(9 + i) for i in range(4)] == [one.read() for one in expected if one is not None]
        for path in [*more.glob("*.cls"), *more.glob("*.json")]:
            path.unlink()
    with pytest.raises(DataError, match=r"bare.tar member a.png has no label"):  # its index is another one
        open_source(str(tmp_path / "bare.tar"))
    assert len(open_source(f"wds:{tmp_path}/own.tar")) == len(joined(source, tmp_path / "own.tar")[0]) - 9 == 4
    with tarfile.open(tmp_path / "none.tar", "w") as archive:
        archive.add(tmp_path / "classes.txt", "a.cls")
    with pytest.raises(DataError, match=r"^data.unlabelled: .*none.tar has no images$"):
        joined(source, tmp_path / "none.tar")


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    source = photographs(tmp_path / "own", 3)
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts" / "in").mkdir(parents=True)
    (tmp_path / "texts" / "in" / "a.txt").write_text("a")
    with pytest.raises(RecipeError, match=r"^data.unlabelled gives images .* there are no teachers; add some, or"):
        open_for_training(Data(source=source, unlabelled=source), [])
    for unlabelled, words in (
        (tmp_path / "nowhere", r"^data.unlabelled: the data source .*/nowhere does not exist"),
        (tmp_path / "empty", r"^data.unlabelled: .*/empty holds no images"),
        (f"folder:{tmp_path / 'empty'}", r"^data.unlabelled: .*/empty holds no images"),
        ("", "^data.unlabelled is '': give a folder of images, or leave it out"),
        ("folder:", "^data.unlabelled is 'folder:': give a folder of images, or leave it out"),
        (tmp_path / "texts", r"^data.unlabelled: .*/texts holds no images"),
        ("folder:nowhere", r"^data.unlabelled: .*nowhere does not exist"),
    ):
        with pytest.raises(DataError, match=words):
            joined(source, str(unlabelled))


def test_the_unlabelled_images_of_stl10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rng = tmp_path / "stl10_binary", np.random.default_rng(0)
    folder.mkdir()
    pixels = {name: rng.integers(0, 256, (4, 3, 96, 96), dtype=np.uint8) for name in ("train", "test", "unlabeled")}
    for name, images in pixels.items():
        images.transpose(0, 1, 3, 2).tofile(folder / f"{name}_X.bin")  # column by column
        np.array([1, 2, 2, 1], dtype=np.uint8).tofile(folder / f"{name}_y.bin")
    (folder / "class_names.txt").write_text("bird\ncar\n")
    monkeypatch.setattr(STL10, "_check_integrity", lambda self: True)
    found, lines = joined(f"torchvision:STL10@{tmp_path}", f"torchvision:STL10@{tmp_path}")
    assert found.labels.tolist() == [0, 1, 1, 0, -1, -1, -1, -1]
    for i in range(4):
        assert np.array_equal(np.asarray(found.read(4 + i)), pixels["unlabeled"][i].transpose(1, 2, 0))
    assert f"unlabelled: 4 images from torchvision:STL10@{tmp_path}, split unlabeled" in lines
