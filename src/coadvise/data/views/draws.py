"""Random choices from keys, for many samples at once.

Philox-4×32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") turns a counter into random
bits without any state. The counter is the key of the sample and of the purpose, so that a choice does not depend
on which other samples are drawn with it, in which process or in which order.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from ...recipe.schema import Augmentation
from ...shapes import Bool, Float64, Int32, Int64

_MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], dtype=np.uint64)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)

# What random erasing draws from, as DeiT and timm do: share of the image, aspect ratio, and attempts to fit it in.
ERASE_AREA = (0.02, 1 / 3)
ERASE_RATIO = (0.3, 1 / 0.3)
ERASE_ATTEMPTS = 10


class Stream(IntEnum):
    """First word of every key, so that what is drawn for one purpose says nothing about another."""

    ORDER = 1
    AUGMENT = 2
    MIX = 3
    SUBSET = 4
    HOLD_OUT = 5
    CROP = 6
    ERASE = 7
    NOISE = 8
    BALANCE = 9
    GATE = 10
    SHUFFLE = 11


def philox(counter: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Philox-4×32 with 10 rounds: counters (…, 4) of 32 bits each → as many random words."""
    c0, c1, c2, c3 = (counter[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = key
    for _ in range(10):
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = (second >> np.uint64(32)) ^ c1 ^ np.uint64(k0), (first >> np.uint64(32)) ^ c3 ^ np.uint64(k1)
        c1, c3 = second & _LOW, first & _LOW
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def uniforms(
    stream: Stream, seed: int, view: int, index: Int64[np.ndarray, " n"], repeat: Int64[np.ndarray, " n"], count: int
) -> Float64[np.ndarray, "n count"]:
    """`count` numbers in (0, 1) for each sample (view, index, repeat) of a data seed, index and view below 2³²."""
    blocks = -(-count // 4)
    counter = np.empty((len(index), blocks, 4), dtype=np.uint32)
    counter[..., 0] = index[:, None]
    counter[..., 1] = repeat[:, None]
    counter[..., 2] = view
    counter[..., 3] = np.arange(blocks)
    words = philox(counter, (seed, int(stream))).reshape(len(index), -1)[:, :count]
    return (words + 0.5) / 2.0**32


def crops(
    seed: int, view: int, index: Int64[np.ndarray, " n"], repeat: Int64[np.ndarray, " n"], pad: int, hflip: float
) -> tuple[Int32[np.ndarray, "n 2"], Bool[np.ndarray, " n"]]:
    """Offset (down, right) in pixels from −pad to pad for each sample, and whether it is flipped."""
    u = uniforms(Stream.CROP, seed, view, index, repeat, 3)
    return (np.floor(u[:, :2] * (2 * pad + 1)) - pad).astype(np.int32), u[:, 2] < hflip


def erasures(
    seed: int, view: int, index: Int64[np.ndarray, " n"], repeat: Int64[np.ndarray, " n"], size: int, probability: float
) -> Int32[np.ndarray, "n 4"]:
    """Rectangle (top, bottom, left, right) that is erased from each image of `size` pixels; all 0 for none."""
    boxes = np.zeros((len(index), 4), dtype=np.int32)
    if probability == 0 or len(index) == 0:
        return boxes
    u = uniforms(Stream.ERASE, seed, view, index, repeat, 1 + 4 * ERASE_ATTEMPTS)
    tries = u[:, 1:].reshape(len(index), ERASE_ATTEMPTS, 4)
    area = size**2 * (ERASE_AREA[0] + (ERASE_AREA[1] - ERASE_AREA[0]) * tries[..., 0])
    low, high = np.log(ERASE_RATIO)
    ratio = np.exp(low + (high - low) * tries[..., 1])
    height, width = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (height < size) & (width < size)
    chosen = np.arange(len(index)), fits.argmax(axis=1)
    height, width = height[chosen], width[chosen]
    top = np.floor(tries[..., 2][chosen] * (size - height + 1))
    left = np.floor(tries[..., 3][chosen] * (size - width + 1))
    erased = (u[:, 0] < probability) & fits[chosen] & (height * width > 0)
    boxes[erased] = np.stack([top, top + height, left, left + width], axis=1)[erased]
    return boxes


class Mixes(NamedTuple):
    """How each sample is mixed with its partner."""

    lam: Float64[np.ndarray, " n"]
    """λ, the share of the sample itself, in [0, 1]; 1 where it stays unmixed."""
    box: Int32[np.ndarray, "n 4"]
    """cutmix: top, bottom, left, right of the partner's rectangle, in pixels; all 0 for mixup and unmixed samples."""

    @property
    def mixed(self) -> Bool[np.ndarray, " n"]:
        """Whether the partner has any part in it."""
        return (self.lam < 1) | self.box.any(axis=1)


def unmixed(count: int) -> Mixes:
    """Samples without a partner."""
    return Mixes(np.ones(count), np.zeros((count, 4), dtype=np.int32))


def mixes(
    augment: Augmentation,
    size: int,
    seed: int,
    view: int,
    index: Int64[np.ndarray, " n"],
    repeat: Int64[np.ndarray, " n"],
) -> Mixes:
    """Draw how each sample is mixed.

    Args:
        augment: strengths and probabilities of mixup and cutmix.
        size: side of the square image, in pixels.
    """
    lam, box = unmixed(len(index))
    if (augment.mixup == 0 and augment.cutmix == 0) or augment.mix_probability == 0 or len(index) == 0:
        return Mixes(lam, box)
    chance, switch, vertical, horizontal, share = uniforms(Stream.MIX, seed, view, index, repeat, 5).T
    mixed = chance < augment.mix_probability
    cut = np.full(len(index), augment.mixup == 0)
    if augment.mixup > 0 and augment.cutmix > 0:
        cut = switch < augment.mix_switch
    for rows, alpha in ((mixed & ~cut, augment.mixup), (mixed & cut, augment.cutmix)):
        if rows.any():
            lam[rows] = share[rows] if alpha == 1 else betaincinv(alpha, alpha, share[rows])
    rows = mixed & cut
    side = np.floor(size * np.sqrt(1 - lam[rows])).astype(np.int64)
    ends = []
    for centre in (np.floor(vertical[rows] * size), np.floor(horizontal[rows] * size)):
        ends += [np.maximum(centre - side // 2, 0), np.minimum(centre + (side + 1) // 2, size)]
    top, bottom, left, right = ends
    area = (bottom - top) * (right - left)
    lam[rows] = 1 - area / size**2  # the true share of the pixels that stay
    box[rows] = np.where((area > 0)[:, None], np.stack(ends, axis=1), 0)
    return Mixes(lam, box)
