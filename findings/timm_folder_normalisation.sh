#!/usr/bin/env bash
# timm: the normalisation given to `save_for_hf` is written to config.json, and not read again.
#
# Expected: `save_for_hf(model, folder, model_config={"mean": …, "std": …, "input_size": …})` followed by
#           `create_model("local-dir:folder", pretrained=True)` gives a model that asks for that mean, std and size.
# Happens:  they stand in config.json beside `pretrained_cfg`, which holds those of the published weights; only the latter
#           is read. No message. And without `pretrained=True` the same call gives random weights, as silently.
# Matters:  a model trained from nothing with its data set's statistics, or at 32 px, is served with ImageNet's: on images
#           that fill the usual range the logits change as below. What works: set `model.pretrained_cfg` before saving.
# Versions: timm 1.0.31, torch 2.15.0, Python 3.11.
# Seen 2026-11-27:
#   written: {'mean': [0.1307, 0.1307, 0.1307], 'std': [0.3081, 0.3081, 0.3081], 'input_size': [3, 32, 32]}
#   asked:   {'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225], 'input_size': [3, 224, 224]}
#   same weights: True with pretrained=True, False without
#   relative error of the logits: 0.446
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 timm==1.0.31 || { echo "not installed"; exit 2; }
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import json
import sys
from pathlib import Path

import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import save_for_hf

torch.manual_seed(0)
seen = {"mean": [0.1307] * 3, "std": [0.3081] * 3, "input_size": [3, 32, 32]}
model = timm.create_model("resnet18", num_classes=10).eval()
save_for_hf(model, "folder", model_config=seen)
written = json.loads(Path("folder/config.json").read_text())
print("written:", {key: written[key] for key in seen})
again = timm.create_model("local-dir:folder", pretrained=True).eval()
asked = resolve_model_data_config(again)
print("asked:  ", {key: list(asked[key]) for key in seen})
untrained = timm.create_model("local-dir:folder")
print("same weights:", torch.equal(again.conv1.weight, model.conv1.weight), "with pretrained=True,",
      torch.equal(untrained.conv1.weight, model.conv1.weight), "without")
x = torch.rand(64, 3, 32, 32)
with torch.no_grad():
    norm = lambda cfg: (x - torch.tensor(cfg["mean"]).view(3, 1, 1)) / torch.tensor(cfg["std"]).view(3, 1, 1)
    right, served = model(norm(seen)), again(norm(asked))
error = float((served - right).norm() / right.norm())
print(f"relative error of the logits: {error:.3f}")
if all(list(asked[key]) == seen[key] for key in seen) or torch.equal(untrained.conv1.weight, model.conv1.weight):
    sys.exit("changed: the written normalisation is read again, or the folder's weights are loaded in any case")
EOF
