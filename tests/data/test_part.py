"""A part of a JPEG decoded alone, against the whole as simplejpeg and Pillow decode it."""

from __future__ import annotations

import ctypes
import io

import numpy as np
import pytest
from PIL import Image

from coadvise.data import decode as decoding
from coadvise.data import part as module
from coadvise.data.decode import decode, decode_pixels
from coadvise.data.loader import TrainLoader
from coadvise.data.part import PartDecoder, part_decoder
from coadvise.data.sources.opening import open_source
from coadvise.data.views.square import Cut
from coadvise.errors import DataError
from coadvise.recipe.schema import Data
from coadvise.system.native import compiler

simplejpeg = pytest.importorskip("simplejpeg", reason="simplejpeg is not installed, Pillow decodes everything")
pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")


@pytest.fixture(scope="module")
def decoder() -> PartDecoder:
    if module._functions() is None:
        pytest.skip("Pillow's libjpeg cannot be called here")
    found = part_decoder()
    assert found is not None, "the normal case falls back"
    return found


def encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def boxes(generator: np.random.Generator, width: int, height: int, count: int) -> list[tuple[int, int, int, int]]:
    """Random boxes, and those at the borders."""
    found = [(0, 0, height, width), (height - 1, width - 1, 1, 1), (0, width - 1, height, 1), (height - 1, 0, 1, width)]
    for _ in range(count):
        top, left = int(generator.integers(height)), int(generator.integers(width))
        sides = int(generator.integers(height - top)) + 1, int(generator.integers(width - left)) + 1
        found.append((top, left, *sides))
    return found


OPTIONS = [
    {"quality": 30}, {"quality": 98, "optimize": True}, {"quality": 80, "progressive": True},
    {"quality": 80, "restart_marker_blocks": 3},
]  # fmt: skip


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411"])
def test_random_parts_have_the_pixels_of_the_whole(decoder, photo, subsampling):
    generator = np.random.default_rng(int(subsampling))
    for width, height in ((203, 151), (64, 97), (17, 16), (9, 33), (1, 5), (90, 3)):
        picture = photo(3, (width, height))
        files = [simplejpeg.encode_jpeg(np.array(picture), 85, "RGB", subsampling)]
        if subsampling in ("444", "422", "420"):
            files += [encoded(picture, subsampling=":".join(subsampling), **options) for options in OPTIONS]
        for raw in files:
            whole = simplejpeg.decode_jpeg(raw, "RGB")
            assert (whole == np.asarray(Image.open(io.BytesIO(raw)))).all()
            for box in boxes(generator, width, height, 25):
                top, left, rows, columns = box
                part = decoder(raw, width, box)
                assert part is not None and part.flags.c_contiguous
                assert (part[..., :3] == whole[top : top + rows, left : left + columns]).all(), box


def test_damage_is_found_wherever_it_lies(decoder, photo):
    """A damaged file is refused for any part if it is refused as a whole, also where the damage is below the part."""
    generator, raw = np.random.default_rng(0), encoded(photo(3, (203, 151)), quality=85)
    start, refused = raw.index(b"\xff\xda") + 14, 0
    for trial in range(300):
        damaged = bytearray(raw)
        if trial % 3:
            damaged[int(generator.integers(start, len(raw)))] = int(generator.integers(256))
        else:
            del damaged[int(generator.integers(start, len(raw))) :]
        try:
            simplejpeg.decode_jpeg(bytes(damaged), "RGB", strict=True)
            whole = True
        except ValueError:
            whole = False
        assert (decoder(bytes(damaged), 203, (8, 20, 30, 50)) is not None) is whole
        refused += not whole
    assert 100 < refused < 300


def test_what_does_not_fit_is_refused(decoder, photo):
    picture = photo(3, (60, 40))
    raw = encoded(picture)
    assert decoder(raw, 61, (0, 0, 5, 5)) is None, "another width"
    assert decoder(raw, 60, (30, 0, 11, 5)) is None and decoder(raw, 60, (0, 59, 1, 2)) is None, "beyond the border"
    assert decoder(encoded(picture.convert("L")), 60, (0, 0, 5, 5)) is None
    assert decoder(encoded(picture.convert("CMYK")), 60, (0, 0, 5, 5)) is None
    for nonsense in (b"", b"\xff\xd8", b"no JPEG", raw[:200]):
        assert decoder(nonsense, 60, (0, 0, 5, 5)) is None


def test_a_library_of_another_interface_is_refused(decoder):
    assert {decoder.version} < {62, 80}
    for version, size in ((70, 656), (decoder.version, decoder.size - 8)):
        other = PartDecoder(decoder.code, decoder.functions, version, size)
        assert other(encoded(Image.new("RGB", (40, 40))), 40, (0, 0, 9, 9)) is None and not module._as_the_whole(other)


def test_only_where_the_box_is_wanted_and_decoded_whole(decoder, photo):
    raw, asked = encoded(photo(3, (203, 151))), []

    def box(width: int, height: int) -> tuple[int, int, int, int]:
        asked.append((width, height))
        return 10, 20, 30, 40

    found = decode_pixels(raw, "x", None, box)
    assert isinstance(found, Cut) and found.size == (203, 151) and asked == [(203, 151)]
    assert (found.pixels[..., :3] == np.asarray(decode(raw, "x"))[10:40, 20:60]).all()
    assert isinstance(decode_pixels(raw, "x", lambda w, h: 2.0, box), Image.Image) and len(asked) == 1
    with pytest.raises(DataError, match="x cannot be read as an image"):
        decode_pixels(raw[:-300], "x", None, box)


@pytest.mark.parametrize("options", [{}, {"shrink_on_load": False}, {"resizer": "pillow"}])
def test_training_takes_it_and_gives_the_same_images(decoder, shared_data, monkeypatch, options):
    source = open_source(str(shared_data / "imagenet1k_samples"), "test")
    data = Data(source="x", image_size=64, workers=0, **options)
    parts: list[object] = []

    def counted(*arguments: object) -> object:
        parts.append(decoder(*arguments))  # type: ignore[arg-type]
        return parts[-1]

    monkeypatch.setattr(decoding, "part_decoder", lambda: counted)
    fast = next(TrainLoader(source, data, 24).epoch(1))
    assert len(parts) >= 12 and all(part is not None for part in parts)
    monkeypatch.setattr(decoding, "part_decoder", lambda: None)
    slow = next(TrainLoader(source, data, 24).epoch(1))
    assert (fast.images == slow.images).all()


def test_no_library_is_no_failure(monkeypatch):
    class Bare:
        def __getattr__(self, name: str) -> object:
            raise AttributeError(name)

    monkeypatch.setattr(ctypes, "CDLL", lambda path: Bare())
    assert module._functions() is None and part_decoder.__wrapped__() is None
