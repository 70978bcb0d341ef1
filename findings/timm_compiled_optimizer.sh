#!/usr/bin/env bash
# timm + torch.compile: an optimizer made for a compiled model decays the position embedding, and layer decay is gone.
#
# Expected: `create_optimizer_v2(torch.compile(model))` makes the parameter groups that `create_optimizer_v2(model)` makes: the
#           class token and the position embedding are without weight decay, and with `layer_decay` first layers learn slowly.
# Happens:  a compiled model answers `no_weight_decay()` and `group_matcher()` with the names of the model inside, while its
#           own parameters are called `_orig_mod.…`. No name matches: tokens, position embeddings and bias tables are decayed,
#           without a word, and all layers are put into one; for that there is a warning, which blames a model without
#           `group_matcher()`. `model.compile()` in place is as expected.
# Matters:  to loops that compile when they make the model. Under DeiT's schedule
#           (1e-3 by cosine, decay 0.05, 300 epochs of 1,251 updates) decay alone takes a factor of exp(−9.4) from whatever the
#           gradient does not hold up.
# Versions: timm 1.0.31, torch 2.15.0, Python 3.11.
# Seen 2026-11-28 (weights of two or more dimensions without decay; rates of layers, smallest first):
#   vit_tiny_patch16_224: plain 2, in place 2, compiled 0; 14 rates from 0.0037, 14 from 0.0037, 1 from 1
#   deit_tiny_patch16_224: plain 2, in place 2, compiled 0; 14 rates from 0.0037, 14 from 0.0037, 1 from 1
#   beit_base_patch16_224: plain 13, in place 13, compiled 0; 14 rates from 0.0037, 14 from 0.0037, 1 from 1
#   swin_tiny_patch4_window7_224: plain 12, in place 12, compiled 0; 14 rates from 0.0037, 14 from 0.0037, 1 from 1
#   levit_128s: plain 11, in place 11, compiled 0; 11 rates from 0.0135, 11 from 0.0135, 1 from 1
#   tiny_vit_5m_224: plain 10, in place 10, compiled 0; 14 rates from 0.0037, 14 from 0.0037, 1 from 1
#   warnings of the weight decay: 0; of the layer decay: 6, each "Layer-wise lr decay has no effect, … Models without a
#   group_matcher() need a pretrained_cfg["classifier"] for automatic layer grouping."
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet timm==1.0.31 torch==2.15.0 || { echo "not installed"; exit 2; }
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import logging
import sys
import warnings

import timm
import torch
from timm.optim import create_optimizer_v2

said = []
listener = logging.Handler()
listener.emit = lambda record: said.append(record.getMessage())
logging.getLogger("timm").addHandler(listener)
warnings.showwarning = lambda message, *_: said.append(str(message))
warnings.simplefilter("always")


def without_decay(model):
    groups = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05).param_groups
    return sum(weight.ndim > 1 for group in groups if group["weight_decay"] == 0 for weight in group["params"])


def rates(model):
    groups = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.65).param_groups
    return sorted({group["lr_scale"] for group in groups})


changed, silent = False, 0
for name in (
    "vit_tiny_patch16_224", "deit_tiny_patch16_224", "beit_base_patch16_224", "swin_tiny_patch4_window7_224",
    "levit_128s", "tiny_vit_5m_224",
):
    model = timm.create_model(name, num_classes=10)
    plain, plain_rates = without_decay(model), rates(model)
    compiled, before = torch.compile(model), len(said)
    wrapped = without_decay(compiled)
    silent += len(said) - before
    wrapped_rates = rates(compiled)
    model.compile()
    placed, placed_rates = without_decay(model), rates(model)
    told = ", ".join(f"{len(one)} {'rates ' * (one is plain_rates)}from {one[0]:.3g}"
                     for one in (plain_rates, placed_rates, wrapped_rates))
    print(f"{name}: plain {plain}, in place {placed}, compiled {wrapped}; {told}")
    changed |= not (plain == placed > 0 == wrapped and plain_rates == placed_rates and wrapped_rates == [1.0])
print(f"warnings of the weight decay: {silent}; of the layer decay: {len(said) - silent}")
print(*sorted(set(said)), sep="\n")
if changed or silent:
    sys.exit("changed: a compiled model gets the parameter groups of the plain one, or a warning")
EOF
