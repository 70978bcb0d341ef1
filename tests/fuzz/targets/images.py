"""Encoded images of every format that is accepted, through both decoders."""

from __future__ import annotations

import io
import struct
import zlib
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from coadvise.data.decode import decode, decode_pixels
from coadvise.data.views.square import Box, Cut
from fuzz.engine import BrokenPromise, Input, Target
from fuzz.mutate import mutate_bytes

_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def _images() -> list[bytes]:
    """Small images in every format, mode and wrapping that this build of Pillow writes."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    alpha = Image.fromarray(rng.integers(0, 256, (24, 32, 4), dtype=np.uint8))
    grey, palette = rgb.convert("L"), rgb.convert("P")
    deep = Image.fromarray(rng.integers(0, 65536, (24, 32), dtype=np.uint16))
    real = Image.fromarray(rng.random((24, 32), dtype=np.float32))
    exif = Image.Exif()
    exif[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b" * 100, zip=True)
    text.add_itxt("XML:com.adobe.xmp", _XMP.decode())
    wanted: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (rgb, "JPEG", {}), (rgb, "JPEG", {"progressive": True, "quality": 50, "subsampling": 2}), (grey, "JPEG", {}),
        (rgb, "JPEG", {"exif": exif}), (rgb, "JPEG", {"xmp": _XMP, "comment": b"x" * 99}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "PNG", {}), (alpha, "PNG", {}), (palette, "PNG", {"transparency": 3}), (deep, "PNG", {}),
        (rgb, "PNG", {"exif": exif, "pnginfo": text}), (rgb.convert("1"), "PNG", {}),
        (grey, "PNG", {"transparency": 9}),
        (rgb, "WEBP", {}), (alpha, "WEBP", {"lossless": True, "exif": exif}), (palette, "GIF", {}),
        (palette, "GIF", {"save_all": True, "append_images": [grey.convert("P")], "transparency": 1}), (rgb, "BMP", {}),
        (palette, "BMP", {}), (rgb, "TIFF", {"compression": "tiff_lzw"}), (rgb, "TIFF", {"compression": "jpeg"}),
        (deep, "TIFF", {"compression": "tiff_deflate"}), (real, "TIFF", {}), (alpha, "TIFF", {"exif": exif}),
        (rgb, "PPM", {}), (deep, "PPM", {}), (grey, "PPM", {}), (rgb, "JPEG2000", {}),
        (alpha, "JPEG2000", {"no_jp2": True}),
        (rgb, "AVIF", {"speed": 10}), (rgb, "TGA", {"compression": "tga_rle"}), (rgb, "ICO", {"sizes": [(16, 16)]}),
        (rgb, "DIB", {}),
    ]  # fmt: skip
    Image.init()
    found = []
    for image, kind, options in wanted:
        if kind in Image.SAVE and kind in Image.OPEN:
            file = io.BytesIO()
            image.save(file, kind, **options)
            found.append(file.getvalue())
    return found


_SIDES = (0, 1, 2, 3_000, 13_000, 60_000, 2**24, 2**31 - 1)


def image(folder: Path) -> Target:
    """An encoded image."""
    raw = _images()

    def make(rng: Random) -> Input:
        one = rng.choice(raw)
        if rng.random() < 0.15:
            return {"a.img": _resized(rng, one)}
        if one.startswith(b"\x89PNG") and rng.random() < 0.6:
            return {"a.img": _chunks(rng, one)}
        if one.startswith(b"\xff\xd8") and rng.random() < 0.4:
            return {"a.img": _segments(rng, one)}
        return {"a.img": mutate_bytes(rng, one, raw)}

    def read(place: Path) -> None:
        content, what = (place / "a.img").read_bytes(), str(place / "a.img")
        needed = lambda width, height: min(width, height) / 8
        first = _form(decode(content, what))  # and not the image: one at a time is in memory
        second = _form(decode_pixels(content, what))
        if first != second or first[0] != "RGB" or min(first[1:]) < 1:
            raise BrokenPromise(f"{first} from one decoder, {second} from the other")
        decode_pixels(content, what, needed)
        part = decode_pixels(content, what, None, lambda width, height: (height // 3, width // 3, 1 + height // 3, 1))
        if isinstance(part, Cut) and (part.pixels[..., :3] != _column(decode(content, what), part.box)).any():
            raise BrokenPromise("a part has other pixels than the whole")

    return Target([{"a.img": one} for one in raw], make, read)


def _column(image: Image.Image, box: Box) -> np.ndarray:
    top, left, height, width = box
    return np.asarray(image.crop((left, top, left + width, top + height)))


def _form(image: Image.Image | np.ndarray) -> tuple[str, int, int]:
    """Mode, width and height."""
    if isinstance(image, Image.Image):
        return image.mode, image.width, image.height
    height, width, colours = image.shape
    return "RGB" if colours == 3 and image.dtype == np.uint8 else str(image.dtype), width, height


def _resized(rng: Random, raw: bytes) -> bytes:
    """Another width or height in the header, wherever it says 32 or 24."""
    codes = [(code, struct.pack(code, side)) for code in ("<H", ">H", "<I", ">I") for side in (32, 24)]
    places = [(at, code) for code, said in codes for at in range(256) if raw[at : at + len(said)] == said]
    out = bytearray(raw)
    for at, code in rng.sample(places, min(len(places), rng.choice((1, 2, 3)))):
        struct.pack_into(code, out, at, rng.choice(_SIDES[: 6 if code[1] == "H" else len(_SIDES)]))
    if raw.startswith(b"\x89PNG"):  # the checksum of the first chunk
        out[29:33] = struct.pack(">I", zlib.crc32(bytes(out[12:29])))
    return bytes(out)


def _chunks(rng: Random, raw: bytes) -> bytes:
    """A PNG with chunks changed, doubled, moved or left out; lengths and checksums are right."""
    chunks, at = [], 8
    while at + 8 <= len(raw):
        (length,) = struct.unpack(">I", raw[at : at + 4])
        chunks.append((raw[at + 4 : at + 8], raw[at + 8 : at + 8 + length]))
        at += 12 + length
    for _ in range(rng.choice((1, 1, 2))):
        place, way = rng.randrange(len(chunks)), rng.randrange(6)
        name, content = chunks[place]
        if way < 2:
            chunks[place] = (name, mutate_bytes(rng, content) if content else b"x")
        elif way < 4:
            chunks.insert(rng.randint(0, len(chunks)), chunks[place])
        elif way == 4 and len(chunks) > 1:
            chunks.pop(place)
        else:  # little that unpacks to much
            text = _packed(rng.choice((10, 2_000_000, 90_000_000)))
            chunks.insert(1, (rng.choice((b"zTXt", b"iCCP")), b"a\0\0" + text))
    body = [
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    ]
    return raw[:8] + b"".join(body)


@lru_cache
def _packed(size: int) -> bytes:
    return zlib.compress(b"a" * size, 1)


def _segments(rng: Random, raw: bytes) -> bytes:
    """A JPEG with a segment changed, doubled or left out; lengths are right."""
    segments, at = [], 2
    while raw[at : at + 1] == b"\xff" and raw[at + 1] not in (0xD9, 0xDA):
        (length,) = struct.unpack(">H", raw[at + 2 : at + 4])
        segments.append((raw[at : at + 2], raw[at + 4 : at + 2 + length]))
        at += 2 + length
    place, way = rng.randrange(len(segments)), rng.randrange(4)
    name, content = segments[place]
    if way < 2:
        segments[place] = (name, (mutate_bytes(rng, content) if content else b"x")[:65533])
    elif way == 2:
        segments.insert(rng.randint(0, len(segments)), segments[place])
    else:
        segments.pop(place)
    return raw[:2] + b"".join(n + struct.pack(">H", len(c) + 2) + c for n, c in segments) + raw[at:]
