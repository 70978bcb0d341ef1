#!/usr/bin/env bash
# Pillow: the transparent colour of a PNG is forgotten at 2, 4 and 16 bits, and kept at 8.
#
# Expected: a PNG may name one colour that is transparent (tRNS). The same picture, written with 2, 4, 8 or 16 bits a channel,
#           is transparent in the same places.
# Happens:  pixels are brought to 8 bits, the colour is not: at 2 and 4 bits it is compared unscaled, at 16 bits in colour by
#           its lower byte, and for 16-bit grey it is not looked at. `convert("RGBA")` says "opaque" without a word.
# Matters:  cut-out products, icons, scans and microscope pictures get their hidden background back, and a classifier learns
#           the background; the same file saved again with 8 bits is another picture to it.
# Versions: Pillow 13.0.0, numpy 2.4.6, Python 3.11.
# Seen 2026-11-27:
#   grey, 2 bits: transparent 0 of 4 pixels, should be 1
#   grey, 4 bits: transparent 0 of 4 pixels, should be 1
#   grey, 8 bits: transparent 1 of 4 pixels, should be 1
#   grey, 16 bits: transparent 0 of 4 pixels, should be 1
#   colour, 8 bits: transparent 1 of 2 pixels, should be 1
#   colour, 16 bits: transparent 0 of 2 pixels, should be 1
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==13.0.0 numpy==2.4.6 || { echo "not installed"; exit 2; }
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import io
import struct
import sys
import zlib

import numpy as np
from PIL import Image

GREY, COLOUR = 0, 2


def png(row: bytes, width: int, depth: int, kind: int, key: bytes) -> bytes:
    """One row of pixels as a PNG in which the colour `key` is transparent."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0))
    body = chunk(b"tRNS", key) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + body


# Four greys, the second one transparent; black and (0x1234, …), the latter transparent.
pictures = {
    "grey, 2 bits": png(bytes([0b00_01_10_11]), 4, 2, GREY, struct.pack(">H", 1)),
    "grey, 4 bits": png(bytes([0x05, 0xAF]), 4, 4, GREY, struct.pack(">H", 5)),
    "grey, 8 bits": png(bytes([0, 85, 170, 255]), 4, 8, GREY, struct.pack(">H", 85)),
    "grey, 16 bits": png(struct.pack(">4H", 0, 21845, 43690, 65535), 4, 16, GREY, struct.pack(">H", 21845)),
    "colour, 8 bits": png(bytes([0] * 3 + [0x12] * 3), 2, 8, COLOUR, struct.pack(">3H", *[0x12] * 3)),
    "colour, 16 bits": png(struct.pack(">6H", *[0] * 3, *[0x1234] * 3), 2, 16, COLOUR, struct.pack(">3H", *[0x1234] * 3)),
}
found = {}
for name, raw in pictures.items():
    alpha = np.asarray(Image.open(io.BytesIO(raw)).convert("RGBA"))[..., 3]
    found[name] = int((alpha == 0).sum())
    print(f"{name}: transparent {found[name]} of {alpha.size} pixels, should be 1")
if list(found.values()) != [0, 0, 1, 0, 1, 0]:
    sys.exit("changed: " + str(found))
EOF
