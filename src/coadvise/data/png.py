"""PNG files whose profile or texts are larger than Pillow accepts, as editors of photographs write them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from PIL.PngImagePlugin import MAX_TEXT_CHUNK

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"iCCP", b"tEXt", b"zTXt", b"iTXt")
_METADATA = (b"XML:com.adobe.xmp", b"Raw profile type exif")


def without_texts(raw: bytes) -> bytes:
    """The file without colour profile and texts, which change no pixel.

    The metadata that may note an orientation stay, once each, unless they are too large themselves.
    """
    kept, seen = [SIGNATURE], set()
    for name, body, whole in _chunks(raw):
        keyword, _, text = body.partition(b"\0")
        if name in _TEXTS and (keyword not in _METADATA or keyword in seen or not _accepted(name, text)):
            continue
        if name in _TEXTS:
            seen.add(keyword)
        kept.append(whole)
    return b"".join(kept)


def _chunks(raw: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Name, body and all bytes of each chunk; what is cut off or follows the last one comes as it is."""
    at = len(SIGNATURE)
    while at < len(raw):
        end = at + 12 + int.from_bytes(raw[at : at + 4], "big")
        yield raw[at + 4 : at + 8], raw[at + 8 : end - 4], raw[at:end]
        at = end


def _accepted(name: bytes, text: bytes) -> bool:
    """Whether Pillow accepts a text by its size."""
    if name == b"iTXt" and text[:1] == b"\1":
        packed = text[2:].split(b"\0", 2)[-1]
    elif name == b"zTXt":
        packed = text[1:]
    else:
        return len(text) <= 16 * MAX_TEXT_CHUNK  # as it is; Pillow allows 64 times as much in all
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(packed, MAX_TEXT_CHUNK)
    except zlib.error:
        return True  # Pillow passes over it
    return not unpacking.unconsumed_tail
