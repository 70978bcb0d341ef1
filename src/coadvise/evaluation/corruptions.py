"""Common corruptions at five severities, made on the fly (Hendrycks & Dietterich 2019: ImageNet-C, CIFAR-10-C).

The fifteen kinds, and for each severity the strengths published for ImageNet-C (images of 128 px and more) or for
CIFAR-10-C (smaller ones), but for elastic transform and snow; lengths in pixels grow with the side of the image, from
224 and 32 px. The noises, brightness, contrast, pixelate and JPEG follow the published formulas. Made in another way
than by the published code, so that whole batches are done at once and no photographs are needed:

- defocus blur: a pixel at the rim of the disk counts in part, where the published disk has it or has it not.
- glass blur: pixels move by random fields, and are not swapped one after the other.
- motion blur: the mean along a line that has the image's pixel in its middle, with the weights of a Gaussian.
  ImageMagick's line begins at the pixel and runs to one side, with one half of that Gaussian: a shorter blur, and a
  shift.
- zoom blur: the factors end where the table says. The published ones come of `np.arange`, whose end is left out but
  where rounding lets it in: they end at 1.15, 1.2, 1.25 in place of 1.16, 1.21, 1.26 (small images, severities 3 to 5),
  and at 1.11 in place of 1.1 (large ones, severity 1).
- snow, frost, fog: the patterns are drawn from noise, those of snow with strengths of our own.
- elastic transform: smooth random moves alone, with strengths of our own. The published one first moves three points at
  random, which turns, shears and scales the whole image, and at the first severity is nearly all that it does.
- images are not stored as JPEG afterwards, as those of ImageNet-C are.

Errors on these images are comparable with each other, not with published ones.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..shapes import Float, UInt8

Generators = Sequence[np.random.Generator]
Images = Float[Tensor, "n 3 h w"]
LARGE = 128
"""Side in pixels from which ImageNet-C's strengths are taken."""

# kind → (strengths on large images, strengths on small images), severity 1 to 5. Lengths are in pixels of 224 and 32.
STRENGTHS: dict[str, tuple[tuple[tuple[float, ...], ...], tuple[tuple[float, ...], ...]]] = {
    "gaussian_noise": (((0.08,), (0.12,), (0.18,), (0.26,), (0.38,)), ((0.04,), (0.06,), (0.08,), (0.09,), (0.1,))),
    "shot_noise": (((60,), (25,), (12,), (5,), (3,)), ((500,), (250,), (100,), (75,), (50,))),
    "impulse_noise": (((0.03,), (0.06,), (0.09,), (0.17,), (0.27,)), ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,))),
    # radius, blur of the disk's edge
    "defocus_blur": (
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)), ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    ),
    # blur before and after, largest move, times
    "glass_blur": (
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    ),
    # half length, spread along it
    "motion_blur": (
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)), ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    ),
    # largest zoom, step
    "zoom_blur": (
        ((1.1, 0.01), (1.15, 0.01), (1.2, 0.02), (1.25, 0.02), (1.3, 0.03)),
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    ),
    # threshold of flakes, half length of their blur, its spread, weight of the picture beneath
    "snow": (
        ((0.67, 10, 4, 0.8), (0.65, 12, 4, 0.7), (0.62, 12, 8, 0.7), (0.6, 12, 8, 0.65), (0.57, 12, 12, 0.55)),
        ((0.7, 4, 1, 0.95), (0.68, 4, 1, 0.9), (0.65, 4, 1.5, 0.85), (0.62, 4, 1.5, 0.8), (0.59, 4, 2, 0.75)),
    ),
    # weight of the picture, weight of the frost
    "frost": (
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    ),
    # weight of the fog, decay of its octaves
    "fog": (
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)), ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    ),
    "brightness": (((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)), ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,))),
    "contrast": (((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)), ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,))),
    # root mean square of the moves, their smoothness, in pixels
    "elastic_transform": (
        ((1.2, 10), (1.8, 9), (2.2, 7), (3, 6), (4, 5.5)), ((0.5, 3), (0.65, 2.6), (0.8, 2.3), (1, 2), (1.25, 1.8)),
    ),
    "pixelate": (((0.6,), (0.5,), (0.4,), (0.3,), (0.25,)), ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,))),
    "jpeg_compression": (((25,), (18,), (15,), (10,), (7,)), ((80,), (65,), (58,), (50,), (40,))),
}  # fmt: skip

CORRUPTIONS: dict[str, str] = {
    **dict.fromkeys(("gaussian_noise", "shot_noise", "impulse_noise"), "noise"),
    **dict.fromkeys(("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"), "blur"),
    **dict.fromkeys(("snow", "frost", "fog", "brightness"), "weather"),
    **dict.fromkeys(("contrast", "elastic_transform", "pixelate", "jpeg_compression"), "digital"),
}
"""Kind → category."""
SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(
    pixels: UInt8[np.ndarray, "n h w 3"],
    kind: str,
    severity: int,
    *,
    seed: int = 0,
    first: int = 0,
    numbers: Sequence[int] | None = None,
) -> UInt8[np.ndarray, "n h w 3"]:
    """Corrupted images; what happens to an image follows from (seed, kind, severity, its number) alone.

    Args:
        kind: a key of `CORRUPTIONS`.
        severity: 1 to 5.
        first: number of the first image, so that a set can be done in batches of any size.
        numbers: of the images, where they do not follow one another from `first` on.
    """
    assert kind in CORRUPTIONS and severity in SEVERITIES, (kind, severity)
    side = min(pixels.shape[1:3])
    large = side >= LARGE
    strengths = STRENGTHS[kind][0 if large else 1][severity - 1]
    place = list(CORRUPTIONS).index(kind)
    generators = [
        np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, place, severity, number))))
        for number in (range(first, first + len(pixels)) if numbers is None else numbers)
    ]
    images = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 255
    done = _KINDS[kind](images, strengths, generators, side / (224 if large else 32))
    return _bytes(done.clamp(0, 1))


def _bytes(x: Images) -> UInt8[np.ndarray, "n h w 3"]:
    return (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def _draw(generators: Generators, one: Callable[[np.random.Generator], np.ndarray]) -> Tensor:
    """One array for each image, drawn from its own generator."""
    return torch.from_numpy(np.stack([one(generator) for generator in generators]).astype(np.float32))


# --- noise -------------------------------------------------------------------------------------------------


def _gaussian_noise(x: Images, strengths: Sequence[float], generators: Generators, scale: float) -> Images:
    return x + strengths[0] * _draw(generators, lambda g: g.standard_normal(x.shape[1:]))


def _shot_noise(x: Images, strengths: Sequence[float], generators: Generators, scale: float) -> Images:
    photons = strengths[0]
    pictures = iter(x.double().numpy())
    return _draw(generators, lambda g: g.poisson(next(pictures) * photons) / photons)


def _impulse_noise(x: Images, strengths: Sequence[float], generators: Generators, scale: float) -> Images:
    chance = _draw(generators, lambda g: g.random(x.shape[1:]))
    return x.masked_fill(chance < strengths[0] / 2, 0.0).masked_fill(chance > 1 - strengths[0] / 2, 1.0)


# --- blur --------------------------------------------------------------------------------------------------


def _filter(x: Images, kernels: Float[Tensor, "m k k"]) -> Images:
    """Every image with its kernel (m = n), or all with one (m = 1); mirrored at the border."""
    n, channels, height, width = x.shape
    size = kernels.shape[-1]
    weights = kernels.expand(n, size, size).repeat_interleave(channels, dim=0)[:, None]
    padded = _mirror(x, size // 2).reshape(1, n * channels, height + size - 1, width + size - 1)
    return F.conv2d(padded, weights, groups=n * channels).reshape(x.shape)


def _mirror(x: Images, width: int) -> Images:
    """Mirrored border; in several steps where it is wider than the image."""
    while width > 0:
        step = min(width, min(x.shape[-2:]) - 1)
        x, width = F.pad(x, (step,) * 4, mode="reflect"), width - step
    return x


def _gaussian_kernel(sigma: float) -> Float[Tensor, "1 k k"]:
    radius = max(1, math.ceil(3 * sigma))
    line = torch.exp(-(torch.arange(-radius, radius + 1.0) ** 2) / (2 * max(sigma, 1e-3) ** 2))
    line = line / line.sum()
    return (line[:, None] * line)[None]


def _defocus_blur(x: Images, strengths: Sequence[float], generators: Generators, scale: float) -> Images:
    radius, edge = strengths[0] * scale, strengths[1]
    reach = math.ceil(radius) + 1
    place = torch.arange(-reach, reach + 1.0)
    distance = (place[:, None] ** 2 + place**2).sqrt()
    # A pixel at the rim counts in part, so that radii below one pixel blur a little, too.
    disk = _filter((radius + 0.5 - distance).clamp(0, 1)[None, None], _gaussian_kernel(edge))[0]
    return _filter(x, disk / disk.sum())


def _glass_blur(x: Images, strengths: Sequence[float], generators: Generators, scale: float) -> Images:
    sigma, reach = strengths[0] * scale, max(1, round(strengths[1] * scale))
    x = _filter(x, _gaussian_kernel(sigma))
    n, _, height, width = x.shape
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    every = torch.arange(n)[:, None, None]
    for _ in range(int(strengths[2])):
        moves = _draw(generators, lambda g: g.integers(-reach, reach + 1, (2, height, width))).long()
        from_row, from_column = (rows + moves[:, 0]).clamp(0, height - 1), (columns + moves[:, 1]).clamp(0, width - 1)
        x = x[every, :, from_row, from_column].permute(0, 3, 1, 2)
    return _filter(x, _gaussian_kernel(sigma))


def _line_kernels(angles: Float[Tensor, " n"], reach: float, spread: float) -> Float[Tensor, "n k k"]:
    """A line through the middle at an angle (radians), weighted by a Gaussian along it."""
    size = max(1, math.ceil(reach))
    place = torch.arange(-size, size + 1.0)
    along = torch.linspace(-reach, reach, 8 * size + 1)
    weight = torch.exp(-(along**2) / (2 * spread**2))
    x, y = angles.cos()[:, None] * along, angles.sin()[:, None] * along  # n s
    near = lambda at: (1 - (at[..., None] - place).abs()).clamp_min(0)  # bilinear, n s k
    kernels = torch.einsum("s,nsi,nsj->nij", weight, near(y), near(x))
    return kernels / kernels.sum(dim=(1, 2), keepdim=True)


def _motion_blur(x: Images, strengths: Sequence[float], generators: Generators, scale: float) -> Images:
    angles = _draw(generators, lambda g: g.uniform(-math.pi / 4, math.pi / 4, ()))
    return _filter(x, _line_kernels(angles, strengths[0] * scale, strengths[1] * scale))


def _zoom_blur(x: Images, strengths: Sequence[float], generators: Generators, scale: float) -> Images:
    zooms = np.arange(1.0, strengths[0] + 1e-9, strengths[1])
    total = x.clone()
    for zoom in zooms:
        total += _sample(x, _grid(x) / float(zoom))
    return total / (len(zooms) + 1)


def _grid(x: Images) -> Float[Tensor, "1 h w 2"]:
    """Where each pixel lies, from −1 to 1."""
    return F.affine_grid(torch.eye(2, 3)[None], [1, 1, *x.shape[-2:]], align_corners=False)


def _sample(x: Images, grid: Float[Tensor, "m h w 2"]) -> Images:
    grid = grid.expand(len(x), *grid.shape[1:])
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


# --- weather -----------------------------------------------------------------------------------------------


def _clouds(generators: Generators, x: Images, decay: float) -> Float[Tensor, "n 1 h w"]:
    """Fractal noise in [0, 1]: octaves from two cells a side upwards, each weaker by `decay`."""
    height, width = x.shape[-2:]
    octaves = max(1, math.ceil(math.log2(max(height, width))))
    total = torch.zeros(len(generators), 1, height, width)
    for octave in range(octaves):
        cells = 2 ** (octave + 1)
        field = _draw(generators, lambda g, cells=cells: g.random((1, cells, cells)))  # type: ignore[misc]
        total += decay**-octave * F.interpolate(field, (height, width), mode="bicubic", align_corners=True)
    low, high = total.amin(dim=(2, 3), keepdim=True), total.amax(dim=(2, 3), keepdim=True)
    return (total - low) / (high - low).clamp_min(1e-6)


def _fog(x: Images, strengths: Sequence[float], generators: Generators, scale: float) -> Images:
    weight, decay = strengths
    brightest = x.amax(dim=(1, 2, 3), keepdim=True)
    return (x + weight * _clouds(generators, x, decay)) * brightest / (brightest + weight)


def _frost(x: Images, strengths: Sequence[float], generators: Generators, scale: float) -> Images:
    keep, weight = strengths
    # Crystals: sharp ridges where fractal noise crosses its middle, strongest where a second one is high.
    ridges = (1 - 2 * (_clouds(generators, x, 1.4) - 0.5).abs()) ** 4
    cover = _clouds(generators, x, 2.0)
    ice = (0.35 * cover + 0.65 * ridges * (0.4 + 0.6 * cover)) * torch.tensor([0.86, 0.93, 1.0])[:, None, None]
    return keep * x + weight * ice


def _snow(x: Images, strengths: Sequence[float], generators: Generators, scale: float) -> Images:
    threshold, reach, spread, keep = strengths
    height, width = x.shape[-2:]
    flakes = (max(2, round(height / max(1.0, 2 * scale))), max(2, round(width / max(1.0, 2 * scale))))
    layer = _draw(generators, lambda g: g.normal(0.45, 0.15, (1, *flakes)))
    layer = F.interpolate(layer, (height, width), mode="bilinear", align_corners=False)
    layer = torch.where(layer > threshold, layer, 0.0)
    angles = _draw(generators, lambda g: g.uniform(-3 * math.pi / 4, -math.pi / 4, ()))
    layer = _filter(layer, _line_kernels(angles, reach * scale, spread * scale))
    grey = (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1, keepdim=True)
    whitened = keep * x + (1 - keep) * torch.maximum(x, 1.5 * grey + 0.5)
    return whitened + layer + layer.rot90(2, dims=(2, 3))


def _brightness(x: Images, strengths: Sequence[float], generators: Generators, scale: float) -> Images:
    value = x.amax(dim=1, keepdim=True)  # V of HSV; hue and saturation stay
    brighter = (value + strengths[0]).clamp_max(1)
    return torch.where(value > 0, x * brighter / value.clamp_min(1e-6), brighter)


# --- digital -----------------------------------------------------------------------------------------------


def _contrast(x: Images, strengths: Sequence[float], generators: Generators, scale: float) -> Images:
    mean = x.mean(dim=(2, 3), keepdim=True)
    return (x - mean) * strengths[0] + mean


def _elastic_transform(x: Images, strengths: Sequence[float], generators: Generators, scale: float) -> Images:
    size, smoothness = strengths[0] * scale, strengths[1] * scale
    height, width = x.shape[-2:]
    moves = _draw(generators, lambda g: g.standard_normal((2, height, width)))
    moves = _filter(moves, _gaussian_kernel(smoothness))
    moves = moves / moves.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-6) * size
    shift = torch.stack([2 * moves[:, 0] / width, 2 * moves[:, 1] / height], dim=-1)
    return _sample(x, _grid(x) + shift)


def _pixelate(x: Images, strengths: Sequence[float], generators: Generators, scale: float) -> Images:
    height, width = x.shape[-2:]
    small = max(1, int(height * strengths[0])), max(1, int(width * strengths[0]))
    return F.interpolate(F.adaptive_avg_pool2d(x, small), (height, width), mode="nearest")


def _jpeg_compression(x: Images, strengths: Sequence[float], generators: Generators, scale: float) -> Images:
    pictures = []
    for picture in _bytes(x):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=int(strengths[0]))
        with Image.open(buffer) as stored:
            pictures.append(np.asarray(stored.convert("RGB")))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


_KINDS: dict[str, Callable[[Images, Sequence[float], Generators, float], Images]] = {
    function.__name__.removeprefix("_"): function
    for function in (
        _gaussian_noise, _shot_noise, _impulse_noise, _defocus_blur, _glass_blur, _motion_blur, _zoom_blur, _snow,
        _frost, _fog, _brightness, _contrast, _elastic_transform, _pixelate, _jpeg_compression,
    )
}  # fmt: skip
