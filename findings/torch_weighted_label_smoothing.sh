#!/usr/bin/env bash
# torch: class weights and label smoothing together make a rare class the best answer to images of a frequent one.
#
# Expected: with `CrossEntropyLoss(weight=…, label_smoothing=0.1)` a label counts by the weight of its class, and a tenth of
#           it is spread evenly: the loss of an image is least where the answer gives its class about 0.9.
# Happens:  the weights act on the smoothed target class by class. The small part that smoothing gives to a rare class is
#           multiplied by that class's large weight, so that the loss is least where the rare class is answered.
# Matters:  classes of 1,000 and 10 images, scikit-learn's balanced weights and the usual smoothing of 0.1: the answer that
#           training rewards for every image of the frequent class is the rare class, at 84 %. Each setting alone is fine.
# Versions: torch 2.15.0, scikit-learn 1.9.1, Python 3.11.
# Seen 2026-11-27:
#   weights 0.505 and 50.5, least loss for an image of the frequent class: answer 0.160 and 0.840
#   without smoothing 1.000, without weights 0.950
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6 scikit-learn==1.9.1 || { echo "not installed"; exit 2; }
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import sys

import numpy as np
import torch
from sklearn.utils.class_weight import compute_class_weight

labels = np.repeat([0, 1], [1000, 10])
weight = torch.tensor(compute_class_weight("balanced", classes=np.array([0, 1]), y=labels))


def best_answer(**options):
    """The probabilities at which the loss of one image of class 0 is least."""
    loss = torch.nn.CrossEntropyLoss(**options)
    logits = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure():
        optimizer.zero_grad()
        value = loss(logits, torch.tensor([0]))
        value.backward()
        return value

    optimizer.step(closure)
    return logits.detach().softmax(1)[0].tolist()


both = best_answer(weight=weight, label_smoothing=0.1)
weights, smoothing = best_answer(weight=weight)[0], best_answer(label_smoothing=0.1)[0]
print(f"weights {weight[0]:.3f} and {weight[1]:.1f}, least loss for an image of the frequent class: answer {both[0]:.3f} and {both[1]:.3f}")
print(f"without smoothing {weights:.3f}, without weights {smoothing:.3f}")
if not (both[1] > 0.8 and weights > 0.99 and smoothing > 0.94):
    sys.exit("changed: the image's own class is the best answer")
EOF
