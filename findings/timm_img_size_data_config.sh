#!/usr/bin/env bash
# timm: a model made with `img_size=` still asks for the input size of its pretrained weights.
#
# Expected: `resolve_model_data_config(create_model(NAME, img_size=128))["input_size"]` is (3, 128, 128), the size for which
#           the model was built; timm's own examples make the transforms from it.
# Happens:  it is the size of the published weights, for every model that takes `img_size` (one of each family is tried).
#           Most then raise at the first image, but some run and are silently fed several times the pixels.
# Matters:  fine-tuning at a small size: evaluation, and whatever feeds a frozen teacher, works at another size than
#           training did, at 3 to 64 times the pixels.
# Versions: timm 1.0.31, torch 2.15.0, Python 3.11; random weights, on the meta device.
# Seen 2026-11-27:
#   made with img_size=128: 41 families, 41 of them ask for another size
#     efficientvit_m0              runs at 128 and, without a word, at 224 (3.1 times the pixels)
#     gemma4_vit_167m              runs at 128 and, without a word, at 768 (36.0 times the pixels)
#     mobilevit_s                  runs at 128 and, without a word, at 256 (4.0 times the pixels)
#     mvitv2_base                  runs at 128 and, without a word, at 224 (3.1 times the pixels)
#     naflexvit_base_patch16_gap   runs at 128 and, without a word, at 384 (9.0 times the pixels)
#     qwen3_vit_88m                runs at 128 and, without a word, at 768 (36.0 times the pixels)
#     repvit_m0_9                  runs at 128 and, without a word, at 224 (3.1 times the pixels)
#     sequencer2d_l                runs at 128 and, without a word, at 224 (3.1 times the pixels)
#     swiftformer_l1               runs at 128 and, without a word, at 224 (3.1 times the pixels)
#     twins_pcpvt_base             runs at 128 and, without a word, at 224 (3.1 times the pixels)
#     samvit_base_patch16          runs at 128 and, without a word, at 1024 (64.0 times the pixels)
#     xcit_large_24_p8_224         runs at 128 and, without a word, at 224 (3.1 times the pixels)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 timm==1.0.31 || { echo "not installed"; exit 2; }
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import sys
import warnings

import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import list_models, model_entrypoint

warnings.simplefilter("ignore")
SIZE = 128
families = {}
for name in list_models():
    families.setdefault(model_entrypoint(name).__module__.rsplit(".", 1)[-1], name)


def runs(model, size):
    try:
        model(torch.empty(1, 3, size, size, device="meta"))
    except Exception:
        return False
    return True


tried, wrong, silent = 0, 0, {}
for family, name in sorted(families.items()):
    try:
        model = timm.create_model(name, img_size=SIZE, num_classes=10, device="meta").eval()
    except TypeError:  # a family without that option
        continue
    told = resolve_model_data_config(model)["input_size"][-1]
    tried += 1
    wrong += told != SIZE
    if told != SIZE and runs(model, SIZE) and runs(model, told):
        silent[name] = told
print(f"made with img_size={SIZE}: {tried} families, {wrong} of them ask for another size")
for name, told in silent.items():
    print(f"  {name:28} runs at {SIZE} and, without a word, at {told} ({(told / SIZE) ** 2:.1f} times the pixels)")
if not (tried >= 20 and wrong == tried and len(silent) >= 5):
    sys.exit(f"changed: {wrong} of {tried} families ask for another size, {len(silent)} run at it")
EOF
