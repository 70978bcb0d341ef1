#!/usr/bin/env bash
# timm: mixup that is switched off with `loader.mixup_enabled = False` goes on in the workers.
#
# Expected: `mixup_enabled` of a loader with FastCollateMixup is there for the train loop to end mixup (`--mixup-off-epoch`):
#           set to False, later epochs have plain images and labels.
# Happens:  the property sets a flag of the collate function in this process. `create_loader` keeps its workers from epoch
#           to epoch by default (`persistent_workers=True`), and these have their copy of it from the first epoch on: every
#           batch is still mixed, and the property says False.
# Matters:  recipes that end with epochs on plain images never do, and their log says that they did. With num_workers=0,
#           persistent_workers=False or use_prefetcher=False the same recipe trains as written.
# Versions: timm 1.0.31, torch 2.15.0, Python 3.11.
# Seen 2026-11-28 (share of mixed labels in three epochs, switched off after the first):
#   default                   1.00 1.00 1.00  mixup_enabled False
#   persistent_workers=False  1.00 0.00 0.00  mixup_enabled False
#   num_workers=0             1.00 0.00 0.00  mixup_enabled False
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 timm==1.0.31 || { echo "not installed"; exit 2; }
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import sys

import torch
from PIL import Image
from timm.data import FastCollateMixup, create_loader


class Images(torch.utils.data.Dataset):
    transform = None

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return self.transform(Image.new("RGB", (16, 16), (index, 0, 0))), index


def mixed(**options):
    """The share of mixed labels of three epochs, where mixup is switched off after the first."""
    collate = FastCollateMixup(mixup_alpha=0.8, label_smoothing=0.0, num_classes=64)
    loader = create_loader(Images(), 16, batch_size=8, is_training=True, no_aug=True, collate_fn=collate,
                           device=torch.device("cpu"), **options)
    shares = []
    for _ in range(3):
        shares.append(float(torch.cat([labels.max(1).values < 1 for _, labels in loader]).float().mean()))
        loader.mixup_enabled = False
    return [*shares, loader.mixup_enabled]


found = {"default": mixed(num_workers=1), "persistent_workers=False": mixed(num_workers=1, persistent_workers=False),
         "num_workers=0": mixed(num_workers=0)}
for name, (*shares, enabled) in found.items():
    print(f"{name:25}", *(f"{share:.2f}" for share in shares), f" mixup_enabled {enabled}", flush=True)
kept, renewed, none = found.values()
if not (min(kept[:3]) > 0.7 and renewed[0] > 0.7 and none[0] > 0.7 and not any([*renewed[1:], *none[1:], kept[3]])):
    sys.exit(f"changed: {found}")
EOF
