"""A ViT of timm as a student with added tokens: trained, resumed, rebuilt."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers.recipes import CNN, INN, tiny
from helpers.runs import run
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

import coadvise
from coadvise.advice.identity import differences, teacher_facts
from coadvise.advice.request import CacheRequest
from coadvise.checkpoints.build import build_student
from coadvise.checkpoints.teachers import build_teacher
from coadvise.checkpoints.trained import load_trained
from coadvise.data.loader import EvalLoader
from coadvise.data.sources.opening import open_sources
from coadvise.errors import ModelError
from coadvise.export.exporting import export
from coadvise.export.targets import TARGETS
from coadvise.models.advised import AdvisedViT
from coadvise.models.students import classifier_of
from coadvise.models.teachers import FrozenTeacher
from coadvise.recipe.schema import Teacher
from coadvise.training.student import new_student

VIT = {
    "model": "vit_tiny_patch16_224",
    "options": {"patch_size": 2, "embed_dim": 24, "depth": 2, "num_heads": 2, "drop_path_rate": 0.1},
}


def advised(output: Path, changes: dict[str, Any] | None = None) -> Any:
    teachers = {"conv": CNN, "inv": INN}
    return tiny(output, changes, student=VIT, teachers=teachers, loss={"tokens": "own"})


def test_it_starts_from_weights_and_is_rebuilt_with_its_tokens(tmp_path: Path) -> None:
    torch.manual_seed(1)
    sizes: Any = VIT["options"]
    model = timm.create_model(VIT["model"], num_classes=10, img_size=8, **sizes)
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    result = run(advised(tmp_path / "run", {"schedule.epochs": 2, "student.checkpoint": str(tmp_path / "vit.pth")}))
    assert result.student.tokens == {"conv": "conv", "inv": "inv"}
    assert {"accuracy/class", "accuracy/conv", "accuracy/inv"} <= result.final.keys()
    trained = load_trained(tmp_path / "run")
    assert isinstance(trained.model, AdvisedViT)
    images = torch.randn(3, 3, 8, 8)
    # The file's `model.` part is a state of timm's own model, which answers alike.
    own = {k.removeprefix("model."): v for k, v in trained.model.state_dict().items() if k.startswith("model.")}
    model.eval().load_state_dict(own)
    assert torch.equal(model(images), trained.model(images))
    assert set(trained.tokens(images)) == {"class", "conv", "inv"}


def test_a_run_is_gone_on_with_and_becomes_a_teacher(tmp_path: Path) -> None:
    """A new run starts with all that the first one learned; a teacher is the ViT alone."""
    first = advised(tmp_path / "a", {"schedule.epochs": 2})
    run(first)
    kept = load_trained(tmp_path / "a").model
    again = {"student.checkpoint": str(tmp_path / "a" / "best.safetensors")}
    started = new_student(advised(tmp_path / "b", again), 10, 1, None, ("conv", "inv"))
    for name, weight in kept.state_dict().items():
        torch.testing.assert_close(started.state_dict()[name], weight, rtol=0, atol=0)
    # Other tokens begin as they do on any ViT: the class token's start, the class head.
    settings = first.student.model_copy(update={"checkpoint": str(tmp_path / "a")})
    other = build_student(settings, {"x": None}, 10, 8, add=True)
    assert torch.equal(other.advised_heads["x"].weight, kept.model.head.weight)  # type: ignore[index,union-attr]
    images = torch.randn(3, 3, 8, 8)
    advising = Teacher(model=VIT["model"], checkpoint=str(tmp_path / "a"))
    teacher = build_teacher("t", advising, tuple(map(str, range(10))))
    torch.testing.assert_close(teacher(images), kept(images), rtol=0, atol=0)


def test_a_distilled_deit_answers_as_it_is_measured(tmp_path: Path) -> None:
    """By its class head: the run's numbers, a loaded model, timm's own folder, and a teacher of the run."""
    deit: Any = {**VIT, "model": "deit_tiny_distilled_patch16_224"}
    torch.manual_seed(0)
    start = timm.create_model(deit["model"], num_classes=10, img_size=8, **deit["options"])
    for weight in (one for one in start.parameters() if one.ndim in (2, 4)):  # so that images are told apart
        torch.nn.init.normal_(weight, std=0.3)
    torch.save(start.state_dict(), tmp_path / "deit.pth")
    deit["checkpoint"] = str(tmp_path / "deit.pth")
    short = {"schedule": {"epochs": 1, "warmup_epochs": 0}, "optim.lr": 1e-4}
    recipe = tiny(tmp_path / "run", short, student=deit, teachers={"conv": CNN}, loss={"tokens": "own"})
    result, model = run(recipe), coadvise.load(tmp_path / "run")
    source = open_sources(recipe.data)[1]
    images = torch.cat([batch.images for batch in EvalLoader(source, recipe.data, 101)])
    export(tmp_path / "run", TARGETS["timm"])
    teacher = build_teacher("t", Teacher(model=deit["model"], checkpoint=str(tmp_path / "run")), model.classes)
    timms = timm.create_model(f"local-dir:{tmp_path / 'run' / 'export' / 'timm'}", pretrained=True).eval()
    vit = load_trained(tmp_path / "run").model.model
    vit.set_distilled_training(True)  # type: ignore[operator, union-attr]
    for block in vit.train().blocks:  # type: ignore[union-attr]
        block.eval()  # drop path
    with torch.no_grad():
        expected, other = vit(images)  # type: ignore[operator]
        assert type(timms) is VisionTransformer and timms.num_reg_tokens == 1
        for answers in (model.model, timms, teacher):
            torch.testing.assert_close(answers(images), expected, atol=1e-5, rtol=1e-5)
    facts = [teacher_facts(CacheRequest.of(recipe), "conv", FrozenTeacher(one), 10) for one in (model.model, vit)]
    assert differences(*facts) == ["answers by its class head → None"]  # advice of one is none of the other's
    right = [(logits.argmax(1).numpy() == source.labels).mean() for logits in (expected, (expected + other) / 2)]
    assert right[0] != right[1]  # otherwise this shows nothing
    assert result.best.value == result.delivered["accuracy/class"] == pytest.approx(right[0])


def test_the_model_of_an_address_is_rebuilt_with_its_tokens(tmp_path: Path) -> None:
    sizes: Any = {**VIT["options"], "drop_path_rate": 0.0, "img_size": 8}
    model = timm.create_model(VIT["model"], num_classes=10, **sizes)
    timm.models.save_for_hf(model, tmp_path / "folder", model_args=sizes, safe_serialization=True)
    run(advised(tmp_path / "run", {"schedule.epochs": 2, "student": {"model": f"local-dir:{tmp_path / 'folder'}"}}))
    shutil.rmtree(tmp_path / "folder")
    trained = load_trained(tmp_path / "run")
    saved = load_file(tmp_path / "run" / "best.safetensors")
    assert isinstance(trained.model, AdvisedViT) and trained.model.state_dict().keys() == saved.keys()
    model.load_state_dict({k.removeprefix("model."): v for k, v in saved.items() if k.startswith("model.")})
    images = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(trained.model(images), model.eval()(images))


def test_the_default_stays_one_head(tmp_path: Path) -> None:
    recipe = advised(tmp_path / "run", {"schedule.epochs": 2, "loss.tokens": "auto"})
    run(recipe)
    trained = load_trained(tmp_path / "run")
    assert not isinstance(classifier_of(trained.model), AdvisedViT)
    assert set(trained.tokens(torch.randn(1, 3, 8, 8))) == {"class"}


def test_a_student_that_takes_no_tokens_says_why(tmp_path: Path) -> None:
    recipe = advised(tmp_path / "run", {"student": {"model": "resnet10", "options": {"channels": [8, 8, 8, 8]}}})
    with pytest.raises(ModelError, match="ResNet is no ViT"):
        run(recipe)
