"""Advice that is changed before the student sees it: controls that keep a part of what a teacher says, and the mean.

What a student gains from its teachers may come from what they say of this image, of its class, or of nothing but how
sure one should be. `advice.change` takes the one or the other away; the teachers, their stored advice and the loss stay
what they are. A change is of one micro-batch, on its device and outside of what is compiled. It follows from the batch
and its keys alone, so that a run resumes exactly; each process changes the images that it sees at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.sources.base import ImageSource
from ..data.views.draws import Stream, uniforms
from ..data.views.finish import Batch
from ..errors import ModelError
from ..names import MEAN
from ..recipe.advice import Change
from ..recipe.schema import Recipe
from ..shapes import Float, Int
from ..system.progress import Display

Advise = Callable[[Batch], Mapping[str, Tensor]]
"""The teachers' logits (b, k) by name for a training batch, live or stored."""

# A search in so many parts, so many times: to 2 / 16⁵ = 2e-6 of the line from 0 to 2.
_PARTS, _ROUNDS = 16, 5
# Share of the images that keep their own advice from which on it is said.
_ALONE = 0.01


def changed(
    advise: Advise,
    recipe: Recipe,
    known: Mapping[str, Sequence[int]],
    source: ImageSource,
    images: int,
    display: Display,
) -> Advise:
    """The advice after `advice.change`.

    Args:
        known: by name, the classes that a teacher knows, of those that do not know them all.
        source: training images.
        images: of them, so many are seen at once by a process.

    Raises:
        ModelError: a teacher that does not know all classes, where advice on them is computed.
    """
    change = recipe.advice.change
    if known and change in ("smoothed", "mean"):
        raise ModelError(
            f"advice.change={change}: teacher '{next(iter(known))}' does not know all classes of the data; leave it "
            "out, or take teachers that know them all"
        )
    if change == "shuffled-in-class" and (share := alone_in_class(source.labels, images)) >= _ALONE:
        display.say(
            f"advice.change={change}: about {share:.0%} of the images keep their own advice, being the only ones of "
            f"their class among the {images} that are seen at once; a larger optim.batch_size lowers that"
        )
    changes: dict[Change, Advise] = {
        "none": advise,
        "shuffled": lambda batch: shuffled(advise(batch), batch, recipe.data.seed),
        "shuffled-in-class": lambda batch: shuffled(advise(batch), batch, recipe.data.seed, batch.target.argmax(dim=1)),
        "smoothed": lambda batch: smoothed(advise(batch), batch.target, recipe.data.augment.label_smoothing),
        "mean": lambda batch: mean_of(advise(batch)),
    }
    return changes[change]


def shuffled(
    advice: Mapping[str, Float[Tensor, "b k"]], batch: Batch, seed: int, group: Int[Tensor, " b"] | None = None
) -> dict[str, Float[Tensor, "b k"]]:
    """Each image with the advice on another one of the batch, all teachers' on the same one.

    The images stand in a ring in random order, and each takes the advice on the next: none keeps its own, and none of
    the advice is lost. Which order is drawn from the keys of the images; where views recur, so does the order.

    Args:
        seed: of the data.
        group: of each image, such as the class with the largest share in it, with a ring for each group. An image that
            is alone in its group keeps its own advice. Of a mixed image the advice on the smaller share is lost with
            the image: without mixing, what a group shares is all that is left.
    """
    draws = torch.from_numpy(
        uniforms(Stream.SHUFFLE, seed, batch.view, batch.position, np.zeros_like(batch.position), 1)
    )
    device = batch.target.device
    if device.type == "cuda":  # otherwise the copy waits for the device
        draws = draws.pin_memory()
    draws = draws[:, 0].to(device, non_blocking=True)
    source = next_in_ring(torch.zeros(len(draws), dtype=torch.long, device=device) if group is None else group, draws)
    return {name: z.index_select(0, source) for name, z in advice.items()}


def next_in_ring(group: Int[Tensor, " b"], draws: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
    """Row of the image that follows each in the ring of its group, which is in the order of the draws.

    Does not wait for the device.
    """
    order = draws.argsort(stable=True)
    order = order[group[order].argsort(stable=True)]
    ranked = group[order]
    first = torch.searchsorted(ranked, ranked)
    after = torch.arange(1, len(order) + 1, device=order.device)
    ends = torch.cat([ranked[1:] != ranked[:-1], torch.ones(1, dtype=torch.bool, device=order.device)])
    return torch.empty_like(order).scatter_(0, order, order[torch.where(ends, first, after)])


def smoothed(
    advice: Mapping[str, Float[Tensor, "b k"]], target: Float[Tensor, "b k"], smoothing: float
) -> dict[str, Float[Tensor, "b k"]]:
    """Labels in place of the advice, as unsure on the mean of the batch as the teacher is: log-probabilities.

    Label smoothing (Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016) with the
    strength, the same for the whole batch, at which the mean entropy at temperature 1 is that of the teacher. Of a
    mixed image both labels are smoothed. Where a teacher is surer than the mixed labels are, these are sharpened
    instead: their shares to a power, normalised.

    Args:
        target: the labels as the data gives them.
        smoothing: by which they are smoothed there already.
    """
    k = target.shape[1]
    rows = target.float() / target.sum(dim=1, keepdim=True)  # of any sum, with class weights
    labels = ((rows - smoothing / k) / (1 - smoothing)).clamp_min(0)
    found = {}
    for name, z in advice.items():
        wanted = torch.special.entr(z.float().softmax(dim=1)).sum(dim=1).mean()
        found[name] = _as_unsure(labels, wanted).clamp_min(torch.finfo(torch.float32).tiny).log()
    return found


def _as_unsure(labels: Float[Tensor, "b k"], wanted: Float[Tensor, ""]) -> Float[Tensor, "b k"]:
    """The softened labels whose mean entropy is `wanted`, which rises with the softness: found by search in parts."""
    steps = torch.arange(_PARTS + 1, device=labels.device) / _PARTS
    low, width = torch.zeros((), device=labels.device), 2.0
    for _ in range(_ROUNDS):
        tried = torch.special.entr(_softened(labels, low + width * steps)).sum(dim=2).mean(dim=1)
        below = (tried < wanted).sum().clamp(1, _PARTS) - 1
        low, width = low + width / _PARTS * below, width / _PARTS
    return _softened(labels, (low + width / 2)[None])[0]


def _softened(labels: Float[Tensor, "b k"], softness: Float[Tensor, " s"]) -> Float[Tensor, "s b k"]:
    """Distributions from the top class alone (0) over the labels (1) to all classes alike (2)."""
    sharp = softness.clamp(1e-3, 1)[:, None, None]
    even = (softness - 1).clamp_min(0)[:, None, None]
    powers = (labels / labels.amax(dim=1, keepdim=True)) ** (1 / sharp)
    return (1 - even) * powers / powers.sum(dim=2, keepdim=True) + even / labels.shape[1]


def mean_of(advice: Mapping[str, Float[Tensor, "b k"]]) -> dict[str, Float[Tensor, "b k"]]:
    """The advice of the ensemble under its name; none of no teachers, as in a range test before they are trained."""
    return {MEAN: mean_advice(advice)} if advice else {}


def mean_advice(advice: Mapping[str, Float[Tensor, "b k"]]) -> Float[Tensor, "b k"]:
    """Log of the mean of the teachers' probabilities at temperature 1: what their ensemble says."""
    each = torch.stack([F.log_softmax(z.float(), dim=1) for z in advice.values()])
    return each.logsumexp(dim=0) - math.log(len(each))


def alone_in_class(labels: Int[np.ndarray, " n"], batch: int) -> float:
    """Expected share of the images of a random batch whose class no other image of it has."""
    counts = np.bincount(labels)
    shares = counts / counts.sum()
    return float((shares * (1 - shares) ** (batch - 1)).sum())
