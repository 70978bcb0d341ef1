#!/usr/bin/env bash
# torch: `kl_div` with `log_target=True` is NaN where a teacher rules a class out; with `log_target=False` it is right.
#
# Expected: a class to which the target gives probability 0 adds nothing (0 · log 0 = 0), however the target is written.
# Happens:  with `log_target=True` the term is exp(−inf) · (−inf − log q) = 0 · −inf = NaN, and so is the loss; with
#           probabilities the same target gives the finite value. The gradient is right in both.
# Matters:  distillation from a teacher with masked classes (a subset of ImageNet, the other classes set to −inf): the logged
#           loss is NaN from the first step while the student learns, and a loop that stops at a loss that is not finite,
#           as many do, stops a healthy run.
# Versions: torch 2.15.0, Python 3.11.
# Seen 2026-11-27:
#   log_target=True nan, log_target=False 1.192916, in float64 1.192916
#   largest difference of the gradients: 0.0e+00
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6 || { echo "not installed"; exit 2; }
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import sys

import numpy as np
import torch
import torch.nn.functional as F

torch.manual_seed(0)
student = torch.randn(64, 10, requires_grad=True)
teacher = torch.randn(64, 10)
teacher[:, 7:] = -torch.inf
log_q, log_p = F.log_softmax(student, 1), F.log_softmax(teacher, 1)
by_log = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
by_probability = F.kl_div(log_q, log_p.exp(), reduction="batchmean")
p, q = log_p.double().numpy()[:, :7], log_q.detach().double().numpy()[:, :7]
exact = float((np.exp(p) * (p - q)).sum(1).mean())
gradients = [torch.autograd.grad(loss, student, retain_graph=True)[0] for loss in (by_log, by_probability)]
print(f"log_target=True {by_log.item()}, log_target=False {by_probability.item():.6f}, in float64 {exact:.6f}")
print(f"largest difference of the gradients: {float((gradients[0] - gradients[1]).abs().max()):.1e}")
if not (by_log.isnan() and abs(by_probability.item() - exact) < 1e-5):
    sys.exit("changed: both forms agree")
EOF
