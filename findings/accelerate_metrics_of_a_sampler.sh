#!/usr/bin/env bash
# accelerate: gather_for_metrics throws results away where a loader's sampler takes a part of its data set.
#
# Expected: one result for each image that was evaluated; in one process there is nothing to gather and no duplicate to drop.
# Happens:  the last batch is cut to len(dataset) % batch_size, whatever the length of the sampler. A validation part taken
#           with SubsetRandomSampler, or any other sampler, loses images of its last batch, in a single process, too; in two
#           processes, duplicates can stay instead. No message. The same images as a `Subset` are right.
# Matters:  a metric of other images than were evaluated, and predictions that no longer match their files. A sampler in
#           order loses its last images: in an image folder, those of the last class, whose recall is of the few left.
# Versions: accelerate 1.15.0, torch 2.15.0, Python 3.11.
# Seen 2026-11-28:
#   two processes, 100 of 1000 images in batches of 64: samplers [104, 104], Subset 100
#   250 of 1000 images in batches of 128: samplers [232, 232], Subset 250; of the last class in order 7, Subset 25
#   5000 of 50000 images in batches of 256: samplers [4944, 4944], Subset 5000; of the last class in order 444, Subset 500
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 accelerate==1.15.0 || { echo "not installed"; exit 2; }
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import sys

import torch
from accelerate import Accelerator, debug_launcher
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler, TensorDataset


def gathered(loader):
    accelerator = Accelerator(cpu=True)
    loader = accelerator.prepare(loader)
    return torch.cat([accelerator.gather_for_metrics(batch) for (batch,) in loader])


def counts(total, size, batch):
    """Results of `size` of `total` images of ten classes in order: shuffled, in order, as a Subset; and of the last class."""
    images = TensorDataset(torch.arange(10).repeat_interleave(total // 10))
    part = range(0, total, total // size)
    shuffled, ordered, subset = (gathered(loader) for loader in (
        DataLoader(images, batch, sampler=SubsetRandomSampler(part)), DataLoader(images, batch, sampler=part),
        DataLoader(Subset(images, part), batch)))
    return [len(shuffled), len(ordered), len(subset), int((ordered == 9).sum()), int((subset == 9).sum())]


def two_processes():
    found = counts(1000, 100, 64)
    if Accelerator(cpu=True).is_main_process:
        print(f"two processes, 100 of 1000 images in batches of 64: samplers {found[:2]}, Subset {found[2]}", flush=True)
        if found[:3] != [104, 104, 100]:
            sys.exit(f"changed: {found}")


debug_launcher(two_processes, num_processes=2)
found = {case: counts(*case) for case in ((1000, 250, 128), (50000, 5000, 256))}
for (total, size, batch), (*samplers, subset, few, whole) in found.items():
    print(f"{size} of {total} images in batches of {batch}: samplers {samplers}, Subset {subset}; "
          f"of the last class in order {few}, Subset {whole}", flush=True)
if [them[:3] for them in found.values()] != [[232, 232, 250], [4944, 4944, 5000]]:
    sys.exit(f"changed: {found}")
EOF
