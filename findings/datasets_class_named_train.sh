#!/usr/bin/env bash
# datasets: a class folder whose name holds "train", "test", "val", "dev" or "eval" as a word makes all others vanish.
#
# Expected: `load_dataset("imagefolder", data_dir=…)` of a folder with one sub-folder for each class has all images, labelled.
# Happens:  such a name is taken for a split: only the images of this one class come, in a split named after it, and without
#           a column of labels. All other classes are left out. No message.
# Matters:  CIFAR-100 and COCO have a class "train"; "train station", "test tube" and "eval board" are further everyday
#           ones; one class of a hundred decides. With `drop_labels=False` what is left is a data set of one class, which is
#           learnt to 100 %. What works: `data_files="folder/**", drop_labels=False`.
# Versions: datasets 5.2.0, Pillow 13.0.0, Python 3.11; no network is used.
# Seen 2026-11-27:
#   bus, car, bicycle: 30 of 30 images in ['train'], labels: True
#   bus, car, train: 10 of 30 images in ['train'], labels: False
#   beaker, funnel, test_tube: 10 of 30 images in ['test'], labels: False
#   airport, train station: 10 of 20 images in ['train'], labels: False
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0 pillow==13.0.0 || { echo "not installed"; exit 2; }
cd "$folder"
export HF_HOME="$folder/home" HF_HUB_OFFLINE=1
"$folder/venv/bin/python" - <<'EOF'
import sys
from pathlib import Path

import datasets
from PIL import Image

datasets.disable_progress_bars()
for names in (("bus", "car", "bicycle"), ("bus", "car", "train"), ("beaker", "funnel", "test_tube"), ("airport", "train station")):
    root = Path(f"set{len(list(Path().iterdir()))}")
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (8, 8), (i, i, i)).save(root / name / f"{i}.png")
    found = datasets.load_dataset("imagefolder", data_dir=str(root))
    rows = sum(part.num_rows for part in found.values())
    labelled = all("label" in part.features for part in found.values())
    print(f"{', '.join(names)}: {rows} of {10 * len(names)} images in {list(found)}, labels: {labelled}")
    special = any(word in names[-1] for word in ("train", "test"))
    if (rows, labelled) != ((10, False) if special else (30, True)):
        sys.exit(f"changed: {rows} images of {', '.join(names)}")
EOF
