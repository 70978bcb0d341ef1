#!/usr/bin/env bash
# Pillow: `convert("RGB")` turns a 16-bit greyscale picture white.
#
# Expected: a picture of 16 bits keeps its content at 8 bits, as other decoders have it: 65535 becomes 255, 32768 becomes 128.
# Happens:  values are cut off at 255 and not divided by 257: whatever is brighter than 0.4 % of the range is white. No
#           message. torchvision's `ImageFolder`, timm's reader and most data sets call exactly this.
# Matters:  X-ray, microscopy, satellite and depth pictures are stored like this. A model trains on white images, and what
#           accuracy it reaches comes from the few dark pixels.
# Versions: Pillow 13.0.0, NumPy 2.4.6, Python 3.11; PNG and TIFF.
# Seen 2026-11-27:
#   grey.png: mode I;16, read exactly: True; as RGB 99.7% white, mean error 131 of 255
#   grey.tif: mode I;16, read exactly: True; as RGB 99.7% white, mean error 131 of 255
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==13.0.0 numpy==2.4.6 || { echo "not installed"; exit 2; }
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import sys

import numpy as np
from PIL import Image

row, column = np.mgrid[:224, :224]
scene = 0.5 + 0.25 * np.sin(row / 9) + 0.25 * np.cos(column / 13)
grey = (65535 * scene).round().astype(np.uint16)
right = (grey / 257).round()
for name in ("grey.png", "grey.tif"):
    Image.fromarray(grey).save(name)
    opened = Image.open(name)
    exact = np.array_equal(np.asarray(opened), grey)
    seen = np.asarray(opened.convert("RGB"))[..., 0]
    white, error = float((seen == 255).mean()), float(np.abs(seen - right).mean())
    print(f"{name}: mode {opened.mode}, read exactly: {exact}; as RGB {white:.1%} white, mean error {error:.0f} of 255")
    if not (exact and white > 0.95 and (right == 255).mean() < 0.05):
        sys.exit(f"changed: {white:.1%} of {name} is white")
EOF
