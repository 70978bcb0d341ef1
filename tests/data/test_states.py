"""State of the files of a source: bytes and times as the disk has them, whatever kind of source it is."""

import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from coadvise.data.sources.base import ImageSource
from coadvise.data.sources.opening import open_source
from coadvise.data.sources.subsets import Subset
from coadvise.data.states import bytes_digest, file_states, stamps

KINDS = ("folder", "table", "tar", "parquet", "parquet of paths", "parquet of both")


def write(kind: str, root: Path) -> tuple[str, list[Path]]:
    """The same 12 images, whose files differ in length, as a source of a kind, and the file that holds each."""
    rng, paths = np.random.default_rng(0), [root / "in" / "ab"[i // 6] / f"{i:02}.png" for i in range(12)]
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (4 + i, 5, 3), dtype=np.uint8)).save(path)
    target = root / f"all.{kind.split()[0].replace('table', 'csv')}"
    if kind == "folder":
        return str(root / "in"), paths
    if kind == "table":
        target.write_text("\n".join(["path,label", *(f"{path},{path.parent.name}" for path in paths)]))
        return str(target), paths
    if kind == "tar":
        with tarfile.open(target, "w") as archive:
            for path in paths:
                (label := path.with_suffix(".cls")).write_text(path.parent.name)
                archive.add(path, path.name)
                archive.add(label, label.name)
        return str(target), [target] * 12
    inside = [kind == "parquet" or (kind.endswith("both") and i % 2 == 0) for i in range(12)]
    held = [
        {"bytes": path.read_bytes() if there else None, "path": path.name if there else str(path)}
        for path, there in zip(paths, inside, strict=True)
    ]
    images = [str(path) for path in paths] if kind.endswith("paths") else held
    table = pa.table({"image": images, "label": [path.parent.name for path in paths]})
    pq.write_table(table, target, row_group_size=5)
    return str(target), [target if there else path for path, there in zip(paths, inside, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_those_of_the_disk(kind: str, tmp_path: Path) -> None:
    address, files = write(kind, tmp_path)
    for at, file in enumerate(sorted(set(files))):
        os.utime(file, ns=(0, (at + 1) * 10**17 + 7))
    source = open_source(address)
    states = file_states(source)
    assert states.bytes.tolist() == [len(source.read(i)) for i in range(12)]  # type: ignore[arg-type]
    assert states.changed.tolist() == [file.stat().st_mtime_ns for file in files]
    part = file_states(Subset(source, np.array([7, 2])))
    assert part.bytes.tolist() == states.bytes[[7, 2]].tolist() and part.changed[1] == states.changed[2]


def test_the_digest_of_bytes_is_the_same_for_every_kind(tmp_path: Path) -> None:
    found = {bytes_digest(open_source(write(kind, tmp_path / kind)[0])) for kind in KINDS}
    assert len(found) == 1 and None not in found


def test_stamps_change_with_the_file_alone(tmp_path: Path) -> None:
    address, files = write("folder", tmp_path)
    before = stamps(open_source(address))
    assert np.array_equal(before, stamps(open_source(address))) and len(set(before.tolist())) == 12
    seen = files[3].stat()
    os.utime(files[3], ns=(seen.st_atime_ns, seen.st_mtime_ns + 1))  # of the same length
    files[8].write_bytes(files[8].read_bytes() + b"\0")
    os.utime(files[8], ns=(files[8].stat().st_atime_ns, int(file_states(open_source(address)).changed[8])))
    files[10].unlink()
    files[10].symlink_to(tmp_path / "nowhere")
    assert np.flatnonzero(before != stamps(open_source(address))).tolist() == [3, 8, 10]


def test_of_images_without_files_nothing_is_known() -> None:
    source: ImageSource = open_source("digits", "train")
    assert bytes_digest(source) is None and not stamps(source).any()
