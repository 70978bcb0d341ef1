"""How many bytes the images of a source have: as the disk has them, whatever kind of source it is."""

import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from coadvise.data import states
from coadvise.data.sources.base import ImageSource
from coadvise.data.sources.opening import open_source
from coadvise.data.sources.subsets import Subset
from coadvise.data.states import bytes_digest, image_bytes

KINDS = ("folder", "table", "tar", "parquet", "parquet of paths", "parquet of both")


def write(kind: str, root: Path) -> str:
    """The same 12 images, whose files differ in length, as a source of a kind."""
    rng, paths = np.random.default_rng(0), [root / "in" / "ab"[i // 6] / f"{i:02}.png" for i in range(12)]
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (4 + i, 5, 3), dtype=np.uint8)).save(path)
    target = root / f"all.{kind.split()[0].replace('table', 'csv')}"
    if kind == "folder":
        return str(root / "in")
    if kind == "table":
        target.write_text("\n".join(["path,label", *(f"{path},{path.parent.name}" for path in paths)]))
        return str(target)
    if kind == "tar":
        with tarfile.open(target, "w") as archive:
            for path in paths:
                (label := path.with_suffix(".cls")).write_text(path.parent.name)
                archive.add(path, path.name)
                archive.add(label, label.name)
        return str(target)
    inside = [kind == "parquet" or (kind.endswith("both") and i % 2 == 0) for i in range(12)]
    held = [
        {"bytes": path.read_bytes() if there else None, "path": path.name if there else str(path)}
        for path, there in zip(paths, inside, strict=True)
    ]
    images = [str(path) for path in paths] if kind.endswith("paths") else held
    table = pa.table({"image": images, "label": [path.parent.name for path in paths]})
    pq.write_table(table, target, row_group_size=5)
    return str(target)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_those_that_are_read(kind: str, tmp_path: Path) -> None:
    source = open_source(write(kind, tmp_path))
    expected = [len(source.read(i)) for i in range(12)]  # type: ignore[arg-type]
    assert image_bytes(source).tolist() == expected and len(set(expected)) == 12
    assert image_bytes(Subset(source, np.array([7, 2]))).tolist() == [expected[7], expected[2]]


def test_the_digest_is_the_same_for_every_kind(tmp_path: Path) -> None:
    found = {bytes_digest(open_source(write(kind, tmp_path / kind))) for kind in KINDS}
    assert len(found) == 1 and None not in found


def test_what_cannot_be_looked_at_is_not_known(tmp_path: Path) -> None:
    address = write("folder", tmp_path)
    source = open_source(address)
    (tmp_path / "in" / "a" / "03.png").unlink()
    (tmp_path / "in" / "a" / "03.png").symlink_to(tmp_path / "nowhere")
    assert np.flatnonzero(image_bytes(source) == -1).tolist() == [3]
    assert bytes_digest(source) is None  # whoever reads it says that it is missing


def test_of_many_images_some_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "LOOKED_AT", 4)
    source = open_source(write("tar", tmp_path))
    assert np.flatnonzero(image_bytes(source) != -1).tolist() == [0, 3, 7, 11] and bytes_digest(source)


def test_of_images_without_files_nothing_is_known() -> None:
    source: ImageSource = open_source("digits", "train")
    assert bytes_digest(source) is None and (image_bytes(source) == -1).all()
