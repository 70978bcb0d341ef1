"""A look at a folder in which everything is wrong once."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from coadvise.data.findings import counted, findings
from coadvise.data.sources.folder import Folder
from coadvise.data.survey import find_duplicates, survey


def picture(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Folder, Folder]:
    train, val = tmp_path / "train", tmp_path / "val"
    for root, first, count in ((train, 0, 6), (val, 100, 3)):
        for label, name in enumerate(("a", "b")):
            (root / name).mkdir(parents=True)
            for i in range(count):
                picture(first + 20 * label + i).save(root / name / f"{i}.png")
    a, b = train / "a", train / "b"
    (a / "same.png").write_bytes((b / "0.png").read_bytes())  # in another class, too
    Image.open(a / "1.png").resize((240, 180)).save(val / "a" / "scaled.jpg", quality=80)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(50, (80, 40)).save(a / "turned.jpg", exif=exif)
    (a / "broken.jpg").write_bytes((val / "a" / "scaled.jpg").read_bytes()[:900])
    Image.new("RGB", (64, 64), (200, 0, 0)).save(b / "red.png")
    Image.new("RGB", (64, 64), (0, 0, 200)).save(b / "blue.png")
    picture(51, (20, 30)).save(b / "tiny.png")
    picture(52, (4200, 40)).convert("L").save(b / "huge.png")
    return Folder(train), Folder(val)


def names(one, indices) -> list[str]:  # type: ignore[no-untyped-def]
    return [Path(one.source.describe(int(i))).name for i in indices]


def test_everything_is_seen(folders: tuple[Folder, Folder]) -> None:
    done: list[int] = []
    train = survey("training", folders[0], None, done.append)
    assert sum(done) == len(folders[0]) and train.whole
    assert names(train, train.unreadable) == ["broken.jpg"]
    assert "broken.jpg cannot be read" in next(iter(train.unreadable.values()))
    assert names(train, train.turned) == ["turned.jpg"]
    assert names(train, train.blank) == ["blue.png", "red.png"]
    assert names(train, train.tiny()) == ["tiny.png"] and names(train, train.huge()) == ["huge.png"]
    assert train.counts.tolist() == [9, 10]
    assert train.kinds == {"PNG RGB": 16, "JPEG RGB": 1, "PNG L": 1}
    for i, size in zip(train.looked, train.sizes, strict=True):  # Pillow's own, turned upright
        with Image.open(folders[0].describe(int(i))) as image:
            wanted = image.size[::-1] if image.getexif().get(0x0112) == 6 else image.size
        assert tuple(size) == wanted


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("turn", [1, 3, 5, 6, 7, 8])
def test_sizes_are_those_of_the_upright_image(kind: str, turn: int, tmp_path: Path) -> None:
    """Exif's numbers from 5 on are quarter turns; Pillow says the size of a TIFF as turned, and of others as stored."""
    exif = Image.Exif()
    exif[0x0112] = turn
    (tmp_path / "a").mkdir()
    picture(1, (150, 90)).save(tmp_path / "a" / f"x.{kind}", exif=exif)
    seen = survey("training", Folder(tmp_path), None, lambda _: None)
    assert seen.sizes.tolist() == [[90, 150] if turn >= 5 else [150, 90]]
    assert seen.turned.tolist() == ([0] if turn > 1 else [])


def test_duplicates_within_and_between_splits(folders: tuple[Folder, Folder]) -> None:
    surveys = [survey(word, one, None, lambda _: None) for word, one in zip("tv", folders, strict=True)]
    found = find_duplicates(surveys)
    named = lambda groups: [[f"{p.split} {Path(surveys[p.split].source.describe(p.at)).name}" for p in group]
                            for group in groups]  # fmt: skip
    assert named(found.exact) == [["0 same.png", "0 0.png"]]
    assert named(found.near) == [["0 1.png", "1 scaled.jpg"]]


def test_findings_name_every_image(folders: tuple[Folder, Folder]) -> None:
    surveys = [survey(word, one, None, lambda _: None) for word, one in zip(("training", "validation"), folders)]  # noqa: B905
    duplicates = find_duplicates(surveys)
    found = [(one.finding, one.split, Path(one.image).name) for one in findings(surveys, duplicates)]
    assert found == [
        ("unreadable", "training", "broken.jpg"),
        ("same file", "training", "0.png"),
        ("nearly the same", "validation", "scaled.jpg"),
        ("tiny", "training", "tiny.png"),
        ("huge", "training", "huge.png"),
        ("of one shade", "training", "blue.png"),
        ("of one shade", "training", "red.png"),
    ]
    said = [one.said for one in findings(surveys, duplicates)]
    assert "same.png, of another class (a, b)" in said[1] and "1.png, in training" in said[2] and "20×30 px" in said[3]
    rows = {name: values for name, *values in counted(surveys, duplicates)}
    assert rows["in all"] == ["19", "7"] and rows["unreadable"] == ["1", "0"] and rows["same file twice"] == ["1", "0"]
    assert rows["in both splits"] == ["1", "1"] and rows["of each class"] == ["9 to 10", "3 to 4"]


def test_a_copy_is_counted_and_told_once(tmp_path: Path) -> None:
    """Also where an image that looks alike is there as well: one in both splits, and two copies within training."""
    for split, images in {"train": ("one.png", "two.png", "copy.png"), "val": ("one-too.png", "other.png")}.items():
        (tmp_path / split / "a").mkdir(parents=True)
        for name in images:
            seed = {"o": 1, "t": 2, "c": 2}[name[0]] if name != "other.png" else 3
            picture(seed, (150, 90)).save(tmp_path / split / "a" / name)
    picture(1, (150, 90)).save(tmp_path / "train" / "a" / "one.jpg", quality=90)
    picture(2, (150, 90)).save(tmp_path / "train" / "a" / "two.jpg", quality=90)
    sources = Folder(tmp_path / "train"), Folder(tmp_path / "val")
    surveys = [survey(word, one, None, lambda _: None) for word, one in zip(("training", "validation"), sources)]  # noqa: B905
    duplicates = find_duplicates(surveys)
    rows = {name: values for name, *values in counted(surveys, duplicates)}
    assert rows["same file twice"] == ["1", "0"] and rows["nearly the same"] == ["2", "0"]
    assert rows["in both splits"] == ["1", "1"]
    found = [(one.finding, Path(one.image).name) for one in findings(surveys, duplicates)]
    assert len(found) == len({name for _, name in found}) == 4
    assert {kind for kind, name in found if name.endswith("jpg")} == {"nearly the same"}


def test_a_part_is_looked_at_in_balance(folders: tuple[Folder, Folder]) -> None:
    part = survey("training", folders[0], 6, lambda _: None)
    assert not part.whole and len(part.looked) + len(part.unreadable) == 6
    assert np.bincount(folders[0].labels[part.looked]).min() >= 2


def test_a_png_that_pillow_opens_only_without_its_texts(tmp_path: Path) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("comment", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    (tmp_path / "a").mkdir()
    held = io.BytesIO()
    picture(1).save(held, "PNG", pnginfo=texts)
    (tmp_path / "a" / "long.png").write_bytes(held.getvalue())
    seen = survey("training", Folder(tmp_path), None, lambda _: None)
    assert seen.sizes.tolist() == [[120, 90]] and not seen.unreadable
