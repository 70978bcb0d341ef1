#!/usr/bin/env bash
# torch: `antialias=True` changes *enlarged* images, too, because it is another bicubic filter.
#
# Expected: anti-aliasing is a matter of making images smaller; where they grow, the switch does nothing.
# Happens:  `interpolate(mode="bicubic")` uses Keys' filter with a = −0.75, with `antialias=True` the one with a = −0.5, which
#           is Pillow's. So the tensor and the Pillow path of a transform differ unless the switch is on, also when a
#           picture is enlarged, and an exported `Resize` (ONNX's default is −0.75) is not what the model was trained with.
# Matters:  32 px images enlarged for a 224 px ViT or teacher: 7 % of the grey range at edges, and overshoot half as large
#           again. A teacher fed from tensors sees other pixels than the accuracy in its model card was measured with.
# Versions: torch 2.15.0, Pillow 13.0.0, Python 3.11.
# Seen 2026-11-27:
#   32 → 224 px, antialias=False: 0.0683 from Pillow, values -0.173 … 1.202
#   32 → 224 px, antialias=True : 0.0000 from Pillow, values -0.116 … 1.133
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6 pillow==13.0.0 || { echo "not installed"; exit 2; }
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import sys

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

row, column = np.mgrid[:32, :32]
disc = (np.hypot(row - 15, column - 17) < 9).astype(np.float32)
pillow = np.asarray(Image.fromarray(disc).resize((224, 224), Image.BICUBIC))
x = torch.from_numpy(disc)[None, None]
found = {on: F.interpolate(x, size=(224, 224), mode="bicubic", antialias=on)[0, 0].numpy() for on in (False, True)}
error = {on: float(np.abs(found[on] - pillow).max()) for on in found}
for on in found:
    print(f"32 → 224 px, antialias={on!s:5}: {error[on]:.4f} from Pillow, values {found[on].min():+.3f} … {found[on].max():.3f}")
if not (error[False] > 0.05 and error[True] < 1e-5):
    sys.exit(f"changed: {error[False]:.4f} and {error[True]:.4f} from Pillow")
EOF
