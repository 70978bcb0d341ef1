"""Order, pairs and mixing: who comes when, with whom, and in which proportion. All of it follows from keys.

Departures from timm's `Mixup`, which draws one λ and one box for a batch and mixes it with its own reverse:

- Every sample draws its own kind, λ and box (timm's `mode="elem"`), from a generator of its own key
  (data_seed, view, index, repeat). The result does not depend on batch size, workers or processes.
- Its partner is fixed by a random pairing of the whole data set, new in each view, and not by its place in
  the batch. The two of a pair come one after the other, so that a partner is hardly ever decoded again.
- An unpaired last sample of an odd data set stays unmixed; timm refuses odd batches.
- cutmix's λ is always the true share of the pixels that stay (timm's `correct_lam`).

Repeated augmentation differs from timm's `RepeatAugSampler` in that the copies of an image lie next to each
other whatever the number of processes.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from ..recipe import Augmentation


class Stream(IntEnum):
    """First word of every key, so that what is drawn for one purpose says nothing about another."""

    ORDER = 1
    AUGMENT = 2
    MIX = 3
    SUBSET = 4
    HOLD_OUT = 5


class MixParameters(NamedTuple):
    """How a sample is mixed with its partner."""

    kind: Literal["none", "mixup", "cutmix"]
    lam: float
    """λ, the share of the sample itself, in [0, 1]."""
    box: tuple[int, int, int, int]
    """cutmix: top, bottom, left, right of the partner's rectangle, in pixels; else all 0."""


UNMIXED = MixParameters("none", 1.0, (0, 0, 0, 0))


@lru_cache(maxsize=4)
def _permutation(n: int, data_seed: int, view: int) -> NDArray[np.int64]:
    """The keyed permutation behind order and pairs; cached, as every sample of an epoch asks for it."""
    generator = np.random.default_rng(np.random.SeedSequence((Stream.ORDER, data_seed, view, n)))
    order = generator.permutation(n)
    order.setflags(write=False)
    return order


def epoch_order(n: int, repeats: int, data_seed: int, view: int) -> Int64[np.ndarray, "n 2"]:
    """The samples of an epoch as rows (index, repeat).

    The pairs (a, b) of a keyed permutation follow each other, each `repeats` times: a₀ b₀ a₁ b₁ … The first n
    are an epoch, so that one with repeats shows about n / repeats distinct images.
    """
    order = _permutation(n, data_seed, view)
    distinct = order[: min(n, 2 * -(-n // (2 * repeats)))]  # whole pairs, as many as n samples need
    even = len(distinct) // 2 * 2
    pairs = np.repeat(distinct[:even].reshape(-1, 1, 2), repeats, axis=1).reshape(-1)
    index = np.concatenate([pairs, np.repeat(distinct[even:], repeats)])
    copy = np.repeat(np.tile(np.arange(repeats), even // 2), 2)
    repeat = np.concatenate([copy, np.tile(np.arange(repeats), len(distinct) - even)])
    return np.stack([index, repeat], axis=1)[:n].astype(np.int64)


@lru_cache(maxsize=4)
def _partners(n: int, data_seed: int, view: int) -> NDArray[np.int64]:
    order = _permutation(n, data_seed, view)
    even = n // 2 * 2
    partners = np.full(n, -1, dtype=np.int64)
    partners[order[0:even:2]] = order[1:even:2]
    partners[order[1:even:2]] = order[0:even:2]
    partners.setflags(write=False)
    return partners


def partner(n: int, data_seed: int, view: int) -> Int64[np.ndarray, " n"]:
    """Each sample's mix partner in a view, −1 for the one that an odd n leaves over (read-only).

    The partner's image is its own view with the same repeat number; nothing else is needed to mix.
    """
    return _partners(n, data_seed, view)


def mix_parameters(
    augment: Augmentation, size: int, data_seed: int, view: int, index: int, repeat: int
) -> MixParameters:
    """Draw how the sample of this key is mixed.

    Args:
        augment: strengths and probabilities of mixup and cutmix.
        size: side of the square image, in pixels.
    """
    if (augment.mixup == 0 and augment.cutmix == 0) or augment.mix_probability == 0:
        return UNMIXED
    key = np.random.SeedSequence((Stream.MIX, data_seed, view, index, repeat))
    generator = np.random.default_rng(key)
    mixed, switch, vertical, horizontal = generator.random(4)
    if mixed >= augment.mix_probability:
        return UNMIXED
    use_cutmix = augment.cutmix > 0 and (augment.mixup == 0 or switch < augment.mix_switch)
    alpha = augment.cutmix if use_cutmix else augment.mixup
    lam = float(generator.beta(alpha, alpha))
    if not use_cutmix:
        return MixParameters("mixup", lam, (0, 0, 0, 0))
    side = int(size * np.sqrt(1 - lam))
    top, bottom = _cut(int(vertical * size), side, size)
    left, right = _cut(int(horizontal * size), side, size)
    area = (bottom - top) * (right - left)
    return MixParameters("cutmix", 1 - area / size**2, (top, bottom, left, right)) if area else UNMIXED


def _cut(centre: int, side: int, size: int) -> tuple[int, int]:
    """Both ends of a side of the box, clipped to the image."""
    return max(centre - side // 2, 0), min(centre + (side + 1) // 2, size)


def mix(
    image: Float[Tensor, "3 h w"], partner_image: Float[Tensor, "3 h w"], params: MixParameters
) -> Float[Tensor, "3 h w"]:
    """Mix a sample with its partner; neither is changed."""
    if params.kind == "mixup":
        return image * params.lam + partner_image * (1 - params.lam)
    if params.kind == "cutmix":
        top, bottom, left, right = params.box
        image = image.clone()
        image[:, top:bottom, left:right] = partner_image[:, top:bottom, left:right]
    return image


def soft_target(label: int, partner_label: int, lam: float, classes: int, smoothing: float) -> Float[Tensor, " k"]:
    """λ·smooth(label) + (1 − λ)·smooth(partner_label) over `classes` classes.

    smooth puts s/k on every class and another 1 − s on the label, as timm does.
    """
    target = torch.full((classes,), smoothing / classes)
    target[label] += lam * (1 - smoothing)
    target[partner_label] += (1 - lam) * (1 - smoothing)
    return target
