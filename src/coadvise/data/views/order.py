"""Order of the samples of an epoch, and pairs for mixing; both follow from keys.

Departures from timm's `Mixup`, which draws one λ and one box for a batch and mixes it with its own reverse:

- Every sample draws its own kind, λ and box (timm's `mode="elem"`), from a generator of its own key
  (data_seed, view, index, repeat). The result does not depend on batch size, workers or processes.
- A random pairing of the whole data set, new in each view, gives its partner, whatever the batch. The two of a pair
  come one after the other, so that a partner is hardly ever decoded again.
- An unpaired last sample of an odd data set stays unmixed; timm refuses odd batches.
- cutmix's λ is always the true share of the pixels that stay (timm's `correct_lam`).

Repeated augmentation differs from timm's `RepeatAugSampler` in that the copies of an image lie next to each
other whatever the number of processes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ...recipe.schema import Data
from ...shapes import Int64
from .balance import balanced_draws
from .draws import Stream

# More than an image has copies in a view.
COPIES = 1 << 20


@lru_cache(maxsize=4)
def _permutation(n: int, data_seed: int, view: int) -> NDArray[np.int64]:
    """Permutation behind order and pairs (read-only); cached, as every batch of an epoch asks for it."""
    generator = np.random.default_rng(np.random.SeedSequence((Stream.ORDER, data_seed, view, n)))
    order = generator.permutation(n)
    order.setflags(write=False)
    return order


@lru_cache(maxsize=2)
def epoch_order(n: int, repeats: int, data_seed: int, view: int) -> Int64[np.ndarray, "n 2"]:
    """The samples of an epoch as rows (index, repeat).

    The pairs (a, b) of a keyed permutation follow each other, each `repeats` times: a₀ b₀ a₁ b₁ … The first n
    are an epoch, so that one with repeats shows about n / repeats distinct images. Read-only.
    """
    order = _permutation(n, data_seed, view)
    distinct = order[: min(n, 2 * -(-n // (2 * repeats)))]  # whole pairs, as many as n samples need
    even = len(distinct) // 2 * 2
    pairs = np.repeat(distinct[:even].reshape(-1, 1, 2), repeats, axis=1).reshape(-1)
    index = np.concatenate([pairs, np.repeat(distinct[even:], repeats)])
    copy = np.repeat(np.tile(np.arange(repeats), even // 2), 2)
    repeat = np.concatenate([copy, np.tile(np.arange(repeats), len(distinct) - even)])
    rows = np.stack([index, repeat], axis=1)[:n].astype(np.int64)
    rows.setflags(write=False)
    return rows


@lru_cache(maxsize=4)
def partner(n: int, data_seed: int, view: int) -> Int64[np.ndarray, " n"]:
    """Mix partner of each sample in a view, −1 for the one that an odd n leaves over (read-only).

    The partner's image is its own view with the same repeat number; nothing else is needed to mix.
    """
    order = _permutation(n, data_seed, view)
    even = n // 2 * 2
    partners = np.full(n, -1, dtype=np.int64)
    partners[order[0:even:2]] = order[1:even:2]
    partners[order[1:even:2]] = order[0:even:2]
    partners.setflags(write=False)
    return partners


def spread_evenly(few: Int64[np.ndarray, "a 2"], many: Int64[np.ndarray, "b 2"]) -> Int64[np.ndarray, "n 2"]:
    """Two lists in one, each in its own order and spread evenly, as Bresenham's line rises.

    Of m rows that follow one another, m · a / (a + b) are of the first list, rounded up or down.
    """
    n = len(few) + len(many)
    first = np.diff(np.arange(n + 1) * len(few) // n) > 0
    rows = np.empty((n, 2), dtype=np.int64)
    rows[first], rows[~first] = few, many
    return rows


def labelled_and_not(
    labels: Int64[np.ndarray, " n"], balanced: bool, data_seed: int, view: int
) -> Int64[np.ndarray, "n 2"]:
    """The samples of a view as rows (index, copy), where some images have no label (−1).

    Those with a label come in a random order or, `balanced`, as many of each class; among them, spread evenly, the
    others come in a random order. So all batches have as many labelled images, or one more.
    """
    known, unknown = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    generator = np.random.default_rng(np.random.SeedSequence((Stream.ORDER, data_seed, view, len(labels), 1)))
    others = generator.permutation(unknown)
    if balanced:
        drawn = balanced_draws(labels[known], data_seed, view)
        drawn = np.stack([known[drawn[:, 0]], drawn[:, 1]], axis=1)
    else:
        drawn = _once(generator.permutation(known))
    return spread_evenly(drawn, _once(others))


def _once(index: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "n 2"]:
    return np.stack([index, np.zeros_like(index)], axis=1)


class Order:
    """The samples of every view of a data set, and which two are mixed: as above, or with the classes in balance, or
    with images without labels among the others.

    In these, the pairs that are mixed follow each other, too; a partner may be another copy of the same image.

    Args:
        labels: of all images; −1 for one without.
    """

    def __init__(self, data: Data, labels: Int64[np.ndarray, " n"]) -> None:
        self._labels, self._seed, self._repeats = labels, data.seed, data.augment.repeats
        self._balanced, self._unlabelled = data.balance == "sampling", bool((labels < 0).any())
        self._kept: tuple[int, Int64[np.ndarray, "n 2"], Int64[np.ndarray, " n"]] | None = None

    def rows(self, view: int) -> Int64[np.ndarray, "n 2"]:
        """The samples of a view as rows (index, repeat)."""
        if not (self._balanced or self._unlabelled):
            return epoch_order(len(self._labels), self._repeats, self._seed, view)
        return self._view(view)[0]

    def partners(
        self, view: int, index: Int64[np.ndarray, " b"], repeat: Int64[np.ndarray, " b"]
    ) -> tuple[Int64[np.ndarray, " b"], Int64[np.ndarray, " b"]]:
        """Index and repeat of each sample's partner in a view; index −1 where it has none."""
        if not (self._balanced or self._unlabelled):
            return partner(len(self._labels), self._seed, view)[index], repeat
        rows, order = self._view(view)
        names, wanted = rows[order] @ (COPIES, 1), index * COPIES + repeat
        at = np.minimum(np.searchsorted(names, wanted), len(names) - 1)
        mate = order[at] ^ 1  # 0 and 1, 2 and 3, …
        there = (names[at] == wanted) & (mate < len(rows))
        other = rows[np.where(there, mate, 0)]
        return np.where(there, other[:, 0], -1), np.where(there, other[:, 1], repeat)

    def _view(self, view: int) -> tuple[Int64[np.ndarray, "n 2"], Int64[np.ndarray, " n"]]:
        """The samples of such a view, and their places sorted by (index, copy); the last view is kept."""
        if self._kept is None or self._kept[0] != view:
            if self._unlabelled:
                rows = labelled_and_not(self._labels, self._balanced, self._seed, view)
            else:
                rows = balanced_draws(self._labels, self._seed, view)
            self._kept = view, rows, np.lexsort((rows[:, 1], rows[:, 0]))
        return self._kept[1:]
