#!/usr/bin/env bash
# PyTorch: the convolution that makes a ViT's patches takes several times the product that it is, backward and in bfloat16.
#
# Expected: a convolution whose stride is its kernel's size is a matrix product of patches that lie side by side; PyTorch's
#           takes about as long, and in bfloat16 less, on a processor that is made for it.
# Happens:  forward it does. With the gradient of its weights it takes 1.1 to 2.2 times as long as `F.linear` of the same
#           patches in float32, and 2.5 to 6 times in bfloat16, at 32 px more than in float32. Both give the same numbers.
# Matters:  timm's `PatchEmbed` is this convolution. Of a small ViT's step on the CPU it was a fifteenth.
# Versions: torch 2.15.0, Python 3.11.
# Seen 2026-11-30 (Intel Xeon with matrix units, one core of two, the other one busy; ms):
#   one core, ms                                           convolution  product
#   100 images of 32 px, patches of  8, width  96, float32, forward         1.1      1.0
#                                               float32, both ways       3.9      1.8
#                                               bfloat16, forward        1.4      0.8
#                                               bfloat16, both ways      7.2      1.4
#   100 images of 32 px, patches of  8, width 192, float32, forward         2.4      1.8
#                                               float32, both ways       5.2      3.0
#                                               bfloat16, forward        2.1      1.0
#                                               bfloat16, both ways     12.2      1.9
#    32 images of 224 px, patches of 16, width 192, float32, forward        22.2     21.5
#                                               float32, both ways      45.1     39.6
#                                               bfloat16, forward       16.4     12.4
#                                               bfloat16, both ways     62.0     12.8
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6 || { echo "not installed"; exit 2; }
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(0)


def milliseconds(run, rounds=5, times=5):
    """The least mean of some rounds, of the processor's time."""
    found = []
    for _ in range(rounds):
        run()
        begun = time.process_time()
        for _ in range(times):
            run()
        found.append((time.process_time() - begun) / times * 1e3)
    return min(found)


def convolution(x, layer):
    return layer(x).flatten(2).transpose(1, 2)


def product(x, layer):
    size, (patch, _) = x.shape[2] // layer.stride[0], layer.stride
    patches = x.reshape(len(x), 3, size, patch, size, patch).permute(0, 2, 4, 1, 3, 5).reshape(len(x), size**2, -1)
    return F.linear(patches, layer.weight.flatten(1), layer.bias)


def measured(way, x, layer, half, backward):
    def run():
        with torch.autocast("cpu", torch.bfloat16, enabled=half), torch.set_grad_enabled(backward):
            y = way(x, layer)
        if backward:
            torch.autograd.grad(y, (layer.weight, layer.bias), torch.ones_like(y))

    return milliseconds(run)


print(f"{'one core, ms':54} convolution  product")
ratios = {}
for images, side, patch, width in ((100, 32, 8, 96), (100, 32, 8, 192), (32, 224, 16, 192)):
    x, layer = torch.randn(images, 3, side, side), torch.nn.Conv2d(3, width, patch, stride=patch)
    ways = convolution, product
    same = [torch.autograd.grad(way(x, layer).square().sum(), (layer.weight, layer.bias)) for way in ways]
    for a, b in zip(*same, strict=True):
        assert (a - b).norm() < 1e-4 * a.norm()
    for half in (False, True):
        for backward in (False, True):
            times = [measured(way, x, layer, half, backward) for way in ways]
            what = f"{images:3} images of {side} px, patches of {patch:2}, width {width:3}"
            kind = f"{'bfloat16' if half else 'float32'}, {'both ways' if backward else 'forward'}"
            print(f"{what + ', ' if not half and not backward else '':44}{kind:20}{times[0]:8.1f} {times[1]:8.1f}")
            ratios[side, width, half, backward] = times[0] / times[1]
slow = all(ratios[key] > 1.7 for key in ratios if key[2] and key[3])
if not slow:
    print("changed: in bfloat16 the convolution with its gradient is no longer much slower than the product")
sys.exit(0 if slow else 1)
PY
