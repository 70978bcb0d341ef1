"""Which members of a tar belong together as a sample.

As in webdataset, these are members that follow each other and share the name up to the first dot. Where that loses
samples, this goes further: members of one name belong together wherever they stand; a label that shares the name up to
the last dot makes a sample (`img.1.jpg`, `img.1.cls`); hard and symbolic links are followed. What systems leave behind
(`._x`, `.DS_Store`) and what has no extension separates nothing. What is left out is counted.
"""

from __future__ import annotations

import posixpath
import tarfile
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from .listing import EXTENSIONS, is_image, is_litter

_USUAL = ("jpg", "jpeg", "png", "webp")
IMAGES = (*_USUAL, *sorted({extension[1:] for extension in EXTENSIONS}.difference(_USUAL)))
LABELS = ("cls", "json")
_LINKS = 40  # that are followed from one to the next, as in Linux


class Member(NamedTuple):
    """A file in a tar: its name and where its bytes lie."""

    name: str
    offset: int
    size: int


class Sample(NamedTuple):
    """An image, and the members that may hold its label, the first one first."""

    image: Member
    labels: tuple[Member, ...]


class Found(NamedTuple):
    """What lies in a tar.

    Attributes:
        samples: in the order in which they begin; an image without a label is one, too.
        imageless: labels without an image, and the extensions of what stands in its place.
        left_out: number of members that look like images and are in no sample, by the reason.
    """

    samples: list[Sample]
    imageless: list[tuple[tuple[Member, ...], str]]
    left_out: Counter[str]


_Parts = dict[str, Member]
"""Members of one name by their extensions: what follows the first dot, in small letters."""


def find_samples(infos: Sequence[tarfile.TarInfo], *, labelled: bool = True) -> Found:
    """Put the members of a tar together.

    Args:
        labelled: whether each image needs a label; else those that share one are samples, too.

    Raises:
        tarfile.ReadError: a file is stored in pieces, without its zeros.
    """
    left_out: Counter[str] = Counter()
    samples: list[tuple[int, Sample]] = []
    pool: dict[str, tuple[int, _Parts]] = {}
    complete = set()
    for place, (name, parts) in enumerate(_runs(infos, left_out)):
        found, rest = _split(parts)
        samples += [(place, sample) for sample in found]
        complete.update([name] if found else [])
        _, waiting = pool.setdefault(name, (place, {}))
        for extension, member in rest.items():
            left_out["doubled"] += extension in waiting and _kind(extension) in IMAGES
            waiting.setdefault(extension, member)
    imageless = []
    for name, (place, parts) in pool.items():
        found, rest = _split(parts)
        samples += [(place, sample) for sample in found]
        images = [member for extension, member in rest.items() if _kind(extension) in IMAGES]
        labels = _labels(rest)
        if found or name in complete:
            left_out["beside"] += len(images)
        elif images and labels and labelled:
            left_out["several"] += len(images)
        elif images:
            samples += [(place, Sample(image, ())) for image in images]
        elif labels:
            others = sorted("." + extension for extension in rest if extension not in LABELS)
            imageless.append((labels, ", ".join(others)))
    samples.sort(key=lambda one: one[0])
    return Found([sample for _, sample in samples], imageless, +left_out)


def _runs(infos: Sequence[tarfile.TarInfo], left_out: Counter[str]) -> list[tuple[str, _Parts]]:
    """Members that follow each other under one name, by extension."""
    files = {posixpath.normpath(info.name): info for info in infos if not info.isdir()}
    runs: list[tuple[str, _Parts]] = []
    for info in infos:
        folder, _, file = info.name.rpartition("/")
        if any(is_litter(part) for part in info.name.split("/") if part not in (".", "..", "")):
            left_out["hidden"] += is_image(file) and not file.startswith("._")
            continue
        data = _followed(info, files)
        if data is None:
            left_out["links"] += info.islnk() or info.issym()
            continue
        if data.issparse():
            raise tarfile.ReadError(f"{info.name} is stored as a sparse file; make the tar without --sparse")
        base, dot, extension = file.partition(".")
        if not dot:
            continue
        name, extension = f"{folder}/{base}", extension.lower()
        if not runs or runs[-1][0] != name or extension in runs[-1][1]:
            runs.append((name, {}))
        runs[-1][1][extension] = Member(info.name, data.offset_data, data.size)
    return runs


def _followed(info: tarfile.TarInfo, files: dict[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """The file that a member is or leads to; None for folders, devices, and links to nothing in the tar."""
    for _ in range(_LINKS):
        if not (info.islnk() or info.issym()):
            break
        # A hard link has a name in the tar, a symbolic one a path from its own folder.
        target = info.linkname if info.islnk() else posixpath.join(posixpath.dirname(info.name), info.linkname)
        found = files.get(posixpath.normpath(target))
        if found is None:
            return None
        info = found
    return info if info.isreg() else None


def _split(parts: _Parts) -> tuple[list[Sample], _Parts]:
    """Samples among members of one name, and what is in none of them."""
    stems: dict[str, _Parts] = {}
    for extension, member in parts.items():
        stem, _, kind = extension.rpartition(".")
        stems.setdefault(stem, {})[kind] = member
    plain = stems.get("", {})
    has_plain = any(kind in IMAGES for kind in plain)
    samples = []
    for stem, group in stems.items():
        image = next((group[kind] for kind in IMAGES if kind in group), None)
        labels = _labels(group)
        # Beside `x.jpg`, `x.mask.json` may say anything about `x.mask.png`: only `x.mask.cls` makes it a sample.
        if image is not None and labels and ("cls" in group or not stem or not has_plain):
            samples.append(Sample(image, labels))
    images = [member for extension, member in parts.items() if _kind(extension) in IMAGES]
    if not samples and len(images) == 1 and _labels(plain):
        samples.append(Sample(images[0], _labels(plain)))
    used = {member for sample in samples for member in (sample.image, *sample.labels)}
    return samples, {extension: member for extension, member in parts.items() if member not in used}


def _labels(parts: _Parts) -> tuple[Member, ...]:
    return tuple(parts[kind] for kind in LABELS if kind in parts)


def _kind(extension: str) -> str:
    return extension.rpartition(".")[2]
