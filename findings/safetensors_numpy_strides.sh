#!/usr/bin/env bash
# safetensors: the NumPy writer scrambles arrays that are transposed or sliced.
#
# Expected: `load_file(save_file({"w": a.T}))` gives back `a.T`, or the writer refuses (its PyTorch sister raises for a tensor
#           that is not contiguous).
# Happens:  the bytes are written in the order in which they lie in memory, under the shape of the view: shape and type are
#           right, the numbers stand in other places. No message. Of an array sliced with a step the file has numbers that
#           are no part of the slice.
# Matters:  exactly what converting weights does: kernels of TensorFlow, Keras and Flax are (in, out) or (h, w, in, out), and
#           are transposed for PyTorch. The file loads strictly into the model and gives nonsense, or, where little is
#           transposed, somewhat worse accuracy. `np.ascontiguousarray` before saving helps.
# Versions: safetensors 0.8.0, NumPy 2.4.6, Python 3.11.
# Seen 2026-11-27:
#   dense.T                     shape kept: True, numbers in a wrong place: 100.0%
#   conv.transpose(3, 2, 0, 1)  shape kept: True, numbers in a wrong place: 100.0%
#   grid[::2, ::2]              shape kept: True, numbers in a wrong place: 99.5%
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6 || { echo "not installed"; exit 2; }
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

rng = np.random.default_rng(0)
dense, conv, grid = rng.normal(size=(192, 768)), rng.normal(size=(3, 3, 64, 128)), rng.normal(size=(28, 28, 192))
views = {"dense.T": dense.T, "conv.transpose(3, 2, 0, 1)": conv.transpose(3, 2, 0, 1), "grid[::2, ::2]": grid[::2, ::2]}
save_file(views, "views.safetensors")
save_file({name: np.ascontiguousarray(view) for name, view in views.items()}, "copies.safetensors")
read, copies = load_file("views.safetensors"), load_file("copies.safetensors")
for name, view in views.items():
    wrong = float((read[name] != view).mean())
    print(f"{name:27} shape kept: {read[name].shape == view.shape}, numbers in a wrong place: {wrong:.1%}")
    if not (read[name].shape == view.shape and wrong > 0.9 and np.array_equal(copies[name], view)):
        sys.exit(f"changed: {name} comes back with {wrong:.1%} of its numbers elsewhere")
EOF
