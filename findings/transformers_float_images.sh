#!/usr/bin/env bash
# transformers: an image processor divides float images by 255 a second time.
#
# Expected: an image with values from 0 to 1 (what torchvision's ToTensor, scikit-image, matplotlib and PNGs read as float
#           give) is normalised like the same image with values from 0 to 255, or refused.
# Happens:  `do_rescale` divides by 255 whatever the type: all pixels end within 0.008 of the lower bound, a black picture.
#           No message.
# Matters:  a teacher or a baseline from the hub that is fed from an existing pipeline sees black images, and advises with
#           nearly the same logits for all of them: distillation then teaches a constant, accuracy is that of guessing.
# Versions: transformers 5.24.0 (Pillow backend, which needs no PyTorch), Pillow 13.0.0, NumPy 2.4.6, Python 3.11.
# Seen 2026-11-27:
#   image with 0 … 255: values -1.000 … 1.000, standard deviation 0.5801
#   image with 0 … 1  : values -1.000 … -0.992, standard deviation 0.0023
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 pillow==13.0.0 numpy==2.4.6 || { echo "not installed"; exit 2; }
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import sys

import numpy as np
from transformers import ViTImageProcessorPil

processor = ViTImageProcessorPil()
pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
right = processor(pixels, return_tensors="np")["pixel_values"]
again = processor(pixels.astype(np.float32) / 255, return_tensors="np")["pixel_values"]
for name, values in (("0 … 255", right), ("0 … 1  ", again)):
    print(f"image with {name}: values {values.min():.3f} … {values.max():.3f}, standard deviation {values.std():.4f}")
if not (right.max() == 1 and again.max() < -0.99):
    sys.exit(f"changed: a float image ends between {again.min():.3f} and {again.max():.3f}")
EOF
