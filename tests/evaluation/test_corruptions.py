"""Corruptions against computations of other libraries, and what must hold for all of them."""

from __future__ import annotations

import colorsys
import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from coadvise.evaluation.corruptions import CORRUPTIONS, LARGE, SEVERITIES, STRENGTHS, corrupt

GENERATOR = np.random.default_rng(0)


def smooth(n: int, side: int) -> np.ndarray:
    """Colourful images with structure at several scales."""
    coarse = GENERATOR.random((n, 4, 4, 3))
    pictures = [
        np.asarray(Image.fromarray((255 * c).astype(np.uint8)).resize((side, side), Image.BICUBIC)) for c in coarse
    ]
    return np.stack(pictures)


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("side", [8, 32, 160])
def test_form_and_keys(kind: str, side: int) -> None:
    images = smooth(6, side)
    before = images.copy()
    whole = corrupt(images, kind, 3, seed=1)
    assert whole.shape == images.shape and whole.dtype == np.uint8
    assert (images == before).all()
    parts = [corrupt(images[a:b], kind, 3, seed=1, first=a) for a, b in ((0, 1), (1, 4), (4, 6))]
    assert (np.concatenate(parts) == whole).all(), "an image's corruption does not depend on its batch"


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("side", [32, 160])
def test_each_severity_takes_images_further_away(kind: str, side: int) -> None:
    images = smooth(8, side)
    apart = [np.abs(corrupt(images, kind, s).astype(float) - images).mean() for s in SEVERITIES]
    assert min(apart) > 0
    # The published strengths of glass trade blur for moves, those of frost on small images light for ice.
    if kind not in ("glass_blur", "frost"):
        assert apart[4] > apart[2] > apart[0]


@pytest.mark.parametrize("kind", ["gaussian_noise", "snow", "fog", "elastic_transform"])
def test_seeds_and_images_differ(kind: str) -> None:
    images = np.repeat(smooth(1, 32), 2, axis=0)
    one, two = corrupt(images, kind, 3, seed=0), corrupt(images, kind, 3, seed=1)
    assert (one != two).any() and (one[0] != one[1]).any()
    assert (corrupt(images, kind, 2, seed=0) != one).any()


def test_fifteen_kinds_in_four_categories() -> None:
    assert len(CORRUPTIONS) == 15 and set(CORRUPTIONS) == set(STRENGTHS)
    assert set(CORRUPTIONS.values()) == {"noise", "blur", "weather", "digital"}
    assert all(len(sizes) == 5 for pair in STRENGTHS.values() for sizes in pair)


@pytest.mark.parametrize(("side", "sigmas"), [(160, (0.08, 0.12, 0.18)), (32, (0.04, 0.06, 0.08))])
def test_gaussian_noise_has_the_published_spread(side: int, sigmas: tuple[float, ...]) -> None:
    grey = np.full((200 if side < LARGE else 4, side, side, 3), 128, np.uint8)
    for severity, sigma in enumerate(sigmas, start=1):
        noise = corrupt(grey, "gaussian_noise", severity).astype(float) / 255 - 128 / 255
        assert noise.std() == pytest.approx(sigma, rel=0.02)
        assert noise.mean() == pytest.approx(0, abs=0.002)


def test_shot_noise_is_poisson() -> None:
    grey = np.full((200, 32, 32, 3), 102, np.uint8)
    found = corrupt(grey, "shot_noise", 3).astype(float) / 255
    assert found.var() == pytest.approx(0.4 / 100, rel=0.03)  # mean of counts ÷ photons²
    assert found.mean() == pytest.approx(0.4, abs=0.002)


def test_impulse_noise_is_salt_and_pepper() -> None:
    grey = np.full((4, 160, 160, 3), 128, np.uint8)
    found = corrupt(grey, "impulse_noise", 4)
    assert set(np.unique(found)) == {0, 128, 255}
    assert (found == 0).mean() == pytest.approx(0.085, rel=0.05)
    assert (found == 255).mean() == pytest.approx(0.085, rel=0.05)


def test_brightness_adds_to_the_value_of_hsv() -> None:
    images = GENERATOR.integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    images[0, 0, 0] = 0
    found = corrupt(images, "brightness", 4).reshape(-1, 3)
    for pixel, got in zip(images.reshape(-1, 3), found, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        wanted = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1))
        assert np.abs(np.array(wanted) * 255 - got).max() <= 0.51


def test_contrast_shrinks_towards_the_mean() -> None:
    images = smooth(2, 32)
    for picture, got in zip(images, corrupt(images, "contrast", 2), strict=True):
        mean = picture.reshape(-1, 3).mean(axis=0)
        assert np.abs((picture - mean) * 0.5 + mean - got).max() <= 0.51


def test_jpeg_is_pillows() -> None:
    images = smooth(2, 32)
    for picture, got in zip(images, corrupt(images, "jpeg_compression", 5), strict=True):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=40)
        assert (np.asarray(Image.open(buffer)) == got).all()


def test_pixelate_averages_blocks() -> None:
    images = smooth(1, 160)
    got = corrupt(images, "pixelate", 5)[0].astype(float)  # a quarter of the side: blocks of 4 × 4
    blocks = images[0].astype(float).reshape(40, 4, 40, 4, 3).mean(axis=(1, 3))
    assert np.abs(np.kron(blocks, np.ones((4, 4, 1))) - got).max() <= 0.51


def test_defocus_is_a_disk() -> None:
    image = np.zeros((1, 224, 224, 3), np.uint8)
    image[0, 112, 112] = 255
    image[0] = (ndimage.grey_dilation(image[0], size=(5, 5, 1))).astype(np.uint8)
    got = corrupt(image, "defocus_blur", 3)[0, :, :, 0].astype(float)
    place = np.arange(-8, 9)
    disk = (np.hypot(place[:, None], place) <= 6).astype(float)
    wanted = ndimage.convolve(image[0, :, :, 0].astype(float), disk / disk.sum(), mode="mirror")
    assert np.abs(got - wanted).max() < 0.12 * wanted.max()
    assert got.sum() == pytest.approx(wanted.sum(), rel=0.05)


def test_motion_blur_keeps_what_runs_along_it() -> None:
    """A blurred image varies less across than the original in at least one direction, and its mean stays."""
    images = smooth(4, 64)
    got = corrupt(images, "motion_blur", 5).astype(float)
    assert np.abs(got.mean(axis=(1, 2)) - images.mean(axis=(1, 2))).max() < 12
    assert (got.std(axis=(1, 2)) < images.std(axis=(1, 2)) + 1).all()


def test_motion_blur_runs_to_both_sides_of_a_pixel() -> None:
    image = np.zeros((3, 65, 65, 3), np.uint8)
    image[:, 32, 32] = 255
    for severity in (1, 5):
        got = corrupt(image, "motion_blur", severity).astype(int)
        assert np.abs(got - np.rot90(got, 2, axes=(1, 2))).max() <= 1 and (got[:, 32, 32] == got.max(axis=(1, 2))).all()


@pytest.mark.parametrize(("side", "ends"), [(224, (1.1, 1.15, 1.2, 1.24, 1.3)), (32, (1.06, 1.11, 1.16, 1.21, 1.26))])
def test_zoom_blur_ends_at_its_largest_factor(side: int, ends: tuple[float, ...]) -> None:
    """A column at the border becomes the mean of where each factor finds it, by linear interpolation."""
    image = np.zeros((1, side, side, 3), np.uint8)
    image[0] = np.linspace(0, 255, side).astype(np.uint8)[:, None]
    for severity, end, (_, step) in zip(SEVERITIES, ends, STRENGTHS["zoom_blur"][side < LARGE], strict=True):
        factors = np.append(1, np.linspace(1, end, round((end - 1) / step) + 1))  # 1 is the image itself
        found = np.interp((side - 1) / 2 * (1 + 1 / factors), np.arange(side), image[0, 0, :, 0])
        got = corrupt(image, "zoom_blur", severity)[0, side // 2, -1, 0]
        assert got == pytest.approx(found.mean(), abs=0.6)


def test_zoom_blur_keeps_the_middle() -> None:
    image = np.zeros((1, 224, 224, 3), np.uint8)
    image[0, 100:124, 100:124] = 255
    got = corrupt(image, "zoom_blur", 5)[0, :, :, 0].astype(float)
    assert got[112, 112] == 255
    assert got[112, 96] > got[112, 90] > 0 or got[112, 96] > 0
    assert got[112, 10] == 0


def test_a_flat_image_stays_flat_where_nothing_is_added() -> None:
    flat = np.full((1, 32, 32, 3), 77, np.uint8)
    for kind in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "contrast", "elastic_transform", "pixelate"):
        assert np.abs(corrupt(flat, kind, 5).astype(int) - 77).max() <= 1, kind
