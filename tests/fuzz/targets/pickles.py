"""PyTorch files as others write them: zip files and the older format, with more than tensors in their pickles."""

from __future__ import annotations

import argparse
import io
import os
import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path
from random import Random
from typing import Any

import torch

from coadvise.checkpoints.loading import load_checkpoint
from coadvise.models.factory import build_model
from fuzz.engine import BrokenPromise, Input, Target
from fuzz.mutate import mutate_bytes

from .checkpoints import all_or_nothing

_MARK = "coadvise-fuzz-was-here"
_WORDS = [
    b"cos\nsystem\n", b"cposix\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\nexec\n", b"ctorch\ntensor\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"csubprocess\nPopen\n", b"R", b"b", b"s",
    b"u", b".", b"(", b"t", b"}", b"]", b")", b"Q", b"0", b"2", b"\x80\x05", b"\x81", b"\x8c\x02os", b"N", b"\x88",
    b"I9999999999999999999\n", b"\x8a\xff", b"\x95\xff\xff\xff\xff\xff\xff\xff\xff", b"h\x00", b"q\x00",
]  # fmt: skip


class _Hostile:
    """Runs a command wherever a pickle is believed."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (_MARK,)


def _saved(content: Any, legacy: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def pickle_file(folder: Path) -> Target:
    """A state dict, bare or beside other things, read for a model that it fits."""
    torch.manual_seed(0)
    model = build_model("resnet10", 3, image_size=8, small=True, pretrained=False, options={"channels": [4, 4, 4, 4]})
    weights = OrderedDict(model.state_dict())
    contents = [
        weights,
        {"state_dict": weights, "epoch": 3, "args": argparse.Namespace(lr=0.1, path=Path("x"))},
        {"model": weights, "extra": _Hostile()},
        {"model": {"module." + key: value for key, value in weights.items()}},
    ]
    raw = [_saved(content, legacy) for content in contents for legacy in (False, True)]

    def make(rng: Random) -> Input:
        one = rng.choice(raw)
        if one[:2] == b"PK" and rng.random() < 0.6:
            return {"model.pth": _in_zip(rng, one)}
        if one[:2] != b"PK" and rng.random() < 0.5:
            return {"model.pth": _operations(rng, one)}
        return {"model.pth": mutate_bytes(rng, one, raw, _WORDS)}

    def read(place: Path) -> None:
        refused = all_or_nothing(model, lambda: load_checkpoint(model, place / "model.pth"))
        if any(Path(where, _MARK).exists() for where in (".", place)):
            Path(_MARK).rmdir()
            raise BrokenPromise("a program in a pickle was run")
        if refused is not None:
            raise refused

    return Target([{"model.pth": one} for one in raw], make, read)


def _in_zip(rng: Random, raw: bytes) -> bytes:
    """The same archive with a member changed, packed, doubled, left out or renamed; its checksums are right."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(out, "w") as new:
        chosen = rng.choice([*old.namelist(), *(name for name in old.namelist() if name.endswith("data.pkl"))] * 2)
        way = rng.randrange(6)
        for name in old.namelist():
            content = old.read(name)
            if name == chosen and way < 3:
                change = _operations if name.endswith(".pkl") and rng.random() < 0.7 else mutate_bytes
                content = change(rng, content) if content else b"x"
            if name == chosen and way == 3:
                continue
            packed = zipfile.ZIP_DEFLATED if name == chosen and way == 4 else zipfile.ZIP_STORED
            if name == chosen and way == 5:
                name = rng.choice(
                    (name.upper(), "../" + name, "/" + name, name + "/x", "a/constants.pkl", "a/data.pkl")
                )
            new.writestr(name, content, packed)
    return out.getvalue()


def _operations(rng: Random, raw: bytes) -> bytes:
    """Operations of a pickle removed, doubled, exchanged, or with another argument."""
    starts = []
    try:
        for _, _, position in pickletools.genops(raw):
            starts.append(position)
    except ValueError:
        pass
    if len(starts) < 4:
        return mutate_bytes(rng, raw, (), _WORDS)
    parts = [raw[a:b] for a, b in zip(starts, [*starts[1:], len(raw)], strict=True)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(parts))
        way = rng.randrange(6)
        if way == 0:
            parts[at] = b""
        elif way == 1:
            parts[at] *= rng.choice((2, 3, 100))
        elif way == 2:
            parts[at] = rng.choice(parts)
        elif way == 3:
            parts.insert(at, rng.choice(_WORDS))
        elif way == 4 and len(parts[at]) > 1:  # the argument: an index, a length, a name
            parts[at] = parts[at][:1] + mutate_bytes(rng, parts[at][1:])
        else:
            # A place far beyond those in use: how far, a reader has to bound.
            parts.insert(at, rng.choice((b"r", b"j")) + rng.choice((2**10, 2**20, 2**25, 2**28)).to_bytes(4, "little"))
    return b"".join(parts)
