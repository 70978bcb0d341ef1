#!/usr/bin/env bash
# webdataset: samples whose files are links vanish from a tar.
#
# Expected: a tar that `tarfile` and `tar -x` unpack to nine complete samples gives nine samples.
# Happens:  only regular members are read. GNU tar and `tarfile` write the second file of one inode as a hard link, symbolic
#           links as themselves; a sample all of whose files are links is left out without a message.
# Matters:  data sets freed of duplicates (`rdfind`, `cp -al`, `fdupes -L`), subsets made of links to a larger set, images
#           that belong to two classes: whole classes can be missing, and the number of samples is not known beforehand.
# Versions: webdataset 1.0.2, Python 3.11.
# Seen 2026-11-27:
#   tarfile reads 9 images, webdataset gives 6 samples: 0 1 2 3 4 5
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet webdataset==1.0.2 numpy==2.4.6 || { echo "not installed"; exit 2; }
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import os
import sys
import tarfile
from pathlib import Path

import webdataset

root = Path("images")
root.mkdir()
for i in range(6):
    (root / f"{i}.jpg").write_bytes(bytes([i]) * 100)
    (root / f"{i}.cls").write_text(str(i % 2))
for end in ("jpg", "cls"):
    os.link(root / f"0.{end}", root / f"6.{end}")  # as tools that remove duplicates leave them
    os.link(root / f"1.{end}", root / f"7.{end}")
    os.symlink(f"2.{end}", root / f"8.{end}")
with tarfile.open("images.tar", "w") as tar:
    for path in sorted(root.iterdir()):
        tar.add(path, path.name)
with tarfile.open("images.tar") as tar:
    whole = sum(len(tar.extractfile(member).read()) == 100 for member in tar if member.name.endswith(".jpg"))
samples = [sample["__key__"] for sample in webdataset.WebDataset("images.tar", shardshuffle=False)]
print(f"tarfile reads {whole} images, webdataset gives {len(samples)} samples: {' '.join(samples)}")
if (whole, len(samples)) != (9, 6):
    sys.exit(f"changed: {len(samples)} samples of {whole}")
EOF
