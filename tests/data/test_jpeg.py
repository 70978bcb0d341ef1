"""JPEG files without Pillow: the same pixels, and Pillow for everything unusual."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from coadvise.data import decode as module
from coadvise.data.decode import decode, decode_pixels
from coadvise.errors import DataError

simplejpeg = pytest.importorskip("simplejpeg", reason="simplejpeg is not installed, Pillow decodes everything")


def encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.fixture
def picture(photo):
    return photo(3, (203, 151))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("options", [{"quality": 30}, {"quality": 95}, {"quality": 80, "progressive": True}])
def test_the_same_pixels_as_pillow(picture, subsampling, options):
    raw = encoded(picture, subsampling=subsampling, **options)
    found = decode_pixels(raw, "x")
    assert isinstance(found, np.ndarray), "the fast way is taken"
    assert (found == np.asarray(decode(raw, "x"))).all()


def test_an_upright_photograph_with_exif_is_fast_and_a_turned_one_upright(picture):
    exif = Image.Exif()
    for orientation, fast in ((1, True), (6, False)):
        exif[0x0112] = orientation
        raw = encoded(picture, exif=exif)
        found = decode_pixels(raw, "x")
        assert isinstance(found, np.ndarray) is fast
        assert (np.asarray(found) == np.asarray(decode(raw, "x"))).all()


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + (len(body) + 2).to_bytes(2, "big") + body


def exif_segment(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return segment(0xE1, exif.tobytes())


def xmp_segment(orientation: int) -> bytes:
    return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + f'<x tiff:Orientation="{orientation}"/>'.encode())


FAR = segment(0xE2, b"thumbnail" + bytes(60_000)) * 2


@pytest.mark.parametrize(
    "metadata",
    [
        lambda turn: exif_segment(turn),
        lambda turn: xmp_segment(turn),
        lambda turn: exif_segment(9) + xmp_segment(turn),  # Exif goes before XMP, even where it is nonsense
        lambda turn: FAR + exif_segment(turn),  # behind the first 64 KiB
        lambda turn: FAR + xmp_segment(turn),
        lambda turn: segment(0xFE, b"\xff\xda, no scan") + exif_segment(turn),
        lambda turn: b"\xff\xff" + exif_segment(turn),  # padding before a segment
    ],
    ids=["exif", "xmp", "both", "far-exif", "far-xmp", "comment", "padding"],
)
def test_training_validation_and_pillow_agree_on_what_is_up(picture, metadata):
    """Wherever the orientation stands, against `ImageOps.exif_transpose`."""
    plain = encoded(picture)
    for turn in range(1, 9):
        raw = plain[:2] + metadata(turn) + plain[2:]
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(raw))))
        assert (np.asarray(decode_pixels(raw, "x")) == expected).all(), turn
        assert (np.asarray(decode(raw, "x")) == expected).all(), turn


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colours_go_pillows_way(picture, mode):
    raw = encoded(picture.convert(mode))
    found = decode_pixels(raw, "x")
    assert isinstance(found, Image.Image) and (np.asarray(found) == np.asarray(decode(raw, "x"))).all()


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_truncated_file_gets_pillows_message(picture, cut):
    raw = encoded(picture)
    raw = raw[: int(cut * len(raw))]
    with pytest.raises(DataError, match="x cannot be read as an image"):
        decode_pixels(raw, "x")


@pytest.mark.parametrize(("factor", "size"), [(1.0, (800, 600)), (2.5, (400, 300)), (9.0, (100, 75))])
def test_how_much_is_needed_is_asked_once_and_answered(picture, factor, size):
    raw, asked = encoded(picture.resize((800, 600))), []

    def needed(width: int, height: int) -> float:
        asked.append((width, height))
        return factor

    found = decode_pixels(raw, "x", needed)
    assert (found.size if isinstance(found, Image.Image) else found.shape[1::-1]) == size
    assert asked == [(800, 600)]


def test_without_simplejpeg_pillow_gives_the_same(picture, monkeypatch):
    raw = encoded(picture)
    fast = decode_pixels(raw, "x")
    monkeypatch.setattr(module, "simplejpeg", None)
    slow = decode_pixels(raw, "x")
    assert isinstance(slow, Image.Image) and (np.asarray(slow) == fast).all()


def test_an_image_too_large_is_refused(picture, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match="too large"):
        decode_pixels(encoded(picture), "x")
