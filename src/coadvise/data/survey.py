"""A look at a data set before anything is trained on it: sizes, modes, damage, and images that are there twice.

Every image is read and decoded once, as training would do it. What is kept of each takes less than a kilobyte.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError
from ..shapes import Int64, UInt8, UInt64
from .decode import decode, open_encoded, orientation
from .duplicates import COLOURS, alike, groups, near_pairs, perceptual_hash, thumbnail
from .sources.base import ImageSource
from .sources.subsets import balanced_subset

TINY, HUGE = 32, 4096
"""Sides in pixels: of an image whose shorter side is below, and of one whose longer side is above."""
_WAITING = 64  # images that are read ahead of the threads that decode them


class Seen(NamedTuple):
    """What is kept of an image; width and height are those of the upright image.

    Attributes:
        kind: format and mode, such as `JPEG RGB`.
        turned: whether it notes an orientation other than upright.
        digest: of the file's bytes, or of the pixels where the source has no files.
        hash: its perceptual hash; None for an image of nearly a single shade.
    """

    width: int
    height: int
    kind: str
    turned: bool
    digest: bytes
    hash: int | None
    colours: UInt8[np.ndarray, 48]


@dataclass(frozen=True)
class Survey:
    """Images of one split that were looked at.

    Attributes:
        word: `training` or `validation`.
        looked: indices in the source of the images that could be read.
        unreadable: index → message.
        sizes: width and height, upright.
        kinds: format and mode → images.
        turned, blank: indices of images with an orientation flag, and of nearly a single shade.
    """

    word: str
    source: ImageSource
    looked: Int64[np.ndarray, " n"]
    unreadable: Mapping[int, str]
    sizes: Int64[np.ndarray, "n 2"]
    kinds: Mapping[str, int]
    turned: Int64[np.ndarray, " t"]
    blank: Int64[np.ndarray, " b"]
    digests: NDArray[np.void]
    hashes: UInt64[np.ndarray, " n"]
    colours: UInt8[np.ndarray, "n 48"]

    @cached_property
    def counts(self) -> Int64[np.ndarray, " k"]:
        """Images of each class, of the whole source."""
        return np.bincount(self.source.labels, minlength=len(self.source.class_names))

    @property
    def whole(self) -> bool:
        """Whether every image was looked at."""
        return len(self.looked) + len(self.unreadable) == len(self.source)

    def tiny(self) -> Int64[np.ndarray, " m"]:
        """Indices of images that are smaller than `TINY` on a side."""
        return self.looked[self.sizes.min(axis=1) < TINY]

    def huge(self) -> Int64[np.ndarray, " m"]:
        """Indices of images that are larger than `HUGE` on a side."""
        return self.looked[self.sizes.max(axis=1) > HUGE]


def survey(word: str, source: ImageSource, limit: int | None, advance: Callable[[int], None]) -> Survey:
    """Look at the images of a source.

    Args:
        limit: so many of them at most, classes in balance; None looks at all.
        advance: called with the number of images done, for a progress bar.
    """
    chosen = np.arange(len(source)) if limit is None else balanced_subset(source.labels, limit)
    seen: list[Seen] = []
    looked, unreadable = [], {}
    for index, found in _looked_at(source, chosen.tolist()):
        if isinstance(found, Seen):
            seen.append(found)
            looked.append(index)
        else:
            unreadable[index] = found
        advance(1)
    at = np.array(looked, dtype=np.int64)
    return Survey(
        word=word,
        source=source,
        looked=at,
        unreadable=unreadable,
        sizes=np.array([(one.width, one.height) for one in seen], dtype=np.int64).reshape(-1, 2),
        kinds=dict(Counter(one.kind for one in seen).most_common()),
        turned=at[np.array([one.turned for one in seen], dtype=bool)],
        blank=at[np.array([one.hash is None for one in seen], dtype=bool)],
        digests=np.array([one.digest for one in seen], dtype="V16"),
        hashes=np.array([one.hash or 0 for one in seen], dtype=np.uint64),
        colours=np.array([one.colours for one in seen], dtype=np.uint8).reshape(-1, COLOURS),
    )


def _looked_at(source: ImageSource, indices: list[int]) -> Iterator[tuple[int, Seen | str]]:
    """What was seen of each image, or why it cannot be read. Sources are read by this thread alone."""
    waiting: deque[tuple[int, Future[Seen | str]]] = deque()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for index in indices:
            what = source.describe(index)
            try:
                raw = source.read(index)
            except DataError as error:
                ready: Future[Seen | str] = Future()
                ready.set_result(str(error))
                waiting.append((index, ready))
            else:
                waiting.append((index, threads.submit(_look, raw, what)))
            if len(waiting) >= _WAITING:
                first, found = waiting.popleft()
                yield first, found.result()
        for first, found in waiting:
            yield first, found.result()


def _look(raw: bytes | Image.Image, what: str) -> Seen | str:
    try:
        image = decode(raw, what, needed=lambda width, height: min(width, height) / 64)
    except DataError as error:
        return str(error)
    opened = raw if isinstance(raw, Image.Image) else open_encoded(raw)
    turn = orientation(opened)
    width, height = image.size
    if opened.format == "JPEG":  # decoded at a part of its size
        width, height = opened.size[::-1] if turn >= 5 else opened.size
    content = raw.tobytes() if isinstance(raw, Image.Image) else raw
    digest = hashlib.blake2b(content, digest_size=16).digest()
    kind = f"{opened.format or 'pixels'} {opened.mode}"
    return Seen(width, height, kind, turn != 1, digest, perceptual_hash(image), thumbnail(image))


# --- images that are there twice -------------------------------------------------------------------------


class Place(NamedTuple):
    """An image: number of its survey, and its index in that survey's source."""

    split: int
    at: int


@dataclass(frozen=True)
class Duplicates:
    """Groups of images that are the same, or nearly.

    Attributes:
        exact: the same bytes.
        near: perceptual hashes and colours that differ little, members with the same bytes among them.
    """

    exact: list[list[Place]]
    near: list[list[Place]]


def find_duplicates(surveys: list[Survey]) -> Duplicates:
    """Images that are there twice, within a split or in two of them.

    Images smaller than `TINY` and of nearly a single shade count where their bytes are the same, only: little can be
    told of them otherwise.
    """
    split = np.concatenate([np.full(len(one.looked), number) for number, one in enumerate(surveys)])
    index = np.concatenate([one.looked for one in surveys])
    place = lambda group: [Place(int(split[i]), int(index[i])) for i in group]
    _, same = np.unique(np.concatenate([one.digests for one in surveys]), return_inverse=True)
    exact_pairs = _chained(same)
    exact = groups(exact_pairs, len(index))
    clear = np.concatenate(
        [(one.sizes.min(axis=1, initial=HUGE) >= TINY) & ~np.isin(one.looked, one.blank) for one in surveys]
    )
    told = np.flatnonzero(clear)
    colours = np.concatenate([one.colours for one in surveys])
    hashes, of_hash = np.unique(np.concatenate([one.hashes for one in surveys])[told], return_inverse=True)
    equal = told[_chained(of_hash)]
    first = told[np.unique(of_hash, return_index=True)[1]]  # an image for each hash
    pairs = np.concatenate([equal, first[near_pairs(hashes)]])
    pairs = pairs[alike(colours[pairs[:, 0]], colours[pairs[:, 1]])]
    near = [group for group in groups(np.concatenate([pairs, exact_pairs]), len(index)) if len(set(same[group])) > 1]
    return Duplicates([place(group) for group in exact], [place(group) for group in near])


def _chained(number: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "p 2"]:
    """Pairs of neighbours among the places that have the same number."""
    order = np.argsort(number, kind="stable")
    equal = number[order][1:] == number[order][:-1]
    return np.stack([order[:-1][equal], order[1:][equal]], axis=1)
