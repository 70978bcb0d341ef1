#!/usr/bin/env bash
# timm + torch: layer-wise learning rate decay does nothing under a scheduler of torch.
#
# Expected: `create_optimizer_v2(model, lr=1e-3, layer_decay=0.65)` gives a torch optimizer whose first layers learn slowly.
# Happens:  it writes `lr_scale` into its parameter groups and leaves `lr` alike in all of them. timm's schedulers multiply
#           the two; torch's schedulers, and a loop without a scheduler, ignore `lr_scale`: all layers learn at the full
#           rate. No message.
# Matters:  fine-tuning recipes of MAE, BEiT, DINOv2 and others rest on layer decay; here the patch embedding of a ViT of 12
#           blocks moves 270 times as far in one step as it was told to.
# Versions: timm 1.0.31, torch 2.15.0, Python 3.11.
# Seen 2026-11-27 (how far the weights of the patch embedding move in one step of AdamW, median):
#   asked for 3.70e-06; timm's scheduler 3.70e-06, torch's 1.00e-03, none 1.00e-03
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 timm==1.0.31 || { echo "not installed"; exit 2; }
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import sys

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch.optim.lr_scheduler import CosineAnnealingLR


def moved(schedule):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.0, layer_decay=0.65)
    schedule(optimizer)
    before = model.patch_embed.proj.weight.detach().clone()
    model(torch.randn(4, 3, 224, 224)).square().sum().backward()
    optimizer.step()
    return float((model.patch_embed.proj.weight.detach() - before).abs().median())


asked = 1e-3 * 0.65**13
by_timm = moved(lambda optimizer: CosineLRScheduler(optimizer, t_initial=10).step(0))
by_torch = moved(lambda optimizer: CosineAnnealingLR(optimizer, T_max=10))
without = moved(lambda optimizer: None)
print(f"asked for {asked:.2e}; timm's scheduler {by_timm:.2e}, torch's {by_torch:.2e}, none {without:.2e}")
if not (abs(by_timm / asked - 1) < 0.05 and by_torch > 200 * asked and without > 200 * asked):
    sys.exit("changed: the scheduler of torch heeds lr_scale, or timm writes lr itself")
EOF
