#!/usr/bin/env bash
# timm: weights loaded into a model that is in evaluation mode do not all take effect.
#
# Expected: after `model.load_state_dict(other.state_dict())` both models give the same logits.
# Happens:  LeViT, TinyViT and EfficientFormerV2 keep the attention biases that they gathered at the first forward pass in
#           evaluation mode; `load_state_dict` does not drop them, only `.train()`, `.eval()` and `.to()` do. No message.
# Matters:  "evaluate several checkpoints of one model in a loop", swapping EMA weights in, averaging weights: every
#           checkpoint but the first is measured with the biases of the first.
# Versions: timm 1.0.31, torch 2.15.0, Python 3.11. Biases are drawn with standard deviation 2: those of a new model are 0,
#           trained ones are some units large.
# Seen 2026-11-27 (relative error of the logits; top classes that differ among 16 images; error after `.eval()`):
#   levit_128s             0.2558   7 of 16  0.0e+00
#   tiny_vit_5m_224        0.2030   0 of 16  0.0e+00
#   efficientformerv2_s0   0.0036   0 of 16  0.0e+00
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

for name in ("levit_128s", "tiny_vit_5m_224", "efficientformerv2_s0"):
    torch.manual_seed(1)
    other = timm.create_model(name, num_classes=100).eval()
    for key, parameter in other.named_parameters():
        if "attention_bias" in key:
            torch.nn.init.normal_(parameter, std=2)
    torch.manual_seed(2)
    model = timm.create_model(name, num_classes=100).eval()
    x = torch.randn(16, 3, 224, 224)
    with torch.no_grad():
        model(x)
        model.load_state_dict(other.state_dict(), strict=True)
        expected, loaded, again = other(x), model(x), model.eval()(x)
    error = float((loaded - expected).norm() / expected.norm())
    after = float((again - expected).norm() / expected.norm())
    classes = int((loaded.argmax(1) != expected.argmax(1)).sum())
    print(f"{name:22} {error:.4f}  {classes:2} of 16  {after:.1e}")
    if not (error > 1e-3 and after < 1e-6):
        sys.exit(f"changed: {name} is off by {error:.1e} after load_state_dict, by {after:.1e} after eval()")
EOF
