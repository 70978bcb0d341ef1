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


def address(model: str) -> tuple[str, str] | None:
    """Kind and address of a model of another place, `run:runs/a` → (run, runs/a); None for a name of timm's or ours."""
    kind, colon, rest = model.partition(":")
    return (kind, rest) if colon and kind in KINDS else None


def guess_bias(model: str) -> str | None:
    """Bias of a model by its name: `inv` for RedNet, `conv` for the usual convolutional families."""
    if found := address(model):
        model = re.split(r"[/\\]", found[1])[-1].replace("-", "_").lower()
    if model.startswith("rednet"):
        return "inv"
    families = "resnet|resnext|regnet|convnext|efficientnet|wide_resnet|densenet|vgg"
    return "conv" if re.match(families, model) else None
