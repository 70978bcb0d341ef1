#!/usr/bin/env bash
# datasets: `map` writes every image anew that its function has looked at: JPEGs at quality 75, files by their old name.
#
# Expected: a function that looks at an image and returns a new column alone leaves the image as it was; and an image that is
#           changed in place is stored as changed, or not, wherever it comes from.
# Happens:  a column that was looked at counts as returned. A JPEG from Parquet, the Hub or a WebDataset is compressed a second
#           time, with Pillow's default quality; one with an orientation in its EXIF becomes a PNG. An image of a file is
#           stored as the file's name: a change in place (`thumbnail`, `paste`, ImageDraw) is lost there, and kept in Parquet.
#           The same function given its column by `input_columns` leaves every byte. No message.
# Matters:  sizes, hashes, embeddings or a teacher's logits are added to a data set, and its images have lost detail for good,
#           differ from those that the logits were computed of, and take a third of the space or twice as much. Pushed to the
#           Hub, that is the data set.
# Versions: datasets 5.2.0, Pillow 13.0.0, scikit-learn 1.9.1 (for its photograph), Python 3.11.
# Seen 2026-11-28:
#   input_columns: the same bytes True; without: 196653 bytes become 61147, 5.0 grey levels off on average, 73 at most
#   with an orientation: 201145 bytes of JPEG become 495645 of PNG; width after thumbnail: {'bytes': 64, 'file': 640}
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0 pillow==13.0.0 scikit-learn==1.9.1 || { echo "not installed"; exit 2; }
cd "$folder"
HF_HOME="$folder" HF_DATASETS_DISABLE_PROGRESS_BARS=1 "$folder/venv/bin/python" - <<'EOF'
import importlib.util
import io
import sys
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pillow

photograph = Path(importlib.util.find_spec("sklearn").origin).with_name("datasets") / "images" / "china.jpg"
turned, exif = io.BytesIO(), Pillow.Exif()
exif[0x0112] = 6
Pillow.open(photograph).save(turned, "JPEG", quality="keep", exif=exif)
stored = {"bytes": {"bytes": photograph.read_bytes()}, "turned": {"bytes": turned.getvalue()}, "file": str(photograph)}
features = Features(image=Image(), label=Value("int64"))
sets = {name: Dataset.from_dict({"image": [image], "label": [0]}, features=features) for name, image in stored.items()}


def look(example):
    return {"width": example["image"].width}


def look_at_column(image):
    return {"width": image.width}


def in_place(example):
    example["image"].thumbnail((64, 64))
    return example


def content(dataset):
    return dataset.cast_column("image", Image(decode=False))[0]["image"]["bytes"]


def pixels(content):
    return np.asarray(Pillow.open(io.BytesIO(content)), dtype=np.float64)


before = content(sets["bytes"])
kept = content(sets["bytes"].map(look_at_column, input_columns="image")) == before
after = content(sets["bytes"].map(look))
off = np.abs(pixels(after) - pixels(before))
grown = content(sets["turned"].map(look))
widths = {name: sets[name].map(in_place)[0]["image"].width for name in ("bytes", "file")}
print(f"input_columns: the same bytes {kept}; without: {len(before)} bytes become {len(after)}, {off.mean():.1f} grey levels "
      f"off on average, {off.max():.0f} at most")
print(f"with an orientation: {len(turned.getvalue())} bytes of JPEG become {len(grown)} of "
      f"{Pillow.open(io.BytesIO(grown)).format}; width after thumbnail: {widths}")
if not (kept and len(after) < len(before) / 2 and off.mean() > 1 and widths == {"bytes": 64, "file": 640}):
    sys.exit(f"changed: {kept}, {len(before)}, {len(after)}, {widths}")
EOF
