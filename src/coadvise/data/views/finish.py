"""The last part of augmentation, for whole batches and on the device: from 8-bit pixels to the model's input.

Padded crop and flip (`light`), normalisation, random erasing, mixing, soft targets. Every random choice comes with the
batch (`draws.py`), whatever the batch size. The device gets 8-bit pixels, a quarter of the bytes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...recipe.schema import Data
from ...shapes import Bool, Float, Float64, Int, Int64, UInt8
from .draws import Mixes, Stream, crops, erasures, uniforms

# Number of normal draws for erased pixels. Each image reads them from a start of its own: the same on every device.
NOISE = 2**20
_COLUMNS = ("label", "down", "right", "flip", "top", "bottom", "left", "right end", "noise")
NOWHERE = np.zeros(0, dtype=np.int64)


class Batch(NamedTuple):
    """Images ready for the model, on its device."""

    images: Float[Tensor, "b 3 h w"]
    target: Float[Tensor, "b k"]
    """Soft targets: smoothed and mixed in training (and of any sum with class weights), one-hot in evaluation, or with
    a 1 for each class of an image that has any number of them. Zeros for an image without a label; mixed with another
    it keeps the other's share."""
    label: Int[Tensor, " b"]
    """Label of the image itself, without smoothing or partner: its class, or the number of its set of classes; −1 where
    it has none."""
    index: Int[Tensor, " b"]  # type: ignore[assignment]
    """Index that was asked for; with `on_error: skip` the image may be that of a later one. On the CPU."""
    skipped: tuple[str, ...]
    """Unreadable images that were met, by name."""
    view: int = -1
    position: Int64[np.ndarray, " b"] = NOWHERE
    """Place of each image in the order of its view; empty in evaluation."""


class Unfinished(NamedTuple):
    """A batch as it leaves the loader: its b images, then partners that are not among them."""

    pixels: UInt8[Tensor, "m h w 3"]
    views: Float64[Tensor, "m 9"]
    """Label and random choices of each image: see `view_table`."""
    mixing: Float64[Tensor, "b 6"]
    """Row of the partner, λ, and the box of cutmix (top, bottom, left, right)."""
    index: Int[Tensor, " b"]  # type: ignore[assignment]
    skipped: tuple[str, ...]
    rows: Int64[Tensor, " m"] | None = None
    """Where `pixels` are those of a whole set: the row of each image, on the host."""


def view_table(
    data: Data, view: int, index: np.ndarray, repeat: np.ndarray, labels: np.ndarray
) -> Float64[Tensor, "m 9"]:
    """Label, crop offset, flip, erased rectangle and place in the noise of training images, as one table."""
    augment, size = data.augment, data.image_size
    table = np.zeros((len(index), len(_COLUMNS)))
    table[:, 0] = labels
    if augment.policy == "light":
        pad = size // 8 if augment.pad is None else augment.pad
        table[:, 1:3], table[:, 3] = crops(data.seed, view, index, repeat, pad, augment.hflip)
    if augment.policy != "none" and augment.erasing > 0:
        table[:, 4:8] = erasures(data.seed, view, index, repeat, size, augment.erasing)
        table[:, 8] = np.floor(uniforms(Stream.NOISE, data.seed, view, index, repeat, 1)[:, 0] * NOISE)
    return torch.from_numpy(table)


def plain_table(labels: np.ndarray) -> Float64[Tensor, "m 9"]:
    """The table of images that nothing is drawn for."""
    table = torch.zeros(len(labels), len(_COLUMNS), dtype=torch.float64)
    table[:, 0] = torch.from_numpy(np.asarray(labels))
    return table


def mixing_table(partner_rows: np.ndarray, mixes: Mixes) -> Float64[Tensor, "b 6"]:
    """How each image of a batch is mixed, as one table."""
    return torch.from_numpy(np.column_stack([partner_rows, mixes.lam, mixes.box]).astype(np.float64))


class Finish:
    """Turns batches of 8-bit pixels into model input, on a device.

    Args:
        data: the recipe's data part.
        classes: number of classes.
        smoothing: mass of the label that is spread over all classes.
        weights: of each class, by which a label's target is multiplied: of a mixed image, each label by its own. A
            smoothed label is weighted as a whole. PyTorch's `CrossEntropyLoss(weight, label_smoothing)` gives the mass
            on the other classes their weights, so that a rare class may outweigh the label of an image of a large one.
        unlabelled: whether there are images without a label (−1).
        sets: of images that have any number of classes: those of each label.
    """

    def __init__(
        self,
        data: Data,
        classes: int,
        device: torch.device,
        smoothing: float = 0.0,
        weights: Float64[np.ndarray, " k"] | None = None,
        unlabelled: bool = False,
        sets: Bool[np.ndarray, "m k"] | None = None,
    ) -> None:
        self.unlabelled = unlabelled
        self.data, self.classes, self.device, self.smoothing = data, classes, device, smoothing
        self.mean = torch.tensor(data.mean, device=device)
        self.std = torch.tensor(data.std, device=device)
        self.weights = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)
        self.sets = None if sets is None else torch.tensor(sets, device=device)
        self._noise: Tensor | None = None

    def __call__(self, batch: Unfinished) -> Batch:
        """The batch on the device; does not wait for the device."""
        views, mixing = batch.views, batch.mixing
        pixels = batch.pixels.to(self.device, non_blocking=True)
        if batch.rows is not None:
            pixels = pixels[self._copied(batch.rows)]
        on_device = self._copied(views)
        mixed = len(mixing) and bool((mixing[:, 1] < 1).any())
        how = self._copied(mixing) if mixed else None
        if views[:, 1:4].any():
            pixels = _moved(pixels, on_device[:, 1:4].long())
        images = self._normalised(pixels)
        erased = torch.nonzero(views[:, 5] > views[:, 4])[:, 0]
        if len(erased) and self.device.type == "cpu":
            self._erase_one_by_one(images, erased.tolist(), views[:, 4:9].long())
        elif len(erased):
            rows = self._copied(erased)
            images[rows] = self._erased(images[rows], on_device[rows, 4:9].long())
        b, label = len(mixing), on_device[:, 0].long()
        own = images[:b]
        if how is not None:
            own = _mixed(own, images[how[:, 0].long()], how[:, 1].float(), how[:, 2:6].long())
        return Batch(
            own.permute(0, 3, 1, 2), self._targets(label, b, how), label[:b], batch.index, tuple(batch.skipped)
        )

    def _copied(self, table: Tensor) -> Tensor:
        """A table on the device."""
        if self.device.type == "cuda":  # otherwise the copy waits for the device
            table = table.pin_memory()
        return table.to(self.device, non_blocking=True)

    def targets(self, batch: Unfinished) -> tuple[Float[Tensor, "b k"], Int[Tensor, " b"]]:
        """Targets and labels of a batch, on the CPU."""
        b, label = len(batch.mixing), batch.views[:, 0].long()
        mixed = b and bool((batch.mixing[:, 1] < 1).any())
        return self._targets(label, b, batch.mixing if mixed else None), label[:b]

    def _targets(self, label: Int[Tensor, " m"], b: int, how: Float64[Tensor, "b 6"] | None) -> Float[Tensor, "b k"]:
        target = self._target(label[:b])
        if how is None:
            return target
        lam = how[:, 1].float()
        return target * lam[:, None] + self._target(label[how[:, 0].long()]) * (1 - lam[:, None])

    def images(self, pixels: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
        """Normalised pixels on the device."""
        return self._normalised(pixels.to(self.device)).permute(0, 3, 1, 2)

    def scale_and_offset(self) -> tuple[Float[Tensor, " 3"], Float[Tensor, " 3"]]:
        """By which the pixels of each channel are normalised: times the one, less the other."""
        return 1 / (255 * self.std), self.mean / self.std

    def _normalised(self, pixels: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b h w 3"]:
        # Rows of all channels, and not channels, are what runs along memory: PyTorch is slow on an inner size of three.
        rows = pixels.flatten(2)
        scale, offset = self.scale_and_offset()
        width = pixels.shape[2]
        return rows.float().mul_(scale.repeat(width)).sub_(offset.repeat(width)).view(pixels.shape)

    def _target(self, label: Int[Tensor, " b"]) -> Float[Tensor, "b k"]:
        if self.unlabelled:
            return self._weighted(label.clamp_min(0)) * (label >= 0)[:, None]
        return self._weighted(label)

    def _weighted(self, label: Int[Tensor, " b"]) -> Float[Tensor, "b k"]:
        target = self._one_hot(label)
        return target if self.weights is None else target * self.weights[label][:, None]

    def _one_hot(self, label: Int[Tensor, " b"]) -> Float[Tensor, "b k"]:
        """s/k on every class and another 1 − s on the label, as timm smooths; on each of several labels."""
        if self.sets is not None:
            return self.sets[label].float() * (1 - self.smoothing) + self.smoothing / self.classes
        target = torch.full((len(label), self.classes), self.smoothing / self.classes, device=self.device)
        return target.scatter_(1, label[:, None], 1 - self.smoothing + self.smoothing / self.classes)

    def noise_ring(self) -> Float[Tensor, " n"]:
        """Normal draws on the device, for erased pixels."""
        if self._noise is None:
            generator = np.random.default_rng(np.random.SeedSequence((Stream.NOISE, self.data.seed)))
            self._noise = torch.from_numpy(generator.standard_normal(NOISE, dtype=np.float32)).to(self.device)
        return self._noise

    def _erased(self, images: Float[Tensor, "e h w 3"], choices: Int[Tensor, "e 5"]) -> Float[Tensor, "e h w 3"]:
        """Images with noise of unit variance in a rectangle (after normalisation)."""
        noise = self.noise_ring()
        place = (choices[:, 4:] + torch.arange(images[0].numel(), device=self.device)) % NOISE
        return torch.where(_inside(images, choices[:, :4]), noise[place].view_as(images), images)

    def _erase_one_by_one(self, images: Float[Tensor, "b h w 3"], rows: list[int], choices: Int[Tensor, "b 5"]) -> None:
        """The same in place, which is faster on the CPU: it touches only the rectangles."""
        noise, count = self.noise_ring(), images[0].numel()
        for row in rows:
            top, bottom, left, right, start = choices[row].tolist()
            there = (
                noise[torch.arange(start, start + count) % NOISE] if start + count > NOISE else noise[start:][:count]
            )
            images[row, top:bottom, left:right] = there.view(images.shape[1:])[top:bottom, left:right]


def _inside(images: Float[Tensor, "n h w 3"], box: Int[Tensor, "n 4"]) -> Tensor:
    """Whether each pixel lies in its image's box (top, bottom, left, right): (n, h, w, 1)."""
    height, width = images.shape[1:3]
    y, x = torch.arange(height, device=box.device), torch.arange(width, device=box.device)
    top, bottom, left, right = box.unsqueeze(2).unbind(1)
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return (rows[:, :, None] & columns[:, None, :]).unsqueeze(3)


def _mixed(
    own: Float[Tensor, "b h w 3"], partner: Float[Tensor, "b h w 3"], lam: Float[Tensor, " b"], box: Int[Tensor, "b 4"]
) -> Float[Tensor, "b h w 3"]:
    """Mixup where the box is empty, cutmix elsewhere."""
    cut = (box != 0).any(dim=1)
    share = torch.where(cut, torch.ones_like(lam), lam)[:, None, None, None]
    return torch.where(_inside(own, box), partner, own * share + partner * (1 - share))


def _moved(pixels: UInt8[Tensor, "m h w 3"], choices: Int[Tensor, "m 3"]) -> UInt8[Tensor, "m h w 3"]:
    """Each image shifted by (down, right) pixels, black outside, then flipped where asked."""
    size = pixels.shape[1]
    at = torch.arange(size, device=pixels.device)
    down, right, flip = choices.unsqueeze(2).unbind(1)
    y = at + down
    x = torch.where(flip > 0, size - 1 - at, at) + right
    which = torch.arange(len(pixels), device=pixels.device)[:, None, None]
    moved = pixels[which, y.clamp(0, size - 1)[:, :, None], x.clamp(0, size - 1)[:, None, :]]
    seen = ((y >= 0) & (y < size))[:, :, None] & ((x >= 0) & (x < size))[:, None, :]
    return moved * seen.unsqueeze(3)
