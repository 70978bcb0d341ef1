"""Images that are the same, or nearly: perceptual hashes, and pairs of them that differ in few bits.

A hash has 64 bits: whether each of the 8×8 lowest frequencies of the grey image (its discrete cosine transform at
32×32 pixels) is above their median. Copies that were scaled, recompressed or slightly retouched differ in a few bits,
photographs of different things in about 32. Colour and contrast do not show in it: `alike` compares small thumbnails.
"""

from __future__ import annotations

import itertools

import numpy as np
from PIL import Image

from ..shapes import Bool, Int64, UInt8, UInt64

FEW_BITS = 4
"""Bits in which two hashes may differ that are counted as near."""
_TILES = 4  # side of a thumbnail, in pixels
COLOURS = 3 * _TILES**2
"""Numbers of a thumbnail."""
_PARTS = 8  # bytes of a hash
_SIDE, _LOW = 32, 8
_BEHIND = 64  # places behind each hash that are looked at, where so many share the same bytes
_WAITING = 1 << 20  # pairs that are kept before those that were found twice are dropped
_COLOUR_LEVELS = 14  # mean difference of thumbnails up to which they count as alike, of 255
_CONTRAST = 2.0  # levels; an image that varies less has no frequencies to speak of


def perceptual_hash(image: Image.Image) -> int | None:
    """64 bits of an image; None for one that is nearly of a single shade."""
    from scipy.fft import dctn  # slow to import

    grey = np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), dtype=np.float64)
    if grey.std() < _CONTRAST:
        return None
    low = dctn(grey, type=2)[:_LOW, :_LOW]
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def thumbnail(image: Image.Image) -> UInt8[np.ndarray, 48]:
    """Colours of an RGB image, at 4×4 pixels."""
    return np.asarray(image.resize((_TILES, _TILES), Image.Resampling.BOX)).reshape(-1)


def near_pairs(hashes: UInt64[np.ndarray, " n"], bits: int = FEW_BITS) -> Int64[np.ndarray, "p 2"]:
    """Pairs (i < j) of different hashes that differ in at most `bits` bits; every hash must be given once.

    Of two such hashes, at least 8 − `bits` bytes are the same: so hashes are sorted by every choice of so many bytes,
    and only those that share all of them are compared. A million hashes take seconds instead of the hours of all pairs.
    Where more than 64 of them share the chosen bytes, each is compared with the 64 that follow it in order.

    Args:
        bits: at most 7.
    """
    assert 0 < bits < _PARTS
    octets = hashes.astype(">u8").view(np.uint8).reshape(-1, _PARTS)
    count, found, waiting = len(hashes), np.empty(0, dtype=np.int64), list[Int64[np.ndarray, " p"]]()
    for chosen in itertools.combinations(range(_PARTS), _PARTS - bits):
        key = np.zeros(len(hashes), dtype=np.uint64)
        for place in chosen:
            key = key << np.uint64(8) | octets[:, place]
        order = np.lexsort((hashes, key))
        key, ordered = key[order], hashes[order]
        for step in range(1, min(_BEHIND, len(order) - 1) + 1):
            first = np.flatnonzero(key[:-step] == key[step:])
            if not len(first):
                break
            near = first[_differing(ordered[first], ordered[first + step]) <= bits]
            i, j = order[near], order[near + step]
            waiting.append(np.minimum(i, j) * count + np.maximum(i, j))
        if sum(map(len, waiting)) > max(_WAITING, len(found)):  # most choices of bytes find the same pairs again
            found, waiting = np.unique(np.concatenate([found, *waiting])), []
    found = np.unique(np.concatenate([found, *waiting]))
    return np.stack([found // max(count, 1), found % max(count, 1)], axis=1)


def _differing(a: UInt64[np.ndarray, " p"], b: UInt64[np.ndarray, " p"]) -> Int64[np.ndarray, " p"]:
    """Number of bits in which hashes differ."""
    return np.unpackbits((a ^ b).view(np.uint8).reshape(-1, _PARTS), axis=1).sum(axis=1, dtype=np.int64)


def alike(a: UInt8[np.ndarray, "p c"], b: UInt8[np.ndarray, "p c"]) -> Bool[np.ndarray, " p"]:
    """Whether thumbnails have about the same colours."""
    return np.abs(a.astype(np.int16) - b.astype(np.int16)).mean(axis=1) <= _COLOUR_LEVELS


def groups(pairs: Int64[np.ndarray, "p 2"], count: int) -> list[Int64[np.ndarray, " m"]]:
    """Members of each group that the pairs join, two at least, in order; of indices below `count`."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(pairs):
        return []
    members, compact = np.unique(pairs, return_inverse=True)
    compact = compact.reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs), dtype=bool), (compact[:, 0], compact[:, 1])), shape=(len(members),) * 2)
    label = connected_components(graph, directed=False)[1]
    order = np.argsort(label, kind="stable")
    bounds = np.flatnonzero(np.diff(label[order])) + 1
    found = [members[part] for part in np.split(order, bounds)]
    return sorted(found, key=lambda group: int(group[0]))
