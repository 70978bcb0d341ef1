#!/usr/bin/env bash
# timm: Lamb counts updates by group, and corrects weights that begin to learn later as if they were old.
#
# Expected: bias correction by the updates that a weight has had, as torch's and timm's AdamW do: the first step of a weight
#           is as long whenever it comes.
# Happens:  the count is kept in the parameter group, the averages with each weight. A weight whose gradient begins after k
#           updates has averages that were just begun and the correction of an old one: with the same gradient its first step
#           is half as long after 10 updates, and two and a half times as long after 1,000.
# Matters:  heads or tokens first and the backbone later (`requires_grad`, `grad = None`), experts that are not used at once,
#           parts that are unfrozen in the middle: what was pretrained is moved further by its first steps than the learning
#           rate allows, without a word. And a checkpoint of `state` alone has no count.
# Versions: timm 1.0.31, torch 2.15.0, Python 3.11.
# Seen 2026-11-28 (first step of a weight for a learning rate of 0.1, after 0, 10 and 1,000 updates of another one):
#   adamw 0.100 0.100 0.100; lamb 0.100 0.048 0.252
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 timm==1.0.31 || { echo "not installed"; exit 2; }
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import sys

import torch
from timm.optim import create_optimizer_v2


def first_step(name, after):
    early, late = (torch.nn.Parameter(torch.ones(4)) for _ in range(2))
    optimizer = create_optimizer_v2(torch.nn.ParameterList([early, late]), opt=name, lr=0.1, weight_decay=0.0)
    for update in range(after + 1):
        early.grad = torch.ones(4)
        late.grad = torch.ones(4) if update == after else None
        optimizer.step()
    return 1 - float(late.detach().mean())


found = {name: [first_step(name, after) for after in (0, 10, 1000)] for name in ("adamw", "lamb")}
print("; ".join(f"{name} {' '.join(f'{step:.3f}' for step in steps)}" for name, steps in found.items()))
adamw, lamb = found.values()
same = max(abs(step - 0.1) for step in (*adamw, lamb[0])) < 1e-3
if not (same and lamb[1] < 0.06 and lamb[2] > 0.2):
    sys.exit(f"changed: {found}")
EOF
