"""PNG files whose profile or texts are larger than Pillow accepts, as editors of photographs write them."""

from __future__ import annotations

from collections.abc import Iterator

from PIL.PngImagePlugin import MAX_TEXT_CHUNK

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"iCCP", b"tEXt", b"zTXt", b"iTXt")
_XMP = b"XML:com.adobe.xmp\0\0"


def without_texts(raw: bytes) -> bytes:
    """The file without colour profile and texts, which change no pixel.

    The first packet of XMP stays, which may note an orientation, unless it is compressed or too large itself.
    """
    kept, has_xmp = [SIGNATURE], False
    for name, body, whole in _chunks(raw):
        if name in _TEXTS:
            if has_xmp or not body.startswith(_XMP) or len(body) > MAX_TEXT_CHUNK:
                continue
            has_xmp = True
        kept.append(whole)
    return b"".join(kept)


def _chunks(raw: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Name, body and all bytes of each chunk; what is cut off or follows the last one comes as it is."""
    at = len(SIGNATURE)
    while at < len(raw):
        end = at + 12 + int.from_bytes(raw[at : at + 4], "big")
        yield raw[at + 4 : at + 8], raw[at + 8 : end - 4], raw[at:end]
        at = end
