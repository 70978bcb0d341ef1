"""Samples of tars, against the files that unpacking gives; what is left out is counted, odd labels are named."""

from __future__ import annotations

import io
import os
import random
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coadvise.data.sources.opening import open_source
from coadvise.data.sources.webdataset import Tars
from coadvise.errors import DataError


def write(tar: Path, members: list[tuple[str, bytes | str]]) -> Path:
    """A tar of files (bytes), symbolic links ("-> target") and hard links ("= name")."""
    with tarfile.open(tar, "w") as archive:
        for name, body in members:
            info = tarfile.TarInfo(name)
            if isinstance(body, str):
                info.type = tarfile.SYMTYPE if body.startswith("-> ") else tarfile.LNKTYPE
                info.linkname = body.split(" ", 1)[1]
                archive.addfile(info)
            else:
                info.size = len(body)
                archive.addfile(info, io.BytesIO(body))
    return tar


def unpacked(tar: Path, folder: Path) -> list[tuple[str, bytes, str]]:
    """Name, contents and label of every image that has a label of the same name, after unpacking."""
    with tarfile.open(tar) as archive:
        archive.extractall(folder, filter="fully_trusted")
    found = []
    for path in sorted(folder.rglob("*")):
        label = path.with_name(path.name.rpartition(".")[0] + ".cls")
        if path.suffix.lower() in (".jpg", ".png", ".tif", ".bmp", ".gif") and label.is_file() and path.name[0] != ".":
            found.append((str(path.relative_to(folder)), path.read_bytes(), label.read_text().strip()))
    return found


def read(source: Tars) -> list[tuple[str, bytes, str]]:
    return sorted(
        (
            os.path.normpath(source.describe(i).partition(" member ")[2]),
            bytes(source.read(i)),
            source.class_names[source.labels[i]],
        )
        for i in range(len(source))
    )


def pictures(kinds: str = "jpg png tif bmp gif") -> list[tuple[str, bytes]]:
    members = []
    for number, kind in enumerate(kinds.split()):
        buffer = io.BytesIO()
        Image.new("RGB", (4, 3), (number, 7, 9)).save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind))
        members += [
            (f"n{number % 2}/s{number}.{kind}", buffer.getvalue()),
            (f"n{number % 2}/s{number}.cls", b"%d" % number),
        ]
    return members


CASES = {
    "kinds": pictures(),
    "one folder": [(name.partition("/")[2], body) for name, body in pictures()],
    "from the folder": [("./" + name, body) for name, body in pictures()],
    "dotted stems": [(name.replace("/s", "/photo.v2."), body) for name, body in pictures("jpg jpg jpg tif")],
    "dots and plain": [*pictures("jpg"), ("n0/s0.2.jpg", b"other"), ("n0/s0.2.cls", b"5")],
    "hard links": [*pictures("jpg jpg"), ("twin/a.jpg", "= n0/s0.jpg"), ("twin/a.cls", "= n1/s1.cls")],
    "symbolic links": [
        ("b/x.jpg", "-> ../n0/s0.jpg"), ("b/x.cls", b"b"), *pictures("jpg"),
        ("c/y.jpg", "-> ../b/x.jpg"), ("c/y.cls", "-> ../b/x.cls"),
    ],
    "mac": [
        member for name, body in pictures()
        for member in (
            (f"{name.partition('/')[0]}/._{name.partition('/')[2]}", b"\0\5\26\7"), (name, body),
            ("n0/.DS_Store", b"Bud1"),
        )
    ],
    "litter": [
        member for name, body in pictures()
        for member in ((name, body), ("README", b"words"), ("LICENSE.txt", b"words"), ("n0/Thumbs.db", b"x"))
    ],
    "images first": sorted(pictures(), key=lambda member: member[0].endswith("cls")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_no_sample_is_lost(tmp_path, name):
    tar = write(tmp_path / "x.tar", CASES[name])
    expected = unpacked(tar, tmp_path / "out")
    source = open_source(str(tar))
    assert isinstance(source, Tars)
    assert read(source) == expected and len(expected) >= 2
    assert source.notes == ()
    assert read(open_source(str(tar))) == expected  # from the index


def test_members_in_any_order(tmp_path):
    members = [*CASES["kinds"], *CASES["dotted stems"], *CASES["mac"][:4]]
    members = list(dict(members).items())
    for seed in range(10):
        random.Random(seed).shuffle(members)
        tar = write(tmp_path / f"{seed}.tar", members)
        assert read(open_source(str(tar))) == unpacked(tar, tmp_path / str(seed))


@pytest.mark.skipif(shutil.which("tar") is None, reason="there is no tar program")
def test_a_tar_of_a_folder_with_linked_files(tmp_path):
    """GNU tar writes the second name of a file as a link: without them, the class `twin` had no image."""
    for name, body in pictures():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(body)
    (tmp_path / "in" / "twin").mkdir()
    for number in range(2):
        os.link(tmp_path / "in" / "n0" / "s0.jpg", tmp_path / "in" / "twin" / f"{number}.jpg")
        (tmp_path / "in" / "twin" / f"{number}.cls").write_text("twin")
    subprocess.run(["tar", "-cf", tmp_path / "x.tar", "-C", tmp_path / "in", "."], check=True)
    source = open_source(str(tmp_path / "x.tar"))
    assert read(source) == unpacked(tmp_path / "x.tar", tmp_path / "out")
    assert (source.labels == source.class_names.index("twin")).sum() == 2


def test_as_webdataset_groups_them(tmp_path):
    """Further members of a sample, also images, are no samples; one name twice is two samples where both are whole."""
    tar = write(
        tmp_path / "x.tar",
        [
            ("a.cls", b"1"), ("a.jpg", b"A"), ("a.seg.png", b"mask"), ("a.seg.json", b"{}"), ("a.png", b"mask"),
            ("b.json", b'{"label": 2}'), ("b.webp", b"B"), ("a.jpg", b"A2"), ("a.cls", b"3"),
            ("c.left.jpg", b"C"), ("c.cls", b"1"),
        ],
    )  # fmt: skip
    source = open_source(str(tar))
    assert [(bytes(source.read(i)), source.class_names[source.labels[i]]) for i in range(len(source))] == [
        (b"A", "1"), (b"B", "2"), (b"A2", "3"), (b"C", "1"),
    ]  # fmt: skip
    assert source.notes == (
        f"images in {tar} that are not read: 2, which stand beside another image of the sample and have no label of "
        "their own",
    )


@pytest.mark.parametrize("body", [b'["cat", "dog"]', b'{"label": {"0": "cat"}}', b"no JSON", b'{"count": 2}'])
def test_json_beside_the_samples_is_none_of_them(tmp_path, body):
    image, other = (content for name, content in pictures("jpg png") if not name.endswith(".cls"))
    members = [("about.json", body), ("a.jpg", image), ("a.cls", b"0"), ("b.png", other), ("b.cls", b"1")]
    source = Tars([write(tmp_path / "t.tar", members)])
    assert read(source) == [("a.jpg", image, "0"), ("b.png", other, "1")] == unpacked(tmp_path / "t.tar", tmp_path)
    assert not source.notes


def test_what_is_left_out_is_counted(tmp_path):
    tar = write(
        tmp_path / "x.tar",
        [
            *pictures("jpg jpg"), (".cache/t.jpg", b"x"), ("cow/1.heic", b"x"), ("cow/1.cls", b"cow"),
            ("cow/2.cls", b"cow"), ("n0/9.cls", b"0"), ("dog", "-> ../dogs"), ("x.jpg", "-> /data/x.jpg"),
            ("x.cls", b"1"), ("info.json", b"{}"), ("p.1.jpg", b"x"), ("p.2.jpg", b"x"), ("p.cls", b"0"),
        ],
    )  # fmt: skip
    said: list[str] = []
    source = open_source(str(tar), say=said.append)
    assert len(source) == 2 and len(read(source)) == 2
    for words in (
        "images in .*x.tar that are not read: 1, which are hidden",
        "images in .*x.tar that are not read: 2, which share one label with other images",
        "links in .*x.tar that lead to nothing in there: 2; make the tar with --dereference",
        r"labels in .*x.tar without an image of a known kind \(but .heic\): 4; no image is left of 'cow'",
    ):
        assert sum(bool(re.search(words, line)) for line in said) == 1, (words, said)
    write(tmp_path / "y.tar", [("a.npy", b"x"), ("a.cls", b"1")])
    with pytest.raises(
        DataError, match=r"y.tar has no images with labels; labels in .*\(but .npy\): 1; no image is left of '1'"
    ):
        open_source(str(tmp_path / "y.tar"))


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("cls", b"\xff\xd8\xff\xe0", "member a.cls is no text in UTF-8"),
        ("cls", b"caf\xe9", "member a.cls is no text in UTF-8"),
        ("cls", b"x" * 5000, "member a.cls has 5000 bytes, which is no label"),
        ("cls", b" \n", "member a.jpg has no label; add a member"),
        ("json", b'{"caption": "a cat"}', "member a.jpg has no label; add a member"),
        ("json", b'{"label": [1, 2]}', "member a.json has a list as its label"),
        ("json", b'{"label": {"id": 1}}', "member a.json has an object as its label"),
        ("json", b'{"label": NaN}', "member a.json has nan as its label"),
        ("json", b'{"label": 1', "member a.json is no readable JSON"),
        ("json", b'{"label": "' + b"x" * 5000 + b'"}', "member a.json has a label of 5000 characters"),
        ("json", b"[" * 100_000, "member a.json is no readable JSON"),
        ("json", b'{"label": ' + b"9" * 5000 + b"}", "member a.json is no readable JSON"),
    ],
)
def test_labels_of_another_type(tmp_path, name, body, message):
    tar = write(tmp_path / "x.tar", [("a.jpg", b"x"), (f"a.{name}", body)])
    with pytest.raises(DataError, match=message) as caught:
        open_source(str(tar))
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


def test_a_tar_without_labels_is_read_once_to_say_so(tmp_path):
    tar = write(tmp_path / "x.tar", [("a.jpg", b"x"), ("b.jpg", b"y"), ("b.cls", b"1")])
    said = []
    for _ in range(2):
        with pytest.raises(DataError, match="has no label") as caught:
            open_source(str(tar))
        said.append(str(caught.value))
        stat = tar.stat()
        tar.write_bytes(b"x" * stat.st_size)  # which no reader takes for a tar
        os.utime(tar, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert said[0] == said[1]


def test_labels_as_they_are_written(tmp_path):
    texts = ["1_12", "11_2", "001", "1"]
    members = [
        (f"{i}.{kind}", body) for i, text in enumerate(texts) for kind, body in (("jpg", b"x"), ("cls", text.encode()))
    ]
    source = open_source(str(write(tmp_path / "x.tar", members)))
    assert source.class_names == ("001", "1", "11_2", "1_12")
    (tmp_path / "classes.txt").write_bytes("\ufeffcat\ndog\n".encode())
    with pytest.raises(DataError, match=r"the label '11_2' in .*x.tar is not in .*classes.txt"):
        open_source(str(tmp_path / "x.tar"))
    source = open_source(str(write(tmp_path / "x.tar", members[4:])))
    assert source.class_names == ("cat", "dog") and source.labels.tolist() == [1, 1]


def test_an_index_of_other_types_is_made_again(tmp_path):
    tar = write(tmp_path / "x.tar", pictures())
    expected = read(open_source(str(tar)))
    index = tmp_path / "x.tar.coadvise.npz"
    with np.load(index) as stored:
        good = dict(stored)
    for change in (
        {"label": np.arange(5)},
        {"offset": good["offset"].astype(float)},
        {"size": good["size"][:2]},
        {"name": good["name"][0]},
        {"count": np.array([5])},
    ):
        np.savez(index, **{**good, **change})
        assert read(open_source(str(tar))) == expected
