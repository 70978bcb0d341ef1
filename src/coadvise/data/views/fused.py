"""What `Finish` does as one function of tensors, compiled on a GPU: two or three kernels a batch in place of forty.

Each pixel of the result is computed from where it comes: the pixel of the image itself, in its own crop, flip and
erased rectangle, and that of the image it is mixed with. So nothing in between is written to memory, and images of a
set that stays on the device are taken from it in the same pass. All choices are made on the host and come as one table.
What is done follows from the recipe and never from a batch, and shapes are the same for all of them: one graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...errors import one_line
from ...shapes import Float, Int32, Int64, UInt8
from ...system.own_code import with_own_code
from .finish import NOISE, Batch, Finish, Unfinished

# Columns of the table: row of the image and its eight choices (`view_table`, without the label), the same of its
# partner, the two labels, the box of cutmix, λ as the bits of a float32.
_OWN, _MATE, _LABEL, _MATE_LABEL, _BOX, _LAM, _COLUMNS = 0, 9, 18, 19, 20, 24, 25


@dataclass(frozen=True)
class Steps:
    """What is done to the batches of a recipe.

    Attributes:
        moves, erases, mixes: whether images are cropped and flipped here, erased in part, mixed.
    """

    moves: bool
    erases: bool
    mixes: bool
    unlabelled: bool
    classes: int
    smoothing: float

    @classmethod
    def of(cls, finish: Finish) -> Steps:
        augment = finish.data.augment
        return cls(
            moves=augment.policy == "light",
            erases=augment.policy != "none" and augment.erasing > 0,
            mixes=augment.mix_probability > 0 and max(augment.mixup, augment.cutmix) > 0,
            unlabelled=finish.unlabelled,
            classes=finish.classes,
            smoothing=finish.smoothing,
        )


@dataclass(frozen=True)
class Constants:
    """What is the same for all batches, on the device.

    Attributes:
        scale, offset: of each channel, by which pixels are normalised.
        noise: None where nothing is erased.
    """

    scale: Float[Tensor, " 3"]
    offset: Float[Tensor, " 3"]
    noise: Float[Tensor, " n"] | None
    weights: Float[Tensor, " k"] | None
    sets: Tensor | None


def choices(batch: Unfinished) -> Int32[np.ndarray, "b 25"]:
    """All that a batch's images, labels and random choices say, one line for each image."""
    views, mixing = batch.views.numpy(), batch.mixing.numpy()
    b, mate = len(mixing), mixing[:, 0].astype(np.int64)
    rows = np.arange(len(views)) if batch.rows is None else batch.rows.numpy()
    table = np.empty((b, _COLUMNS), np.int32)
    table[:, _OWN], table[:, _MATE] = rows[:b], rows[mate]
    table[:, _OWN + 1 : _MATE], table[:, _MATE + 1 : _LABEL] = views[:b, 1:], views[mate, 1:]
    table[:, _LABEL], table[:, _MATE_LABEL] = views[:b, 0], views[mate, 0]
    table[:, _BOX:_LAM] = mixing[:, 2:]
    table[:, _LAM] = mixing[:, 1].astype(np.float32).view(np.int32)
    return table


def finished(
    pixels: UInt8[Tensor, "m h w 3"], table: Int32[Tensor, "b 25"], constants: Constants, steps: Steps
) -> tuple[Float[Tensor, "b h w 3"], Float[Tensor, "b k"], Int64[Tensor, " b"]]:
    """Images, targets and labels of a batch."""
    label = table[:, _LABEL].long()
    images, target = _views(pixels, table[:, _OWN:_MATE], constants, steps), _target(label, constants, steps)
    if steps.mixes:
        lam, box = table[:, _LAM].view(torch.float32), table[:, _BOX:_LAM]
        cut = box[:, 1] > 0  # by cutmix: the rest is not mixed
        share = torch.where(cut, torch.ones_like(lam), lam)[:, None, None, None]
        mate = _views(pixels, table[:, _MATE:_LABEL], constants, steps)
        images = torch.where(_within(box, pixels), mate, images * share + mate * (1 - share))
        theirs = _target(table[:, _MATE_LABEL].long(), constants, steps)
        target = target * lam[:, None] + theirs * (1 - lam[:, None])
    return images, target, label


def _views(
    pixels: UInt8[Tensor, "m h w 3"], how: Int32[Tensor, "b 9"], constants: Constants, steps: Steps
) -> Float[Tensor, "b h w 3"]:
    """Images in their crop, normalised and erased, from row, down, right, flip, erased box and place in the noise."""
    height, width = pixels.shape[1:3]
    y = torch.arange(height, device=pixels.device)[None, :, None, None]
    x = torch.arange(width, device=pixels.device)[None, None, :, None]
    channel = torch.arange(3, device=pixels.device)[None, None, None, :]
    row, down, right, flip = (column.long()[:, None, None, None] for column in how[:, :4].unbind(1))
    if steps.moves:
        from_y, from_x = y + down, torch.where(flip > 0, width - 1 - x, x) + right
        seen = (from_y >= 0) & (from_y < height) & (from_x >= 0) & (from_x < width)
        values = pixels[row, from_y.clamp(0, height - 1), from_x.clamp(0, width - 1), channel] * seen
    else:
        values = pixels[row, y, x, channel]
    images = values.float() * constants.scale - constants.offset
    if constants.noise is None:
        return images
    place = (how[:, 8].long()[:, None, None, None] + (y * width + x) * 3 + channel) % NOISE
    return torch.where(_within(how[:, 4:8], pixels), constants.noise[place], images)


def _within(box: Int32[Tensor, "b 4"], pixels: UInt8[Tensor, "m h w 3"]) -> Tensor:
    """Whether each pixel lies in its image's box (top, bottom, left, right): (b, h, w, 1)."""
    y = torch.arange(pixels.shape[1], device=pixels.device)[None, :, None, None]
    x = torch.arange(pixels.shape[2], device=pixels.device)[None, None, :, None]
    top, bottom, left, right = (column[:, None, None, None] for column in box.unbind(1))
    return (y >= top) & (y < bottom) & (x >= left) & (x < right)


def _target(label: Int64[Tensor, " b"], constants: Constants, steps: Steps) -> Float[Tensor, "b k"]:
    known, on, spread = label.clamp_min(0), 1 - steps.smoothing, steps.smoothing / steps.classes
    if constants.sets is not None:
        target = constants.sets[known].float() * on + spread
    else:
        hit = torch.arange(steps.classes, device=label.device) == known[:, None]
        target = torch.where(hit, on + spread, torch.full((), spread, device=label.device))
    if constants.weights is not None:
        target = target * constants.weights[known][:, None]
    return target * (label >= 0)[:, None] if steps.unlabelled else target


class Fused:
    """Turns batches of 8-bit pixels into model input, as `Finish` does, in one pass.

    Args:
        finish: what it is made from, and what goes on in its place where nothing can be compiled.
        backend: of `torch.compile`.
    """

    def __init__(self, finish: Finish, backend: str | Callable = "inductor") -> None:
        self.finish, self.device, self.steps = finish, finish.device, Steps.of(finish)
        scale, offset = finish.scale_and_offset()
        self.constants = Constants(
            scale=scale,
            offset=offset,
            noise=finish.noise_ring() if self.steps.erases else None,
            weights=finish.weights,
            sets=finish.sets,
        )
        self.compiled = True
        self._function = torch.compile(with_own_code(finished), backend=backend, fullgraph=True, dynamic=False)
        self._ran = False

    def __call__(self, batch: Unfinished) -> Batch:
        """The batch on the device; does not wait for the device."""
        if not self.compiled:
            return self.finish(batch)
        table, pixels = torch.from_numpy(choices(batch)), batch.pixels
        # Otherwise the copy waits for the device; PyTorch keeps such memory for the next batch.
        if self.device.type == "cuda":
            table = table.pin_memory()
        pixels = pixels.to(self.device, non_blocking=True)
        if batch.rows is None:  # a partner may come from another batch, so that some have more images
            torch._dynamo.maybe_mark_dynamic(pixels, 0)
        try:
            images, target, label = self._function(
                pixels, table.to(self.device, non_blocking=True), self.constants, self.steps
            )
        except Exception as error:  # nearly any, where there is no compiler or a faulty one
            if self._ran:
                raise
            self.compiled = False
            warnings.warn(
                f"batches are made without compiled code here, more slowly: {one_line(error)}",
                RuntimeWarning,
                stacklevel=2,
            )
            return self.finish(batch)
        self._ran = True
        return Batch(images.permute(0, 3, 1, 2), target, label, batch.index, tuple(batch.skipped))
