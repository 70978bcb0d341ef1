"""WebDataset tars, with the index that is kept beside them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from coadvise.data.sources.opening import open_source
from fuzz.engine import BrokenPromise, Input, Target
from fuzz.mutate import json_bytes, mutate_bytes, mutate_tree

_FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
# Where they begin, and their length: name, mode, size, time, kind, link, magic, device, prefix.
_FIELDS = (
    (0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (329, 8), (345, 155),
)  # fmt: skip
_VALUES = [
    b"\0", b" ", b"-1", b"77777777777", b"\x80" + b"\0" * 10 + b"\x01", b"\xff" * 12, b"9", b"../../x.jpg", b"\xff\xfe",
    b"S", b"L", b"K", b"x", b"g", b"1", b"2", b"5", b"0", b"a" * 200, b"1.0", b"GNU.sparse.size",
]  # fmt: skip


_LABEL = {"label": 0, "text": "é", "more": {"cls": [1, 2], "class": "x"}}


def _tar(rng: Random, kind: int, damaged: bool) -> bytes:
    """A tar of four samples; in a damaged one labels and names are odd, members are doubled or left out."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
        for number in range(4):
            long = number == 2 and kind != tarfile.USTAR_FORMAT
            key, members = f"train/{'long' * 30 if long else ''}{number:04d}", _members(number)
            if damaged:
                key = _damaged(rng, key, members)
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(content)
                if damaged and rng.random() < 0.1:
                    info.type = rng.choice((tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, b"Z"))
                    info.linkname = rng.choice((info.name, "train/0000.png", "/etc/passwd", ""))
                if damaged and rng.random() < 0.1:
                    field = rng.choice(("size", "path", "x", "GNU.sparse.map", "mtime", "linkpath"))
                    info.pax_headers = {field: rng.choice(("1", "x", "-1", "1e9", "99999999999"))}
                with contextlib.suppress(ValueError):  # a name that this format cannot hold
                    archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _members(number: int) -> dict[str, bytes]:
    picture = io.BytesIO()
    Image.new("RGB", (8, 6), (200, 30, 90)).save(picture, "PNG")
    if number % 2:
        return {"png": picture.getvalue(), "json": json.dumps({**_LABEL, "label": 1}).encode()}
    return {"png": picture.getvalue(), "cls": b"0"}


def _damaged(rng: Random, key: str, members: dict[str, bytes]) -> str:
    """Change the label, and the members that a sample has; returns its name, which may be changed, too."""
    if rng.random() < 0.4 and "json" in members:
        members["json"] = json_bytes(rng, mutate_tree(rng, _LABEL, list(_LABEL)))
    elif rng.random() < 0.4:
        members["cls"] = mutate_bytes(rng, b"12", (), [b"\xff", b"1_1", b" ", b"\n", b"9" * 50, b"-1", b"1.0"])
    if rng.random() < 0.1:
        members.pop(rng.choice(list(members)))
    if rng.random() < 0.2:
        raw = mutate_bytes(rng, key.encode(), (), [b"/", b".", b"..", b"\xff", b" ", b"/._", b".DS_Store"])
        return raw.decode("utf-8", "surrogateescape").replace("\0", "")
    return key


def _fields(rng: Random, raw: bytes) -> bytes:
    """Fields of a header changed; its checksum is right."""
    out = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2))):
        at = 512 * rng.randrange(max(len(raw) // 512, 1))
        start, size = rng.choice(_FIELDS)
        value = rng.choice((rng.choice(_VALUES), mutate_bytes(rng, raw[at + start : at + start + size] or b"0")))
        out[at + start : at + start + size] = value[:size].ljust(size, b"\0")
        header = out[at : at + 512]
        header[148:156] = b" " * 8
        out[at + 148 : at + 156] = b"%06o\0 " % sum(header)
    return bytes(out)


def tar(folder: Path) -> Target:
    """A tar of images with labels; now and then a whole one with a damaged index or list of classes."""
    valid = [_tar(Random(0), format, damaged=False) for format in _FORMATS]
    index = _index(folder, valid[0])

    def make(rng: Random) -> Input:
        way, one = rng.random(), rng.choice(valid)
        if way < 0.3:
            return {"a.tar": _tar(rng, rng.choice(_FORMATS), damaged=True)}
        if way < 0.65:
            return {"a.tar": _fields(rng, one)}
        if way < 0.75:
            return {"a.tar": valid[0], "a.tar.coadvise.npz": mutate_bytes(rng, index)}
        if way < 0.8:
            return {
                "a.tar": one,
                "classes.txt": mutate_bytes(rng, b"cat\ndog\n", (), [b"\xff", b"\xef\xbb\xbf", b"\n", b"0"]),
            }
        return {"a.tar": mutate_bytes(rng, one, valid)}

    def read(place: Path) -> None:
        size = (place / "a.tar").stat().st_size
        if (place / "a.tar.coadvise.npz").is_file():
            _stamp(place)
        opened = open_source(f"wds:{place / 'a.tar'}")
        for number in range(min(len(opened), 50)):
            opened.describe(number).encode("utf-8", "surrogateescape")
            if len(opened.read(number)) > size:  # type: ignore[arg-type]
                raise BrokenPromise("an image is larger than its tar")
        if len(opened.labels) != len(opened) or opened.labels.max() >= len(opened.class_names):
            raise BrokenPromise("labels do not fit the images or the classes")

    return Target([{"a.tar": one} for one in valid], make, read)


def _index(folder: Path, raw: bytes) -> bytes:
    """The index of a tar."""
    (folder / "a.tar").write_bytes(raw)
    os.utime(folder / "a.tar", (0, 0))  # it is part of the index
    open_source(f"wds:{folder / 'a.tar'}")
    return (folder / "a.tar.coadvise.npz").read_bytes()


def _stamp(place: Path) -> None:
    """Make the index that of this tar, where it can still be read: else it would be made anew, unread."""
    path, stat = place / "a.tar.coadvise.npz", (place / "a.tar").stat()
    try:
        with np.load(path, allow_pickle=False) as stored:
            parts = {name: stored[name] for name in stored.files}
    except Exception:  # for the reader to tell
        return
    if "stamp" in parts and parts["stamp"].shape == (3,):
        parts["stamp"] = np.array([parts["stamp"][0], stat.st_size, stat.st_mtime_ns])
        np.savez(path, **parts)
