"""Decoding, against images whose pixels are worked out by hand in NumPy."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin, features
from PIL.PngImagePlugin import PngInfo

from coadvise.data import rgb as module
from coadvise.data.decode import decode
from coadvise.errors import DataError


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pixels(raw: bytes | Image.Image) -> np.ndarray:
    image = decode(raw, "test image")
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.fixture
def rgb(photo) -> np.ndarray:
    return np.asarray(photo(1))


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def test_rgb_stays_as_it_is(rgb):
    assert np.array_equal(pixels(encode(Image.fromarray(rgb), "PNG")), rgb)


@pytest.mark.parametrize(
    ("orientation", "undo"),  # what a camera did to the upright picture before it wrote the file
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, 1)),  # to be shown turned clockwise, hence stored turned counter-clockwise
        (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a, -1)),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_exif_orientation(rgb, orientation, undo, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo(rgb)))
    options = {"PNG": {}, "JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}[kind]
    got = pixels(encode(stored, kind, exif=exif, **options))
    assert got.shape == rgb.shape
    assert np.abs(got.astype(int) - rgb).max() <= (6 if kind == "JPEG" else 0)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("note", ["exif", "xmp"])
def test_orientation_as_pillow_applies_it(rgb, kind, note):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this build of Pillow has no AVIF")
    for turn in (1, 3, 6):
        exif = Image.Exif()
        exif[0x0112] = turn
        packet = f'<x tiff:Orientation="{turn}"/>'
        options: dict = {"exif": exif} if note == "exif" else {"xmp": packet.encode()}
        if kind == "TIFF":
            options = options if note == "exif" else {"tiffinfo": {700: packet.encode()}}
        if kind == "PNG" and note == "xmp":
            info = PngInfo()
            info.add_itxt("XML:com.adobe.xmp", packet)
            options = {"pnginfo": info}
        raw = encode(Image.fromarray(rgb), kind, **options)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(raw))).convert("RGB"))
        assert np.array_equal(pixels(raw), expected), turn


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_exif_block_does_not_matter(rgb):
    raw = encode(Image.fromarray(rgb), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\xff\xff\xff\xff\xff")
    assert np.array_equal(pixels(raw), rgb)


def test_greyscale_1_bit_and_palette(rgb):
    level = rgb[..., 0]
    assert np.array_equal(pixels(encode(Image.fromarray(level), "PNG")), grey(level))
    black = level > 128
    assert np.array_equal(pixels(encode(Image.fromarray(black), "PNG")), grey(black * 255))
    palette = Image.fromarray(rgb).quantize(16)
    colours = np.array(palette.getpalette()).reshape(-1, 3)
    expected = colours[np.asarray(palette)]
    assert np.array_equal(pixels(encode(palette, "PNG")), expected)
    assert np.array_equal(pixels(encode(palette, "GIF")), expected)


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


def test_transparency_lies_on_white(rgb):
    alpha = np.linspace(0, 255, rgb[..., 0].size).reshape(rgb.shape[:2]).round().astype(np.uint8)
    got = pixels(encode(Image.fromarray(np.dstack([rgb, alpha])), "PNG"))
    assert np.abs(got - over_white(rgb, alpha)).max() <= 1
    level = rgb[..., :1]
    got = pixels(encode(Image.fromarray(np.dstack([level, alpha])), "PNG"))
    assert np.abs(got - over_white(np.repeat(level, 3, 2), alpha)).max() <= 1


def test_palette_with_transparency(rgb):
    palette = Image.fromarray(rgb).quantize(16)
    indices = np.asarray(palette)
    expected = np.array(palette.getpalette()).reshape(-1, 3)[indices]
    one = expected.copy()
    one[indices == 3] = 255
    for kind in ("PNG", "GIF"):
        got = pixels(encode(palette, kind, transparency=3))
        assert np.array_equal(got[indices != 3], one[indices != 3])
        assert (got[indices == 3] == 255).all()
    alphas = bytes(range(0, 256, 17))
    got = pixels(encode(palette, "PNG", transparency=alphas))
    assert np.abs(got - over_white(expected, np.frombuffer(alphas, np.uint8)[indices])).max() <= 1


def test_colour_key_transparency(rgb):
    key = tuple(int(value) for value in rgb[0, 0])
    got = pixels(encode(Image.fromarray(rgb), "PNG", transparency=key))
    keyed = (rgb == rgb[0, 0]).all(2)
    assert (got[keyed] == 255).all() and np.array_equal(got[~keyed], rgb[~keyed])


def test_cmyk_jpeg(rgb):
    cmyk = np.dstack([255 - rgb, np.full(rgb.shape[:2], 40, np.uint8)])
    expected = rgb * (1 - 40 / 255)
    raw = encode(Image.fromarray(cmyk, "CMYK"), "JPEG", quality=100)
    assert b"Adobe" in raw  # inverted, as Photoshop writes it
    assert np.abs(pixels(raw) - expected).max() <= 6
    assert np.abs(pixels(encode(Image.fromarray(cmyk, "CMYK"), "TIFF")) - expected).max() <= 1


def test_ycck_jpeg(rgb):
    """YCCK is CMYK whose first three planes went through YCbCr; no writer here makes it, so patch a CMYK file."""
    ycc = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    planes = np.dstack([ycc, np.full(rgb.shape[:2], 255 - 40, np.uint8)])
    # Pillow inverts on writing, so the file holds exactly these planes, with K inverted as Adobe does.
    raw = encode(Image.fromarray(255 - planes, "CMYK"), "JPEG", quality=100)
    marker = raw.index(b"Adobe") + 11
    assert raw[marker] == 0
    raw = raw[:marker] + b"\x02" + raw[marker + 1 :]
    # libjpeg turns YCC back into 255 − RGB = CMY, which Adobe stores inverted once more.
    assert np.abs(pixels(raw) - (255 - rgb) * (1 - 40 / 255)).max() <= 10


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_greyscale_is_scaled_not_clipped(kind):
    values = np.linspace(0, 65535, 48 * 32).reshape(32, 48).round().astype(np.uint16)
    got = pixels(encode(Image.fromarray(values), kind))
    assert np.array_equal(got, grey(np.rint(values / 257)))
    dark = values // 64  # a dark image stays dark: the range is the format's, not the picture's
    assert pixels(encode(Image.fromarray(dark), kind)).max() == round(1023 / 257)


def png(values: np.ndarray, depth: int, colour: int, key: np.ndarray | None = None) -> bytes:
    """A PNG written by hand: values (h, w, channels) of `depth` bits, and the colour that is transparent."""
    height, width = values.shape[:2]
    if depth < 8:
        bits = (values[..., 0, None] >> np.arange(depth)[::-1]) & 1
        rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    else:
        rows = values.astype(">u2" if depth == 16 else "u1").reshape(height, -1)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))]
    chunks += [(b"tRNS", key.astype(">u2").tobytes())] if key is not None else []
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


GREY, COLOUR, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 4, 6


def test_16_bit_colour_png():
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, 3))
    assert np.abs(pixels(png(values, 16, COLOUR)).astype(float) - values / 257).max() <= 1


@pytest.mark.parametrize(
    ("colour", "depth", "key"),
    [
        *((GREY, depth, True) for depth in (1, 2, 4, 16)),
        (COLOUR, 16, True),
        (GREY_ALPHA, 16, False),
        (COLOUR_ALPHA, 16, False),
    ],
)
def test_transparency_is_the_same_at_every_depth(colour, depth, key):
    """Against the same picture written with 8 bits."""
    channels = {GREY: 1, COLOUR: 3, GREY_ALPHA: 2, COLOUR_ALPHA: 4}[colour]
    top, low = 2 ** min(depth, 8) - 1, np.random.default_rng(1)
    levels = np.random.default_rng(0).integers(0, top + 1, (9, 11, channels))
    levels[2, 1:4] = levels[0, 0]
    stored = levels
    if depth == 16:
        # Below half a step, so that rounding to 8 bits gives the levels back; one value is one colour's throughout.
        stored = np.minimum(levels * 257 + low.integers(0, 100, 256)[levels], 65535)
    expected = pixels(png(levels * (255 // top), 8, colour, levels[0, 0] * (255 // top) if key else None))
    got = pixels(png(stored, depth, colour, stored[0, 0] if key else None))
    assert np.abs(got.astype(int) - expected).max() <= (2 if depth == 16 else 0)
    if key:
        assert (got[2, 1:4] == 255).all() and (got != 255).any()


def test_big_endian_and_white_is_zero_tiff():
    values = np.arange(0, 65536, 4096, dtype=np.uint16).reshape(4, 4)
    expected = grey(np.rint(values / 257))
    assert np.array_equal(pixels(tiff(values.astype(">u2"), 16, big=True)), expected)
    assert np.array_equal(pixels(tiff(values, 16, photometric=0)), 255 - expected)


def test_32_bit_integer_tiff():
    unsigned = np.array([[0, 2**31, 2**32 - 1, 2**30]], dtype=np.uint32)
    assert pixels(tiff(unsigned, 32))[0, :, 0].tolist() == [0, 128, 255, 64]
    signed = np.array([[0, 2**30, 2**31 - 1, -5]], dtype=np.int32)
    assert pixels(tiff(signed, 32, sample_format=2))[0, :, 0].tolist() == [0, 128, 255, 0]


def tiff(values: np.ndarray, bits: int, *, big: bool = False, photometric: int = 1, sample_format: int = 1) -> bytes:
    """A minimal uncompressed greyscale TIFF, written by hand."""
    order = ">" if big else "<"
    height, width = values.shape
    body = values.tobytes()
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1)]
    tags += [(278, height), (279, len(body)), (339, sample_format)]
    out = (b"MM\0*" if big else b"II*\0") + struct.pack(order + "I", 8 + len(body)) + body
    out += struct.pack(order + "H", len(tags))
    for tag, value in tags:
        out += struct.pack(order + "HHII", tag, 4, 1, value)
    return out + struct.pack(order + "I", 0)


def test_float_tiff():
    unit = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    expected = grey(np.rint(unit * 255))
    assert np.array_equal(pixels(encode(Image.fromarray(unit), "TIFF")), expected)
    assert np.array_equal(pixels(encode(Image.fromarray(unit * 255), "TIFF")), expected)
    assert np.array_equal(pixels(encode(Image.fromarray(unit * 6 - 3), "TIFF")), expected)  # no known range
    unit[0, 1] = np.nan
    assert pixels(encode(Image.fromarray(unit), "TIFF"))[0, 1].tolist() == [0, 0, 0]


def test_decoded_images_are_accepted_and_not_changed(rgb):
    image = Image.fromarray(rgb[..., 0])
    assert np.array_equal(pixels(image), grey(rgb[..., 0]))
    assert image.mode == "L"


def test_unreadable_images_are_named(photo):
    jpeg = encode(photo(2, (64, 64)), "JPEG")
    png = encode(photo(2, (64, 64)), "PNG")
    for raw, word in (
        (b"", "empty"),
        (b"<html>not found</html>", "no known image format"),
        (jpeg[: len(jpeg) // 2], "truncated"),
        (png[: len(png) // 2], ""),
        (png[:20], ""),
        (png[:60] + bytes(40) + png[100:], ""),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n", "no known image format"),
    ):
        with pytest.raises(DataError, match=r"holiday\.jpg") as caught:
            decode(raw, "photos/holiday.jpg")
        assert word in str(caught.value).lower() and "\n" not in str(caught.value)


def test_a_decompression_bomb_is_refused(monkeypatch, photo):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"x\.png is too large"):
        decode(encode(photo(), "PNG"), "x.png")


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG2000"])
def test_formats_that_take_much_memory_may_have_half_the_pixels(kind, rgb, monkeypatch):
    raw = encode(Image.fromarray(rgb), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(rgb[..., 0].size * 0.7))
    if kind == "PNG":
        assert pixels(raw).shape == rgb.shape
        return
    with pytest.raises(DataError, match=r"too large to be a normal image \(1280 pixels.*; shrink it"):
        pixels(raw)


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_png_with_a_large_profile_and_large_texts(rgb, place, monkeypatch):
    """They stand before the pixels or after them; the orientation is that of a small packet beside them."""
    large = zlib.compress(bytes(1_100_000))
    packet = b'<x tiff:Orientation="6"/>'
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 500_000)
    extra = [
        (b"iCCP", b"profile\0\0" + large),
        (b"zTXt", b"Comment\0\0" + large),
        (b"iTXt", b"Comment\0\1\0\0\0" + large),
        *[(b"tEXt", b"Comment%d\0" % number + bytes(100_000)) for number in range(7)],
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + large),
    ]
    plain = encode(Image.fromarray(rgb), "PNG")
    cut = plain.index(b"IDAT") - 4 if place == "before" else len(plain) - 12
    for parts in (extra[:1], extra[1:2], extra[2:3], extra[3:10], extra):
        raw = plain[:cut] + b"".join(chunk(*each) for each in parts) + plain[cut:]
        with pytest.raises(ValueError, match="MAX_TEXT"):
            Image.open(io.BytesIO(raw)).load()
        assert np.array_equal(pixels(raw), np.rot90(rgb, -1) if parts is extra else rgb)
    with pytest.raises(DataError, match="test image cannot be read"):
        pixels(raw[: cut + 200] if place == "before" else raw[:60] + raw[100:])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "I", "F", "CMYK"])
def test_large_images_are_converted_by_tiles(mode, rgb, monkeypatch):
    level = Image.fromarray(rgb[..., 0])
    image = level.convert(mode) if mode != "I;16" else Image.fromarray(rgb[..., 0].astype(np.uint16) * 200)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(rgb[..., 1]))
    if mode == "P":
        image.info["transparency"] = 7
    whole = pixels(image)
    for tile in (1, 7, 100, image.width):
        monkeypatch.setattr(module, "_TILE", tile)
        assert np.array_equal(pixels(image), whole)


def test_real_photographs(shared_data):
    import pyarrow.parquet as pq

    file = shared_data / "imagenet1k_samples" / "test-00000-of-00001.parquet"
    for row in pq.read_table(file).slice(0, 40).to_pylist():
        expected = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))
        got = pixels(row["image"]["bytes"])
        if got.shape == expected.shape:
            assert np.array_equal(got, expected)
