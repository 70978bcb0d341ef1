"""`pretrained: auto`: weights where they can be had, and what runs where they cannot."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import timm
import torch
from accelerate import Accelerator
from helpers.hub import silent_hub
from helpers.recipes import CNN, tiny
from helpers.runs import QUIET, assert_same_run, interrupted, run

from coadvise.checkpoints.build import build_student
from coadvise.errors import ModelError, NoWeights, RecipeError
from coadvise.models import factory
from coadvise.models.factory import build_model
from coadvise.recipe.reading import load_recipe
from coadvise.recipe.schema import Student
from coadvise.run.folder import RunFolder
from coadvise.system.progress import Display
from coadvise.training import published
from coadvise.training.published import settled
from coadvise.training.train import train

VIT: dict[str, Any] = {
    "model": "vit_tiny_patch16_224",
    "options": {"patch_size": 2, "embed_dim": 24, "depth": 2, "num_heads": 2},
    "pretrained": "auto",
}
SMALL = {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}
TEACHER = {**CNN, "model": "resnet18", "options": SMALL, "pretrained": "auto"}
TUNING = {"optim.layer_decay": 0.7, "optim.backbone_lr": 0.5, "schedule.head_epochs": 1, "schedule.epochs": 2}


class Said(Display):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def auto(output: Path, changes: dict[str, Any] | None = None) -> Any:
    teachers = {"conv": TEACHER}
    return tiny(output, {**TUNING, **(changes or {})}, student=VIT, teachers=teachers, loss={"tokens": "own"})


def test_without_a_network_it_says_so_asks_once_and_records_what_ran(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = Said()
    with silent_hub(monkeypatch, tmp_path / "cache") as asked:
        train(auto(tmp_path / "run"), display=said)
        assert len(asked) == 1
    notes = [line for line in said.lines if "random weights" in line]
    assert len(notes) == 2 and all("Expect much lower accuracy" in note for note in notes)
    assert "student.checkpoint=FILE" in notes[0] and "no answer from the Hugging Face Hub" in notes[0]
    assert (
        notes[1].startswith("teacher conv starts from random weights") and "teachers.conv.checkpoint=FILE" in notes[1]
    )
    recorded = load_recipe(tmp_path / "run" / "recipe.yaml")
    plain = tiny(
        tmp_path / "run", {"schedule.epochs": 2, "student.pretrained": False, "teachers.conv.pretrained": False},
        student=VIT, teachers={"conv": dict(TEACHER)}, loss={"tokens": "own"},
    )  # fmt: skip
    assert recorded == plain and RunFolder(tmp_path / "run").result().fingerprint == plain.fingerprint()


def test_a_resume_goes_on_as_its_run_began(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = auto(tmp_path / "run")
    with silent_hub(monkeypatch, tmp_path / "cache"):
        interrupted(recipe, 4)
    with mock.patch.object(published, "build_model", side_effect=AssertionError("nothing is asked again")):
        run(recipe, resume=True)
    assert load_recipe(tmp_path / "run" / "recipe.yaml").student.pretrained is False


def test_weights_that_can_be_had_are_taken(tmp_path: Path) -> None:
    with mock.patch.object(published, "build_model"):
        recipe = settled(auto(tmp_path), RunFolder(tmp_path), Accelerator(cpu=True), QUIET)
    assert recipe.student.pretrained is True and recipe.teachers["conv"].pretrained is True
    assert recipe.optim.layer_decay == 0.7 and recipe.schedule.head_epochs == 1


def test_a_file_or_a_module_takes_their_place_without_a_word(tmp_path: Path) -> None:
    said = Said()
    with mock.patch.object(published, "build_model", side_effect=AssertionError):
        recipe = auto(tmp_path, {"student.checkpoint": "vit.pth"})
        recipe = settled(recipe, RunFolder(tmp_path), Accelerator(cpu=True), said, ["teachers.conv"])
    assert recipe.student.pretrained is False and recipe.optim.layer_decay == 0.7 and not said.lines


def test_a_run_from_published_weights_is_gone_on_with_without_a_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its recipe says `pretrained: true`, as its first start decided; a file of weights takes their place."""
    settings = Student(model=VIT["model"], options=VIT["options"], pretrained=True, checkpoint=str(tmp_path / "a.pth"))
    model = timm.create_model(VIT["model"], num_classes=3, img_size=8, **VIT["options"])
    torch.save(model.state_dict(), tmp_path / "a.pth")
    with silent_hub(monkeypatch, tmp_path / "hub") as asked:
        student = build_student(settings, {}, 3, 8)
    assert torch.equal(student.get_parameter("model.head.weight"), model.head.weight) and not asked


@pytest.mark.parametrize(("of", "step"), [("student", 13), ("conv", 3)])
def test_a_resumed_run_has_its_weights_in_its_own_state(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, of: str, step: int
) -> None:
    """Its first start had published weights; the one that goes on has neither a network nor a cache."""
    create = timm.create_model
    changes = {"student.pretrained": of == "student", "teachers.conv.pretrained": True, "run.baselines": []}

    def had(name: str, *, pretrained: bool = False, **options: Any) -> Any:
        model = create(name, **options)
        for weight in model.parameters() if pretrained else ():
            weight.data += 0.01
        return model

    with monkeypatch.context() as patched:
        patched.setattr(factory, "require_reachable", lambda *_: None)
        patched.setattr(timm, "create_model", had)
        run(auto(tmp_path / "whole", changes))
        interrupted(auto(tmp_path / "run", changes), step)
    assert RunFolder(tmp_path / "run").last.is_file() == (of == "student")
    with silent_hub(monkeypatch, tmp_path / "cache") as asked:
        run(auto(tmp_path / "run", changes), resume=True)
    assert not asked
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_model_without_published_weights_and_mistakes(tmp_path: Path) -> None:
    recipe, said = tiny(tmp_path, {"student.pretrained": "auto"}), Said()
    assert settled(recipe, RunFolder(tmp_path), Accelerator(cpu=True), said).student.pretrained is False
    assert "cit_tiny has no published weights" in said.lines[0]
    with pytest.raises(NoWeights, match="set pretrained: false"):
        build_model("cit_tiny", 10, pretrained=True)
    wrong = tiny(tmp_path, {"student.pretrained": "auto", "student.options.dept": 3})
    with pytest.raises(ModelError, match="no option 'dept'"):
        settled(wrong, RunFolder(tmp_path), Accelerator(cpu=True), said)
    with pytest.raises(RecipeError, match=r"student\.pretrained is 'maybe', must be one of 'auto', True or False"):
        tiny(tmp_path, {"student.pretrained": "maybe"})
    with pytest.raises(RecipeError, match="conv would advise with random weights where there are no others"):
        tiny(tmp_path, teachers={"conv": {"model": "resnet18", "pretrained": "auto"}})
    assert tiny(tmp_path, {"student.pretrained": "yes"}).student.pretrained is True


def test_recipes_for_ones_own_photographs_need_no_network() -> None:
    for name in ("folder", "finetune", "scratch"):
        recipe = load_recipe(name)
        parts = (recipe.student, *recipe.teachers.values())
        assert {part.model for part in parts if part.pretrained is not False} and recipe.name == name
        assert all(part.pretrained in ("auto", False) for part in parts)
