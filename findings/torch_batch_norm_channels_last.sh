#!/usr/bin/env bash
# torch: on a CPU, BatchNorm of channels-last float32 images has the precision of bfloat16.
#
# Expected: the memory format changes the speed and the last digit, not the result: contiguous batches have the variance of
#           float64 to 1e-7.
# Happens:  channels-last, each thread adds up all values of a channel in one float32 number, and the longer the sum, the more
#           of each new square is rounded away: of 400,000 values after a ReLU (32 images in a first layer) the variance is
#           wrong by 3e-3, of 1.6 million by 9e-3, and the gradient by 4e-3, as much as bfloat16 rounds. The fewer threads,
#           the more: results depend on the number of cores. No message.
# Matters:  channels-last is what PyTorch advises for convolutions on a CPU. Large batches and large images (segmentation,
#           satellites) train with statistics that are off, write them as `running_var` into the checkpoint, and differ from
#           the same weights run contiguously by 10,000 times float32's rounding: a search for the bug in one's own code.
# Versions: torch 2.15.0 (2.11.0 alike), numpy 2.4.6, Python 3.11, on one thread.
# Seen 2026-11-28:
#     8 images of 224 px, convolution: variance and gradient off by contiguous 7e-08 and 1e-07, channels-last 1e-04 and 4e-05
#     8 images of 224 px, ReLU       : variance and gradient off by contiguous 9e-08 and 1e-07, channels-last 7e-04 and 2e-04
#    32 images of 224 px, convolution: variance and gradient off by contiguous 6e-08 and 1e-07, channels-last 2e-04 and 5e-05
#    32 images of 224 px, ReLU       : variance and gradient off by contiguous 8e-08 and 2e-07, channels-last 3e-03 and 8e-04
#   128 images of 224 px, convolution: variance and gradient off by contiguous 9e-08 and 1e-07, channels-last 1e-03 and 7e-04
#   128 images of 224 px, ReLU       : variance and gradient off by contiguous 9e-08 and 1e-07, channels-last 9e-03 and 4e-03
#     8 images of 1024 px, convolution: variance and gradient off by contiguous 5e-08 and 1e-07, channels-last 2e-03 and 7e-04
#     8 images of 1024 px, ReLU       : variance and gradient off by contiguous 9e-08 and 1e-07, channels-last 1e-02 and 4e-03
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6 || { echo "not installed"; exit 2; }
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import sys

import torch
from torch import Tensor, nn

torch.set_num_threads(1)
FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


def first_layer(batch: int, size: int) -> Tensor:
    """A convolution of pictures of plain squares, without its gradient."""
    torch.manual_seed(0)
    squares = nn.functional.interpolate(torch.rand(batch, 3, size // 32, size // 32) - 0.5, scale_factor=32.0)
    return nn.Conv2d(3, 16, 7, 2, 3, bias=False)(squares).detach()


def errors(x: Tensor) -> dict[str, tuple[float, float]]:
    """Of the variance and of the input's gradient, by memory format: the largest, relative to float64's (largest)."""
    gradient = torch.randn(x.shape)
    exact = x.double().requires_grad_()
    nn.functional.batch_norm(exact, None, None, training=True).backward(gradient.double())
    variance, found = exact.detach().var((0, 2, 3)), {}
    for name, kind in FORMATS.items():
        norm, z = nn.BatchNorm2d(x.shape[1], momentum=1.0), x.clone(memory_format=kind).requires_grad_()
        norm(z).backward(gradient.contiguous(memory_format=kind))
        off = (z.grad.double() - exact.grad).abs().max() / exact.grad.abs().max()
        found[name] = float((norm.running_var.double() / variance - 1).abs().max()), float(off)
    return found


seen = {}
for batch, size in ((8, 224), (32, 224), (128, 224), (8, 1024)):
    x = first_layer(batch, size)
    for of, values in (("convolution", x), ("ReLU", x.relu())):
        seen[batch, size, of] = found = errors(values)
        text = ", ".join(f"{name} {a:.0e} and {b:.0e}" for name, (a, b) in found.items())
        print(f"{batch:3} images of {size} px, {of:11}: variance and gradient off by {text}", flush=True)
variances = {name: seen[128, 224, "convolution"][name][0] for name in FORMATS}
if not (variances["contiguous"] < 1e-6 and variances["channels-last"] > 3e-4):
    sys.exit(f"changed: the variance is off by {variances['contiguous']:.0e} and {variances['channels-last']:.0e}")
EOF
