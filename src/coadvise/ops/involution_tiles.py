"""How the GPU kernels of involution cut their work: tiles of pixels, and the steps in which a tile's patch is read.

A tile's patch is what its windows reach on the other side: input pixels in the forward pass, output pixels in the
backward pass. A step takes some rows of the patch; its columns are padded to a power of two. The number of entries of
all bands, most of them zeros, is what a tiling costs; so small maps want one tile that covers them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .involution_eager import GROUP_CHANNELS

Pass = Literal["forward", "backward"]
# Rows and columns of pixels, and warps: a matrix product wants at least 16 rows, and one warp for each 16.
_TILES = ((2, 8, 1), (4, 4, 1), (1, 16, 1), (8, 8, 4))
_STEPS: dict[Pass, tuple[int, ...]] = {  # pixels of a patch in a step, the one to prefer first
    "forward": (64, 128, 32),
    "backward": (128, 64, 32),  # stores in a step keep the next step's loads waiting
}
_WORSE = 1.6  # of entries: a tiling that has so many times the fewest is not tried


@dataclass(frozen=True)
class Shape:
    """What decides a tiling: sizes in pixels, and the number of groups."""

    groups: int
    height: int
    width: int
    out_height: int
    out_width: int
    kernel_size: int
    stride: int

    @classmethod
    def of(cls, x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> Shape:
        """The shape of a call of `involution`."""
        (c, h, w), (oh, ow) = x.shape[1:], kernel.shape[2:]
        return cls(c // GROUP_CHANNELS, h, w, oh, ow, int(kernel_size), int(stride))

    def bytes_once(self, batch: int, itemsize: int, which: Pass) -> int:
        """Bytes of each tensor of a pass, once: input, weights and output; backward also the two gradients."""
        pixels, outputs = self.height * self.width, self.out_height * self.out_width
        inputs, weights = GROUP_CHANNELS * pixels, self.kernel_size**2 * outputs
        times = 1 if which == "forward" else 2
        return batch * self.groups * itemsize * (times * (inputs + weights) + GROUP_CHANNELS * outputs)

    def operations(self, batch: int, which: Pass) -> int:
        """Multiplications and additions that are asked for."""
        times = 1 if which == "forward" else 2
        taps = self.kernel_size**2 * self.out_height * self.out_width
        return times * 2 * GROUP_CHANNELS * taps * batch * self.groups


@dataclass(frozen=True)
class Tiling:
    """A tile's rows and columns, the rows and columns of its patch in each step, the steps, and warps of a program."""

    tile_h: int
    tile_w: int
    rows: int
    columns: int
    steps: int
    warps: int

    def constants(self) -> dict[str, int]:
        """What the kernels are compiled for."""
        return {"TILE_H": self.tile_h, "TILE_W": self.tile_w, "ROWS": self.rows, "COLUMNS": self.columns,
                "STEPS": self.steps}  # fmt: skip

    def programs(self, shape: Shape, which: Pass) -> int:
        """Programs for each image."""
        height, width = _sides(shape, which)[0]
        return -(-height // self.tile_h) * -(-width // self.tile_w) * shape.groups

    def entries(self, shape: Shape, which: Pass) -> int:
        """Entries of all bands of an image, zeros and pixels outside the image included."""
        return self.programs(shape, which) * self.tile_h * self.tile_w * self.rows * self.columns * self.steps

    def is_wide(self, shape: Shape, which: Pass) -> bool:
        """Whether a place within a tile or its patch, counted from its first, needs more than 32 bits."""
        rows = max(self.tile_h, self.rows * self.steps)
        per_pixel = shape.groups * max(shape.kernel_size**2, GROUP_CHANNELS)
        return (rows + 1) * max(shape.width, shape.out_width) * per_pixel >= 2**31


def _sides(shape: Shape, which: Pass) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of the side that is cut into tiles, and of the side of the patches."""
    sides = (shape.out_height, shape.out_width), (shape.height, shape.width)
    return sides if which == "forward" else sides[::-1]


def _reach(tile: int, shape: Shape, which: Pass) -> int:
    """Rows or columns that the windows of so many neighbours reach, at most."""
    if which == "forward":
        return (tile - 1) * shape.stride + shape.kernel_size
    return (tile + shape.kernel_size - 2) // shape.stride + 1


def _power(number: int) -> int:
    """The next power of two."""
    return 1 << max(number - 1, 0).bit_length()


def _cut(tile: tuple[int, int, int], step: int, shape: Shape, which: Pass) -> Tiling:
    tile_h, tile_w, warps = tile
    height, width = _sides(shape, which)[1]
    columns = max(4, _power(min(width, _reach(tile_w, shape, which))))
    reach = min(height, _reach(tile_h, shape, which))
    # A matrix product sums over at least 16.
    rows = max(1, 16 // columns, min(step // columns, _power(reach)))
    return Tiling(tile_h, tile_w, rows, columns, -(-reach // rows), warps)


@functools.cache
def tilings(shape: Shape, which: Pass) -> tuple[Tiling, ...]:
    """Tilings that are worth a trial, at most five, the one with the fewest entries first."""

    def cost(tiling: Tiling) -> int:
        return tiling.entries(shape, which)

    best = sorted(
        (min((_cut(tile, step, shape, which) for step in _STEPS[which]), key=cost) for tile in _TILES), key=cost
    )
    first = best[0]
    others = [_cut((first.tile_h, first.tile_w, first.warps), step, shape, which) for step in _STEPS[which]]
    worth = [tiling for tiling in (*best, *others) if cost(tiling) <= _WORSE * cost(first)]
    return tuple(dict.fromkeys(worth))[:5]
