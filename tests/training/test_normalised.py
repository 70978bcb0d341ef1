"""Weights that were trained with another normalisation than the recipe's: timm says of its own which that is."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers.recipes import TINY, tiny
from helpers.runs import interrupted
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg

from coadvise.checkpoints.model_file import save_model
from coadvise.models.students import as_student
from coadvise.recipe.data import IMAGENET_MEAN, IMAGENET_STD
from coadvise.recipe.reading import recipe_from
from coadvise.recipe.schema import Recipe
from coadvise.recipe.yaml import parse_yaml
from coadvise.system.progress import Display
from coadvise.training.range_test import find_lr
from coadvise.training.student import normalised_otherwise
from coadvise.training.train import train

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "pretrained-students.md"
DINO = "vit_small_patch14_dinov2.lvd142m"
HALF = [0.5, 0.5, 0.5]
SMALL: dict[str, Any] = {"patch_size": 2, "embed_dim": 24, "depth": 2, "num_heads": 2}


def warning(student: dict[str, Any], section: str = "student", **data: Any) -> str:
    recipe = recipe_from({"name": "x", "data": {"source": "digits", **data}, "student": student})
    name = recipe.student.model
    with torch.device("meta"):
        return normalised_otherwise(recipe, timm.create_model(name, depth=1), section)


def test_the_guides_recipe_is_right_and_without_its_two_lines_it_is_told() -> None:
    text = GUIDE.read_text(encoding="utf-8").partition("In a recipe of your own:")[2]
    content: Any = parse_yaml(text.partition("```yaml\n")[2].partition("```")[0], "the guide")
    student = content["student"] | {"pretrained": True}
    cfg = get_pretrained_cfg(student["model"])
    assert cfg is not None and (tuple(content["data"]["mean"]), tuple(content["data"]["std"])) == (cfg.mean, cfg.std)
    assert not warning(student, **{key: value for key, value in content["data"].items() if key != "source"})
    said = warning(student)
    assert "mean [0.485,0.456,0.406] and std [0.229,0.224,0.225]" in said
    assert said.endswith("give data.mean=[0.5,0.5,0.5] data.std=[0.5,0.5,0.5]")


def test_other_weights_in_a_recipe_made_for_these() -> None:
    cfg = get_pretrained_cfg(DINO)
    assert cfg is not None and cfg.mean == IMAGENET_MEAN
    half = {"mean": HALF, "std": HALF}
    student = {"model": DINO, "pretrained": True}
    assert "data.mean=[0.485,0.456,0.406] data.std=[0.229,0.224,0.225]" in warning(student, **half)
    assert "teachers.a.mean=[0.485,0.456,0.406] teachers.a.std=" in warning(student, "teachers.a", **half)
    assert not warning(student) and not warning({"model": DINO}, **half)  # random weights want nothing


def test_of_a_file_its_name_or_its_header_states_it(tmp_path: Path) -> None:
    half = {"mean": HALF, "std": HALF}
    for file, told in {"vit_tiny_patch16_224.augreg_in21k-0a.pth": True, "vit_tiny_patch16_224.pth": False}.items():
        save_file({"x": torch.zeros(1)}, tmp_path / file)
        for model in ("vit_tiny_patch16_224", "vit_tiny_patch16_224.augreg_in21k"):
            student = {"model": model, "checkpoint": str(tmp_path / file)}
            assert bool(warning(student)) is told and not warning(student, **half)
    path = tmp_path / "ours.safetensors"
    own = {"model": "vit_tiny_patch16_224", "options": {"depth": 1}}
    recipe = tiny(tmp_path, student=own)
    with torch.device("meta"):
        shape = timm.create_model(own["model"], depth=1, img_size=16)
    save_model(
        path, as_student(shape.to_empty(device="cpu")), recipe, ("a", "b"), weights="student", epoch=0, metrics={}
    )
    assert recipe.data.mean == (0.5, 0.5, 0.5)
    student = {**own, "checkpoint": str(path)}
    assert "data.mean=[0.5,0.5,0.5]" in warning(student) and not warning(student, **half)


class Said(Display):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def of_published(tmp_path: Path, right: bool, changes: dict[str, Any]) -> Recipe:
    """A recipe that starts from weights that want mean and std of 0.5, and that gives those or ImageNet's."""
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=8, **SMALL)
    path = tmp_path / "vit_tiny_patch16_224.augreg_in21k.safetensors"
    save_file(model.state_dict(), path)
    student = {"model": "vit_tiny_patch16_224", "options": SMALL, "checkpoint": str(path)}
    data = TINY["data"] | ({} if right else {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)})
    return tiny(tmp_path / "run", changes, student=student, data=data)


@pytest.mark.parametrize("right", [True, False])
def test_a_run_says_it_once(tmp_path: Path, right: bool) -> None:
    recipe = of_published(tmp_path, right, {"schedule.epochs": 2, "run.baselines": []})
    first, again = Said(), Said()
    interrupted(recipe, 6, display=first)
    train(recipe, resume=True, display=again)
    count = ["were trained with mean" in line for line in first.lines].count(True)
    assert count == (0 if right else 1) and not any("were trained with mean" in line for line in again.lines)


@pytest.mark.parametrize("right", [True, False])
def test_a_range_test_says_it(tmp_path: Path, right: bool) -> None:
    said = Said()
    find_lr(of_published(tmp_path, right, {}), 1e-6, 0.1, 20, said)
    assert ["were trained with mean" in line for line in said.lines].count(True) == (0 if right else 1)
