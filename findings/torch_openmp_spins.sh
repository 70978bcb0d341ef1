#!/usr/bin/env bash
# torch: on a CPU that has other work too, training has half of the speed that its share of the cores would give, or less.
#
# Expected: a training with one thread for each core, beside as many other busy processes, has half of the machine: about
#           half of its speed.
# Happens:  the OpenMP library in PyTorch's Linux wheels (GCC's) lets a thread that has finished its part spin 300,000 times
#           before it sleeps (its manual, GOMP_SPINCOUNT). A step has many such moments, and a spinning thread holds the core
#           that the thread it waits for would need. No message, and every core is at 100 %.
# Matters:  loader processes, a second run, a shared node: a step takes a multiple of its time, and the more so the busier.
#           `GOMP_SPINCOUNT=2000` mends it; it is read once, when PyTorch is loaded.
# Versions: torch 2.15.0, numpy 2.4.6, Python 3.11; no network is used. The figures are those of two cores.
# Seen 2026-11-27:
#   steps a second alone: 5.14; with GOMP_SPINCOUNT=2000: 4.86
#   beside as many busy processes as cores: 1.25; with GOMP_SPINCOUNT=2000: 3.05, 2.4 times
set -eu
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6 || { echo "not installed"; exit 2; }
cd "$folder"
unset GOMP_SPINCOUNT OMP_WAIT_POLICY OMP_NUM_THREADS
cat > step.py <<'EOF'
import time

import torch
from torch import nn

torch.manual_seed(0)
layer = nn.TransformerEncoderLayer(192, 3, 768, batch_first=True, activation="gelu")
model = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
x = torch.randn(16, 65, 192)
for _ in range(3):
    model(x).mean().backward()
begin, steps = time.perf_counter(), 0
while time.perf_counter() - begin < 15:
    model(x).mean().backward()
    steps += 1
print(steps / (time.perf_counter() - begin))
EOF
alone=$("$folder/venv/bin/python" step.py)
for _ in $(seq "$(nproc)"); do
    python3 -c "while True: sum(range(1000))" &
done
plain=$("$folder/venv/bin/python" step.py)
short=$(GOMP_SPINCOUNT=2000 "$folder/venv/bin/python" step.py)
kill $(jobs -p)
alone_short=$(GOMP_SPINCOUNT=2000 "$folder/venv/bin/python" step.py)
python3 - "$alone" "$alone_short" "$plain" "$short" <<'EOF'
import sys

alone, alone_short, plain, short = map(float, sys.argv[1:])
print(f"steps a second alone: {alone:.2f}; with GOMP_SPINCOUNT=2000: {alone_short:.2f}")
print(f"beside as many busy processes as cores: {plain:.2f}; with GOMP_SPINCOUNT=2000: {short:.2f}, {short / plain:.1f} times")
if short < 1.5 * plain:
    sys.exit("changed: waiting threads no longer cost others their core")
EOF
