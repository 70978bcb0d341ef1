#!/usr/bin/env bash
# torchmetrics: whether a batch holds logits or probabilities is decided anew for every batch.
#
# Expected: a metric of the same 1000 predictions is the same in whatever batches they come.
# Happens:  each `update` applies the sigmoid (or softmax) only if the batch has a value outside of [0, 1]. A batch of logits
#           that all lie in [0, 1] is taken for probabilities. No message; the larger the batch the rarer it is.
# Matters:  AUROC, accuracy and calibration of the same model change with the batch size: evaluation of image after image
#           (video, a service) or a short last batch disagrees with the training log. Give probabilities.
# Versions: torchmetrics 1.9.0, torch 2.15.0, Python 3.11.
# Seen 2026-11-27 (logits in batches of 1, 4 and 1000; then probabilities):
#   BinaryAUROC            0.9076 0.9215 0.9215  0.9215
#   BinaryAccuracy         0.8250 0.8370 0.8370  0.8370
#   BinaryCalibrationError 0.0410 0.0309 0.0309  0.0309
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 torchmetrics==1.9.0 || { echo "not installed"; exit 2; }
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import sys

import torch
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, BinaryCalibrationError

torch.manual_seed(0)
logits = 3 * torch.randn(1000)
labels = (torch.rand(1000) < logits.sigmoid()).long()


def measured(metric, predictions, batch):
    for start in range(0, 1000, batch):
        metric.update(predictions[start : start + batch], labels[start : start + batch])
    return metric.compute().item()


for kind in (BinaryAUROC, BinaryAccuracy, BinaryCalibrationError):
    found = {batch: measured(kind(), logits, batch) for batch in (1, 4, 1000)}
    right = measured(kind(), logits.sigmoid(), 1)
    print(f"{kind.__name__:22}", *(f"{value:.4f}" for value in found.values()), f" {right:.4f}")
    if not (abs(found[1000] - right) < 1e-6 and abs(found[1] - right) > 0.005):
        sys.exit(f"changed: {kind.__name__} of single images is {found[1]:.4f}, of all together {found[1000]:.4f}")
EOF
