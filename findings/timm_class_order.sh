#!/usr/bin/env bash
# timm + torchvision, datasets: one tree of class folders is numbered in two ways.
#
# Expected: three common readers of class folders give a class the same number, so that a network trained with one can be
#           measured, served or used as a teacher with another.
# Happens:  torchvision's ImageFolder and datasets' imagefolder sort names by code points: capitals first, "10" before "2".
#           timm's reader sorts numbers by their value and letters without regard to case. Within timm, the same tree read as
#           `hfds/…` is numbered as by datasets. The counts of classes agree, so nothing complains.
# Matters:  Oxford-IIIT Pets names cats with a capital and dogs without, Flowers-102 numbers its classes. With a folder for
#           each, a network that makes no mistake is right about 10.8 % of the classes in the other reader, and as a teacher
#           teaches the wrong one of nine in ten.
# Versions: timm 1.0.31, torchvision 0.29.2, torch 2.15.0, datasets 5.2.0, Python 3.11.
# Seen 2026-11-28:
#   Oxford-IIIT Pets: torchvision as datasets True, timm's hfds as datasets True; timm's folders agree in 4 of 37 (10.8 %)
#   Flowers-102: torchvision as datasets True, timm's hfds as datasets True; timm's folders agree in 11 of 102 (10.8 %)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet timm==1.0.31 torchvision==0.29.2 torch==2.15.0 datasets==5.2.0 Pillow \
    || { echo "not installed"; exit 2; }
cd "$folder"
HF_HOME="$folder/cache" HF_DATASETS_DISABLE_PROGRESS_BARS=1 HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'EOF'
import sys
from pathlib import Path

import datasets
from PIL import Image
from timm.data import create_dataset
from torchvision.datasets import ImageFolder

CATS = """Abyssinian Bengal Birman Bombay British_Shorthair Egyptian_Mau Maine_Coon Persian Ragdoll Russian_Blue Siamese
Sphynx"""
DOGS = """american_bulldog american_pit_bull_terrier basset_hound beagle boxer chihuahua english_cocker_spaniel
english_setter german_shorthaired great_pyrenees havanese japanese_chin keeshond leonberger miniature_pinscher newfoundland
pomeranian pug saint_bernard samoyed scottish_terrier shiba_inu staffordshire_bull_terrier wheaten_terrier
yorkshire_terrier"""
SETS = {"Oxford-IIIT Pets": (CATS + " " + DOGS).split(), "Flowers-102": [str(number) for number in range(1, 103)]}

changed = False
for title, names in SETS.items():
    root = Path(title.split("-")[0]).absolute()
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(root / name / "0.png")  # the colour says which class it is

    def numbers(pairs):
        return {names[image.getpixel((0, 0))[0]]: int(label) for image, label in pairs}

    by_timm = numbers(create_dataset("", str(root)))
    by_timm_hfds = numbers(create_dataset(f"hfds/{root}", None, split="train"))
    by_torchvision = numbers(ImageFolder(str(root)))
    rows = datasets.load_dataset("imagefolder", data_dir=str(root), split="train")
    by_datasets = numbers((row["image"], row["label"]) for row in rows)
    agree = sum(by_timm[name] == by_torchvision[name] for name in names)
    alike, within = by_torchvision == by_datasets, by_timm_hfds == by_datasets
    print(
        f"{title}: torchvision as datasets {alike}, timm's hfds as datasets {within}; "
        f"timm's folders agree in {agree} of {len(names)} ({agree / len(names):.1%})".replace("%", " %")
    )
    changed |= not alike or not within or agree > len(names) / 2
if changed:
    sys.exit("changed: the readers number class folders alike, or differ in another way")
EOF
