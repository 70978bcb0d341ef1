"""Tiny runs: trained, interrupted, resumed and compared."""

import json
import os
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from coadvise.checkpoints.build import build_student
from coadvise.errors import Interrupted
from coadvise.models.cit import CiT
from coadvise.recipe.schema import Recipe
from coadvise.run.folder import read_metrics
from coadvise.run.result import RunResult
from coadvise.system.progress import Display
from coadvise.training.train import train

QUIET = Display(quiet=True)


def run(recipe: Recipe, **options: Any) -> RunResult:
    return train(recipe, display=QUIET, **options)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Everything that a resume restores: weights, EMA, optimizer, generators."""
    return load_file(folder / "last.safetensors")


def assert_same_run(a: Path, b: Path) -> None:
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert load_file(a / "best.safetensors").keys() == load_file(b / "best.safetensors").keys()
    best = [load_file(folder / "best.safetensors") for folder in (a, b)]
    assert all(torch.equal(best[0][key], best[1][key]) for key in best[0])
    lines = [[without_speed(line) for line in read_metrics(folder / "metrics.jsonl")] for folder in (a, b)]
    assert lines[0] == lines[1]
    results = [json.loads((folder / "result.json").read_text()) for folder in (a, b)]
    assert results[0]["final"] == results[1]["final"] and results[0]["best"] == results[1]["best"]


def without_speed(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key != "images_per_s"}


def interrupted(recipe: Recipe, step: int, **given: Any) -> None:
    """Train until Ctrl-C arrives within update `step`."""
    seen = 0

    def hook(module: nn.Module, inputs: Any) -> None:
        nonlocal seen
        seen += module.training
        if module.training and seen == step:
            os.kill(os.getpid(), signal.SIGINT)

    def built(*args: Any, **options: Any) -> nn.Module:
        student = build_student(*args, **options)
        # The first layer is called once in each pass, whatever calls it. A CiT computes one with a hook in another way.
        leaves = (module for module in student.modules() if not list(module.children()))
        first = student.patch_embed if isinstance(student, CiT) else next(leaves)
        first.register_forward_pre_hook(hook)
        return student

    with mock.patch("coadvise.training.student.build_student", built), pytest.raises(Interrupted, match="is saved"):
        train(recipe, **({"display": QUIET} | given))


def photographs(root: Path, per_class: int) -> str:
    """Three classes that even a tiny network tells apart by their colour, in folders, so sorted by class."""
    rng = np.random.default_rng(0)
    for split, count in (("train", per_class), ("val", per_class)):
        for name, colour in (("dark", 30), ("grey", 128), ("light", 220)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(colour, 10, size=(8, 8, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i:03}.png")
    return str(root)


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "train"]
