#!/usr/bin/env bash
# Accelerate: regional compilation of a timm network compiles the whole network.
#
# Expected: `use_regional_compilation` (`compile_regions`) compiles one block of a transformer and uses it for all of them, so
#           that a run starts sooner.
# Happens:  blocks are looked for in `nn.ModuleList` alone; timm keeps those of ViT, DeiT, Swin, ConvNeXt and others in
#           `nn.Sequential`. None are found, and the network is compiled as one piece: the same graph as `torch.compile`'s, of
#           all 12 blocks. No message.
# Matters:  who asks for it to save minutes at every start and new batch shape saves nothing. With Inductor on one CPU core, in
#           one run beside other work, a ViT-Ti's first result took 35 seconds, without it 40, compiled block by block 11.
# Versions: accelerate 1.15.0, timm 1.0.31, torch 2.15.0, numpy 2.4.6, Python 3.11.
# Seen 2026-11-28:
#   whole        : 1 graph of 200 operations
#   by_accelerate: 1 graph of 200 operations
#   by_block     : 1 graph of 16 operations
#   of deit_tiny_patch16_224, swin_tiny_patch4_window7_224, convnext_tiny, resnet18, regnety_004 compiled by regions: none
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet accelerate==1.15.0 timm==1.0.31 torch==2.15.0 numpy==2.4.6 || { echo "not installed"; exit 2; }
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import sys

import timm
import torch
from accelerate.utils import compile_regions

BLOCKS = 12
x = torch.randn(2, 3, 32, 32)


def graphs(compiled):
    """Operations in each graph that a compiler gets for a network, by how it is compiled."""
    torch._dynamo.reset()
    sizes = []

    def backend(graph, inputs):
        sizes.append(sum(node.op == "call_function" for node in graph.graph.nodes))
        return graph.forward

    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=BLOCKS).eval()
    with torch.no_grad():
        compiled(model, backend)(x)
    return sizes


def by_block(model, backend):
    for i, block in enumerate(model.blocks):
        model.blocks[i] = torch.compile(block, backend=backend)
    return model


def by_accelerate(model, backend):
    return compile_regions(model, backend=backend)


def whole(model, backend):
    return torch.compile(model, backend=backend)


seen = {how.__name__: graphs(how) for how in (whole, by_accelerate, by_block)}
for how, sizes in seen.items():
    print(f"{how:13}: {len(sizes)} graph of {', '.join(map(str, sizes))} operations")
names = "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_tiny", "resnet18", "regnety_004"
with torch.device("meta"):
    found = [name for name in names if type(compile_regions(timm.create_model(name))) is not torch._dynamo.OptimizedModule]
print(f"of {', '.join(names)} compiled by regions: {', '.join(found) or 'none'}")
if not (seen["by_accelerate"] == seen["whole"] and seen["by_block"][0] < seen["whole"][0] / 4 and not found):
    sys.exit(f"changed: {seen}, {found}")
EOF
