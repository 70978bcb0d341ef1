#!/usr/bin/env bash
# timm: MultiStepLRScheduler decays one epoch (or update) before the one it is given; StepLRScheduler does not.
#
# Expected: decay_t=[5] decays where StepLRScheduler(decay_t=5) and torch's MultiStepLR([5]) do: epochs 0 to 4 at the full
#           rate.
# Happens:  milestones are compared with t + 1: epochs 0 to 3 at the full rate. The same by updates.
# Matters:  90 epochs with steps at 30, 60 and 80 become 29, 59 and 79, other than the same recipe written as steps of 30 or
#           trained with torch; a milestone of 1 leaves no epoch at the full rate. Runs that are compared differ by an epoch.
# Versions: timm 1.0.31, torch 2.15.0, Python 3.11.
# Seen 2026-11-28 (first epoch and first update at the decayed rate):
#   epochs: StepLRScheduler 5, MultiStepLRScheduler 4, torch's MultiStepLR 5; updates: 5, 4
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 timm==1.0.31 || { echo "not installed"; exit 2; }
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import sys

import torch
from timm.scheduler import MultiStepLRScheduler, StepLRScheduler
from torch.optim.lr_scheduler import MultiStepLR


def first(make, step):
    """The first of ten epochs or updates at a lower rate."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = make(optimizer), []
    for done in range(1, 11):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        step(scheduler, done)
    return next(at for at, rate in enumerate(rates) if rate < 0.5)


epochs = [
    first(lambda o: StepLRScheduler(o, decay_t=5, decay_rate=0.1), lambda s, n: s.step(n)),
    first(lambda o: MultiStepLRScheduler(o, decay_t=[5], decay_rate=0.1), lambda s, n: s.step(n)),
    first(lambda o: MultiStepLR(o, [5], 0.1), lambda s, n: s.step()),
]
updates = [
    first(lambda o: StepLRScheduler(o, decay_t=5, decay_rate=0.1, t_in_epochs=False), lambda s, n: s.step_update(n)),
    first(lambda o: MultiStepLRScheduler(o, decay_t=[5], decay_rate=0.1, t_in_epochs=False), lambda s, n: s.step_update(n)),
]
print(f"epochs: StepLRScheduler {epochs[0]}, MultiStepLRScheduler {epochs[1]}, torch's MultiStepLR {epochs[2]}; "
      f"updates: {updates[0]}, {updates[1]}")
if (epochs, updates) != ([5, 4, 5], [5, 4]):
    sys.exit(f"changed: {epochs}, {updates}")
EOF
