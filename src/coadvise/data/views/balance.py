"""Classes of unequal size: weights for the loss, and how often an image is drawn.

Weights are the inverse of a class's frequency, n / (k · n_c) for n_c of n images and k classes that have any, so that
their mean over the images is 1 (scikit-learn's `class_weight="balanced"`).

Balanced sampling draws as many samples an epoch as there are images, the same number of each class, or one more. A
class's images come in turn, in a new order each time, so that over the epochs each of them is drawn as often as the
next, and none of a large class is left out by chance. PyTorch's `WeightedRandomSampler` draws with replacement in place
of that: numbers by class are then right in the mean only, and each epoch leaves images out and doubles others.
"""

from __future__ import annotations

import numpy as np

from ...shapes import Float64, Int64
from .draws import Stream, uniforms


def class_weights(labels: Int64[np.ndarray, " n"], classes: int) -> Float64[np.ndarray, " k"]:
    """Weight of each class; 0 for one without images. Images without a label (−1) do not count."""
    labels = labels[labels >= 0]
    counts = np.bincount(labels, minlength=classes)
    present = np.count_nonzero(counts)
    return np.divide(len(labels), present * counts, out=np.zeros(classes), where=counts > 0)


def balanced_draws(labels: Int64[np.ndarray, " n"], data_seed: int, view: int) -> Int64[np.ndarray, "n 2"]:
    """The samples of a view as rows (index, copy), shuffled; `copy` counts the draws of an image in this view from 0.

    They follow from the labels, the seed and the view alone.
    """
    n, present = len(labels), np.unique(labels)
    k = len(present)
    # floor((x + 0) / k) + … + floor((x + k − 1) / k) = x: up to any view, the classes are drawn view · n times in all.
    place = np.random.default_rng(np.random.SeedSequence((Stream.BALANCE, data_seed))).permutation(k)
    start, stop = (view * n + place) // k, ((view + 1) * n + place) // k
    by_class = np.argsort(labels, kind="stable")
    members = np.split(by_class, np.searchsorted(labels[by_class], present[1:]))
    parts = zip(members, start.tolist(), stop.tolist(), strict=True)
    drawn = np.concatenate([_in_turn(one, first, end, data_seed) for one, first, end in parts])
    generator = np.random.default_rng(np.random.SeedSequence((Stream.BALANCE, data_seed, view, n)))
    drawn = drawn[generator.permutation(n)]
    return np.stack([drawn, _copies(drawn)], axis=1)


def _in_turn(members: Int64[np.ndarray, " m"], start: int, stop: int, data_seed: int) -> Int64[np.ndarray, " d"]:
    """Draws `start` to `stop` of a class: all its images in a random order, then all in another, and so on."""
    if start == stop:
        return members[:0]
    first, last = start // len(members), (stop - 1) // len(members)
    rounds = np.repeat(np.arange(first, last + 1), len(members))
    every = np.tile(members, last + 1 - first)
    chance = uniforms(Stream.BALANCE, data_seed, 0, every, rounds, 1)[:, 0]
    return every[np.lexsort((chance, rounds))][start - first * len(members) : stop - first * len(members)]


def _copies(drawn: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """How often each one's image was drawn before it."""
    order = np.argsort(drawn, kind="stable")
    alike = drawn[order]
    copies = np.empty_like(drawn)
    copies[order] = np.arange(len(drawn)) - np.searchsorted(alike, alike)
    return copies
