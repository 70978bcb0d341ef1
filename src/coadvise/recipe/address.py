"""Teachers of other places: what stands before the colon of a model's name says which place, the rest what is there."""

from __future__ import annotations

import re

KINDS = {
    "run": "a folder of a run of coadvise",
    "transformers": "a folder that Transformers wrote, or a name on the Hugging Face Hub",
    "onnx": "an ONNX file",
    "torchvision": "a name, such as resnet50 or resnet50.IMAGENET1K_V1",
}
"""What each kind's address is."""
REFUSED = {
    "export": "PyTorch runs code that stands in such a file while it reads it; read it yourself with "
    "torch.export.load, and give the program as a teacher from Python: coadvise.train(recipe, teachers={…})",
}
"""Kinds that a recipe cannot name, and why."""


_FAMILIES = {
    "conv": "resnet|resnext|regnet|convnext|efficientnet|wide_resnet|densenet|vgg",
    "attn": r"(vit|deit3?|beit(v2|3)?|eva(02)?|cait|swin(v2)?|hiera|flexivit|naflexvit|samvit)_"
    r"(?!hybrid)(?!.*(r\d*_s\d|resnet|mci))"  # those in which a CNN makes the patches
    r"|dinov2_|transformer_(tiny|small)$",
    "mlp": "mixer_|gmixer_|resmlp_|gmlp_",
}
"""What the names of the families of each kind begin with."""


def address(model: str) -> tuple[str, str] | None:
    """Kind and address of a model of another place, `run:runs/a` → (run, runs/a); None for a name of timm's or ours."""
    kind, colon, rest = model.partition(":")
    return (kind, rest) if colon and kind in KINDS else None


def guess_bias(model: str) -> str | None:
    """Bias of a model by its name: `inv` for RedNet, `conv` for the usual convolutional families, `attn` for ViTs and
    Swin, `mlp` for Mixers; None for what mixes several, and for whatever is not known by name."""
    if found := address(model):
        model = re.split(r"[/\\]", found[1])[-1].replace("-", "_").lower()
    if model.startswith("rednet"):
        return "inv"
    return next((bias for bias, families in _FAMILIES.items() if re.match(families, model)), None)
