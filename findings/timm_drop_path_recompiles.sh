#!/usr/bin/env bash
# timm, torch: with drop path, from the ninth block on a ViT whose blocks are compiled one by one runs uncompiled.
#
# Expected: blocks that are alike share one compiled graph, and all of them use it (PyTorch's recipe for regional compilation).
# Happens:  timm's `drop_path` draws with `bernoulli_(keep_prob)`, a Python number that differs from block to block, and the
#           compiler takes it for a constant: each block is compiled anew, until eight forms of `Block.forward` are there. The
#           other blocks run uncompiled, in evaluation, too, where no block drops anything: all of the eight are for training.
#           One warning names `recompile_limit`; with `fullgraph=True` it is an error, in the ninth `torch.compile`.
# Matters:  a start eight times as long, and two thirds of a ViT-L at the speed without a compiler, under a log that says
#           "compiled". Without drop path it is one graph.
# Versions: timm 1.0.31, torch 2.15.0 (2.11.0 alike), numpy 2.4.6, Python 3.11.
# Seen 2026-11-28:
#   12 blocks, drop path 0.0: 1 graphs for training; compiled run 12 blocks in training, 12 in evaluation
#   12 blocks, drop path 0.1: 8 graphs for training; compiled run 8 blocks in training, 0 in evaluation
#   24 blocks, drop path 0.1: 8 graphs for training; compiled run 8 blocks in training, 0 in evaluation
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet timm==1.0.31 torch==2.15.0 numpy==2.4.6 || { echo "not installed"; exit 2; }
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import logging
import sys

import timm
import torch

logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
x = torch.randn(2, 3, 32, 32)
calls = []


def counting(graph, inputs):
    """A compiler's backend that runs graphs as they are and counts: how often each runs."""
    index = len(calls)
    calls.append(0)

    def run(*arguments):
        calls[index] += 1
        return graph(*arguments)

    return run


def blocks_run(model):
    """How many blocks run as a graph in one forward pass, after one that compiles."""
    model(x)
    calls[:] = [0] * len(calls)
    model(x)
    return sum(calls)


seen = {}
for depth, rate in ((12, 0.0), (12, 0.1), (24, 0.1)):
    torch._dynamo.reset()
    calls.clear()
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=depth, drop_path_rate=rate)
    for i, block in enumerate(model.blocks):
        model.blocks[i] = torch.compile(block, backend=counting)
    in_training = blocks_run(model.train())
    graphs = len(calls)
    in_evaluation = blocks_run(model.eval())
    seen[depth, rate] = graphs, in_training, in_evaluation
    print(f"{depth} blocks, drop path {rate}: {graphs} graphs for training; compiled run {in_training} blocks in training, "
          f"{in_evaluation} in evaluation")
if not (seen[12, 0.0] == (1, 12, 12) and seen[24, 0.1][0] == seen[24, 0.1][1] == 8):
    sys.exit(f"changed: {seen}")
EOF
