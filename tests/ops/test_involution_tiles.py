"""Tilings of the GPU kernels, against a loop over every window."""

import itertools

import pytest
import torch

from coadvise.ops.involution_tiles import Shape, tilings


def shape(side, k, stride, groups=2):
    out = tuple(-(-size // stride) for size in side)
    return Shape(groups, *side, *out, k, stride)


def reached(first, count, size, k, stride, which):
    """First and last place on the other side that windows join to `count` places from `first` on, by trying all."""
    pad, mine = (k - 1) // 2, range(first, first + count)
    pairs = [(o, o * stride + i - pad) for o in range(size[1]) for i in range(k)]
    pairs = [(o, z) for o, z in pairs if 0 <= z < size[0]]
    found = [z for o, z in pairs if o in mine] if which == "forward" else [o for o, z in pairs if z in mine]
    return (min(found), max(found)) if found else (0, 0)


@pytest.mark.parametrize("which", ["forward", "backward"])
@pytest.mark.parametrize(("k", "stride"), [(1, 1), (1, 3), (3, 1), (3, 2), (7, 1), (7, 2), (7, 3), (13, 2)])
def test_patches_hold_all_that_a_tile_reaches(k, stride, which):
    for side in ((1, 1), (5, 4), (7, 7), (13, 30), (56, 17)):
        s = shape(side, k, stride)
        tiled = (s.out_height, s.out_width) if which == "forward" else side
        choice = tilings(s, which)
        assert 1 <= len(choice) <= 5
        for t in choice:
            axes = ((t.tile_h, t.rows * t.steps, 0), (t.tile_w, t.columns, 1))
            for tile, patch, axis in axes:
                size = (side[axis], (s.out_height, s.out_width)[axis])
                for first in range(0, tiled[axis], tile):
                    low, high = reached(first, tile, size, k, stride, which)
                    assert high - low < patch, (s, t)
            powers = (t.tile_h * t.tile_w, t.rows, t.columns)
            assert all(number & (number - 1) == 0 for number in powers), "Triton wants powers of two"
            assert t.rows * t.columns >= 16 and t.tile_h * t.tile_w >= 16, "so does a matrix product, and at least 16"


@pytest.mark.parametrize("which", ["forward", "backward"])
@pytest.mark.parametrize(
    "s", [shape((56, 56), 7, 1, 4), shape((28, 28), 7, 2, 16), shape((14, 14), 7, 1, 16), shape((7, 7), 7, 1, 32)]
)
def test_the_first_tiling_has_the_fewest_entries(s, which):
    cost = [t.entries(s, which) for t in tilings(s, which)]
    assert cost[0] == min(cost)
    # With K = 7 a warp of 32 threads reads so many entries of the band for each output pixel at most.
    assert cost[0] / 32 / (s.groups * s.out_height * s.out_width) <= 9


def test_bytes_and_operations_of_a_shape():
    s = shape((9, 8), 7, 2)
    x, kernel = torch.empty(3, 32, 9, 8, dtype=torch.bfloat16), torch.empty(3, 98, 5, 4, dtype=torch.bfloat16)
    assert Shape.of(x, kernel, 7, 2) == s
    out = torch.empty(3, 32, 5, 4, dtype=torch.bfloat16)
    once = x.nbytes + kernel.nbytes + out.nbytes
    assert s.bytes_once(3, 2, "forward") == once
    assert s.bytes_once(3, 2, "backward") == once + x.nbytes + kernel.nbytes
    assert s.operations(3, "forward") == 2 * 49 * out.numel() == s.operations(3, "backward") // 2


def test_places_beyond_32_bits_are_known():
    ordinary, huge = shape((56, 56), 7, 1, 32), shape((4, 500_000), 7, 1, 64)
    for which, s in itertools.product(("forward", "backward"), (ordinary, huge)):
        assert tilings(s, which)[0].is_wide(s, which) == (s is huge)
