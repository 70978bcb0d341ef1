"""Teachers from their files: the names of the classes decide, in whatever order."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import timm
import torch
from helpers.recipes import CNN, tiny
from helpers.runs import run
from helpers.work import calls_at_most
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from coadvise.checkpoints.build import build_student
from coadvise.checkpoints.loading import load_checkpoint
from coadvise.checkpoints.model_file import save_model
from coadvise.checkpoints.teachers import build_teacher
from coadvise.checkpoints.trained import load_trained
from coadvise.errors import CheckpointError, CoadviseError, ModelError
from coadvise.models.answers import named_classes
from coadvise.models.students import small_stem
from coadvise.models.teachers import FrozenTeacher
from coadvise.recipe.schema import Student, Teacher
from coadvise.training.student import new_student
from coadvise.training.teachers import given_teacher

OPTIONS = {"channels": [8, 8, 16, 16]}


def teacher_file(path: Path, names: tuple[str, ...]) -> torch.nn.Module:
    """A teacher of classes in that order, as a run writes it."""
    model = timm.create_model("resnet10", num_classes=len(names), **OPTIONS).eval()
    student = {"model": "resnet10", "options": OPTIONS}
    save_model(path, model, tiny(path.parent, student=student), names, weights="student", epoch=1, metrics={})
    return model


def settings(path: Path, **more: object) -> Teacher:
    return Teacher.model_validate({"model": "resnet10", "checkpoint": str(path), **more})


def test_names_decide_the_order_of_the_classes(tmp_path: Path) -> None:
    """Of every image, each of the data's classes gets the logit that the model itself gives the class of that name."""
    own, data = ("cat", "dog", "owl", "cow"), ("cow", "dog", "cat", "owl")
    model = teacher_file(tmp_path / "t.safetensors", own)
    x = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        by_name = [dict(zip(own, row.tolist(), strict=True)) for row in model(x)]
    expected = torch.tensor([[logits[name] for name in data] for logits in by_name])
    found = build_teacher("t", settings(tmp_path / "t.safetensors", image_size=32), data)(x)
    torch.testing.assert_close(found, expected)
    again = timm.create_model("resnet10", num_classes=4, **OPTIONS)
    load_checkpoint(again, tmp_path / "t.safetensors")
    for given in (again, FrozenTeacher(again), torch.nn.Sequential(again)):
        torch.testing.assert_close(given_teacher("t", given, data)(x), expected)
    same = build_teacher("t", settings(tmp_path / "t.safetensors"), own)
    assert same.classes is None and given_teacher("t", again, own).classes is None


def test_classes_that_only_one_side_has(tmp_path: Path) -> None:
    """The data's own that the teacher lacks get no advice, the teacher's that the data lacks are left out."""
    model = teacher_file(tmp_path / "t.safetensors", ("cat", "dog", "owl"))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        z = model(x)
    nothing = torch.full((2,), -torch.inf)
    for data, columns, known in (
        (("cat", "dog", "eagle"), [z[:, 0], z[:, 1], nothing], (0, 1)),
        (("owl", "Dog"), [z[:, 2], z[:, 1]], None),
        (("a", "owl", "b", "c", "CAT"), [nothing, z[:, 2], nothing, nothing, z[:, 0]], (1, 4)),
    ):
        teacher = build_teacher("t", settings(tmp_path / "t.safetensors", image_size=32), data)
        torch.testing.assert_close(teacher(x), torch.stack(columns, dim=1))
        assert teacher.known == teacher.again().known == known
    load_checkpoint(model, tmp_path / "t.safetensors")
    for data, words in (
        (("cow", "eagle"), "knows none of the data's classes by name: it knows 'cat', 'dog', 'owl', .* 'cow', 'eagle'"),
        (("cat", *"abcdef"), "one of the data's 7 classes by name: .* 'd' and 2 more; .*teachers.t.classes"),
    ):
        with pytest.raises(ModelError, match=words):
            build_teacher("t", settings(tmp_path / "t.safetensors"), data)
        with pytest.raises(ModelError, match=words):
            given_teacher("t", model, data)
    # who says which is which is right
    assert (
        build_teacher("t", settings(tmp_path / "t.safetensors", classes=[2, 0]), ("eagle", "cat")).classes is not None
    )
    partial = build_teacher(
        "t", settings(tmp_path / "t.safetensors", classes=[2, None, 0], image_size=32), tuple("abc")
    )
    torch.testing.assert_close(partial(x), torch.stack([z[:, 2], nothing, z[:, 0]], dim=1))
    kept = FrozenTeacher(model, classes=[2, 0])
    assert given_teacher("t", kept, ("eagle", "cat")) is kept


def test_names_go_with_the_weights(tmp_path: Path) -> None:
    """Weights of another file, or another classifier, have nothing to do with the names of the first."""
    model = teacher_file(tmp_path / "t.safetensors", ("cat", "dog"))
    load_checkpoint(model, tmp_path / "t.safetensors")
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    load_checkpoint(model, tmp_path / "bare.pth")
    assert given_teacher("t", model, ("sun", "moon")).classes is None
    load_checkpoint(model, tmp_path / "t.safetensors", new_classifier=True)
    assert given_teacher("t", model, ("sun", "moon")).classes is None
    load_checkpoint(model, tmp_path / "t.safetensors")
    model.reset_classifier(3)
    assert given_teacher("t", model, ("sun", "moon", "sky")).classes is None


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("mean", 1e300, "is 1e+300, must be ≤ 1000"), ("mean", -1e30, "is -1e+30, must be ≥ -1000"),
        ("std", 1e300, "is 1e+300, must be ≤ 1000"), ("std", 1e-300, "is 1e-300, must be ≥ 1e-06"),
        ("std", 0, "is 0, must be ≥"), ("std", -1, "is -1, must be ≥"), ("mean", math.nan, "is nan"),
    ],
)  # fmt: skip
def test_a_file_normalises_images_by_numbers_that_images_have(
    tmp_path: Path, key: str, value: float, words: str
) -> None:
    teacher_file(tmp_path / "t.safetensors", ("a", "b"))
    with safe_open(tmp_path / "t.safetensors", framework="pt") as file:
        metadata = file.metadata()
    content = json.loads(metadata["coadvise"])
    content["recipe"]["data"][key] = [0.5, value, 0.5]
    save_file(load_file(tmp_path / "t.safetensors"), tmp_path / "bad.safetensors", metadata | {
        "coadvise": json.dumps(content)
    })  # fmt: skip
    for read in (load_trained, lambda path: build_teacher("t", settings(path), ("a", "b"))):
        with pytest.raises(
            CheckpointError, match=rf"bad\.safetensors has a damaged header .*data\.{key}\.1 {re.escape(words)}"
        ):
            read(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"classes": 5}, {"classes": []}, {"classes": ["a", 3]}, {"classes": ["a", "a", "b"]}, {"recipe": 3},
        {"recipe": {}}, {"recipe": None}, {"given": 4}, {"built_as": 3}, {"built_as": {"model": "resnet10"}},
        {"recipe": {"name": "x", "data": 3}}, [], 7, None, "{", "[" * 100_000, "\ud800",
    ],
    ids=lambda change: str(change)[:30],
)  # fmt: skip
def test_damaged_headers_are_one_message_and_leave_the_model_alone(tmp_path: Path, change: object) -> None:
    model = teacher_file(tmp_path / "t.safetensors", ("a", "b", "c"))
    with safe_open(tmp_path / "t.safetensors", framework="pt") as file:
        metadata = file.metadata()
    content = json.loads(metadata["coadvise"])
    text = change if isinstance(change, str) else json.dumps(content | change if isinstance(change, dict) else change)
    bad = tmp_path / "bad.safetensors"
    save_file(model.state_dict(), bad, {**metadata, "coadvise": text.encode(errors="replace").decode()})
    other = timm.create_model("resnet10", num_classes=3, **OPTIONS)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    for action in (
        lambda: load_checkpoint(other, bad),
        lambda: load_trained(bad),
        lambda: build_teacher("t", settings(bad), ("a", "b", "c")),
    ):
        with pytest.raises(CheckpointError, match="damaged header"):
            action()
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    assert named_classes(other) is None


def test_a_models_own_attributes_are_left_alone(tmp_path: Path) -> None:
    """`class_names` of a user's model is how that user calls them, and no word about the order of the data's."""
    teacher_file(tmp_path / "t.safetensors", ("a", "b", "c"))
    model: Any = timm.create_model("resnet10", num_classes=3, **OPTIONS)
    model.class_names = ("Ant", "Bee", "Cow")
    given_teacher("t", model, ("a", "b", "c"))
    load_checkpoint(model, tmp_path / "t.safetensors")
    assert model.class_names == ("Ant", "Bee", "Cow") and named_classes(model) == ("a", "b", "c")


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ({"model": "hf-hub:me/resnet18.a1_in1k"}, "names the model 'hf-hub:.* elsewhere"),
        ({"model": "hf-hub:timm/vit_giant_patch14_224"}, "far larger than the weights"),
        ({"model": "local-dir:/tmp"}, "elsewhere"),
        ({"model": "resnet10", "options": {"features_only": True}}, "asks for features_only"),
        ({"model": "cit_tiny", "options": {"depth": 10**9}}, "asks for depth=1000000000"),
        ({"model": "cit_tiny", "options": {"patch_size": 2, "depth": 10_000}}, "far larger than the weights"),
        ({"model": "cit_tiny", "options": {"patch_size": 2, "embed_dim": 16_000, "num_heads": 1}}, "far larger"),
        ({"model": "resnet10", "options": {"channels": [16_000] * 4}}, "far larger than the weights"),
        ({"model": "vit_tiny_patch16_224", "options": {"img_size": 16384, "patch_size": 1, "depth": 1}}, "far larger"),
        ({"model": "mixer_tiny", "options": {"img_size": 16384, "patch_size": 1}}, "far larger than the weights"),
        ({"model": "cit_tiny", "options": {"img_size": 16384, "patch_size": 1, "depth": 1}}, "far larger than the"),
        ({"model": "beit_base_patch16_224", "options": {"img_size": 16384, "patch_size": 4}}, "far larger than the"),
        ({"model": "swin_tiny_patch4_window7_224", "options": {"img_size": 16384, "window_size": 4096}}, "far larger"),
        ({"model": "vit_giant_patch14_224"}, "far larger than the weights"),
    ],
)
def test_a_file_can_ask_for_no_more_than_it_has(tmp_path: Path, student: dict[str, Any], words: str) -> None:
    """Nothing is fetched, and no memory used: a socket would be an error, too."""
    path, recipe = tmp_path / "m.safetensors", tiny(tmp_path, student=student)
    save_model(path, torch.nn.Linear(2, 2), recipe, ("a", "b"), weights="student", epoch=1, metrics={})
    teacher = Teacher(model=str(student["model"]), checkpoint=str(path))
    for read in (load_trained, lambda path: build_teacher("t", teacher, ("a", "b"))):
        with (
            calls_at_most(4_000_000),
            mock.patch("socket.socket", side_effect=AssertionError("contacted")),
            pytest.raises(CoadviseError, match=words),
        ):
            read(path)


@pytest.mark.parametrize(
    "student",
    [
        {"model": "hf-hub:timm/resnet10.untrained@main"},
        {"model": "resnet10", "options": {"checkpoint_path": "/nowhere", "cache_dir": "/nowhere"}},
        {"model": "resnet10", "options": {"pretrained_cfg": {"hf_hub_id": "x/y", "url": "http://x"}}},
        {"model": "resnet10", "options": {"pretrained_cfg_overlay": {"file": "/nowhere", "global_pool": "max"}}},
    ],
)
def test_where_weights_once_came_from_is_no_matter(tmp_path: Path, student: dict[str, Any]) -> None:
    """They come from the file now; nothing is asked or read elsewhere."""
    options = {key: value for key, value in student.get("options", {}).items() if key == "pretrained_cfg_overlay"}
    pool = options["pretrained_cfg_overlay"]["global_pool"] if options else "avg"
    student = {**student, "options": {**student.get("options", {}), **OPTIONS}}
    model = timm.create_model("resnet10", num_classes=2, global_pool=pool, **OPTIONS).eval()
    path = tmp_path / "m.safetensors"
    save_model(path, model, tiny(tmp_path, student=student), ("a", "b"), weights="student", epoch=1, metrics={})
    x = torch.randn(2, 3, 32, 32)
    with mock.patch("socket.socket", side_effect=AssertionError("contacted")):
        found = load_trained(path).model
        teacher = build_teacher("t", Teacher(model=student["model"], checkpoint=str(path)), ("a", "b"))
    with torch.no_grad():
        assert torch.equal(found(x), model(x)) and torch.equal(teacher.model(x), model(x))


def test_a_model_of_another_place_is_rebuilt_when_that_is_gone(tmp_path: Path) -> None:
    """What its own files say of it goes into the model file."""
    place = tmp_path / "mine"
    place.mkdir()
    cfg = {"input_size": [3, 32, 32], "fixed_input_size": True, "mean": [0.5] * 3, "std": [0.5] * 3}
    args = {"depth": 1, "patch_size": 8, "num_heads": 3}
    content = {"architecture": "vit_tiny_patch16_224", "num_classes": 3, "pretrained_cfg": cfg, "model_args": args}
    (place / "config.json").write_text(json.dumps(content))
    recipe = tiny(tmp_path, {"data.image_size": 32}, student={"model": f"local-dir:{place}"})
    model = build_student(recipe.student, {}, 3, 32).eval()
    path = tmp_path / "m.safetensors"
    save_model(path, model, recipe, ("a", "b", "c"), weights="student", epoch=1, metrics={})
    shutil.rmtree(place)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load_trained(path).model(x), model(x))


def test_a_recipe_says_which_weights(tmp_path: Path) -> None:
    """A recipe that does not say keeps the fingerprint that it had before there was a choice."""
    models = [timm.create_model("resnet10", num_classes=3, **OPTIONS).eval() for _ in range(2)]
    torch.save({"state_dict": models[0].state_dict(), "state_dict_ema": models[1].state_dict()}, tmp_path / "t.pth.tar")
    for weights, model in ((None, models[1]), ("ema", models[1]), ("plain", models[0])):
        one = settings(tmp_path / "t.pth.tar", options=OPTIONS, checkpoint_weights=weights)
        found = build_teacher("t", one, ("a", "b", "c")).model.state_dict()
        assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())
    teacher = {"model": "resnet10", "checkpoint": "t.pth"}
    plain = tiny(tmp_path, teachers={"conv": teacher})
    assert "checkpoint_weights" not in str(plain.content())
    said = tiny(tmp_path, teachers={"conv": teacher | {"checkpoint_weights": "ema"}})
    assert said.fingerprint() != plain.fingerprint() and "checkpoint_weights" in str(said.content())


def test_messages_name_the_setting_of_the_recipe(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`weights=` is the keyword of a function, which a recipe does not have."""
    state = timm.create_model("resnet10", num_classes=3, **OPTIONS).state_dict()
    torch.save({"state_dict": state, "state_dict_ema": state}, tmp_path / "both.pth")
    torch.save({"state_dict": state}, tmp_path / "one.pth")
    part = {"model": "resnet10", "options": OPTIONS, "checkpoint": str(tmp_path / "both.pth")}
    as_teacher, as_student = Teacher(**part), Student(**part)
    build_teacher("cnn", as_teacher, ("a", "b", "c"))
    build_student(as_student, {}, 3, 32)
    new_student(tiny(tmp_path, student=part), 3, 1, None, (), "teachers.cnn")
    settings = ("teachers.cnn", "student", "teachers.cnn")
    assert [record.getMessage().count(f"({setting}.checkpoint_weights=ema)") for record, setting in zip(
        caplog.records, settings, strict=True
    )] == [1, 1, 1]  # fmt: skip
    wanted = {"checkpoint": str(tmp_path / "one.pth"), "checkpoint_weights": "ema"}
    with pytest.raises(CheckpointError, match=r"as teachers\.cnn\.checkpoint_weights=ema asks for"):
        build_teacher("cnn", as_teacher.model_copy(update=wanted), ("a", "b", "c"))
    with pytest.raises(CheckpointError, match=r"as student\.checkpoint_weights=ema asks for"):
        build_student(as_student.model_copy(update=wanted), {}, 3, 32)


def test_a_run_with_a_teacher_in_another_order(tmp_path: Path, trained: Path) -> None:
    """The same teacher with its classes and its classifier's rows turned round is as good, and advises the same."""
    best = trained / "conv" / "best.safetensors"
    model = timm.create_model("resnet10", num_classes=10, **CNN["options"])
    load_checkpoint(small_stem(model), best)
    order = [3, 1, 0, 2, 9, 8, 7, 6, 5, 4]
    with torch.no_grad():
        model.fc.weight.copy_(model.fc.weight[order].clone())
        model.fc.bias.copy_(model.fc.bias[order].clone())
    recipe = tiny(tmp_path, student={k: v for k, v in CNN.items() if k != "train"})
    names = tuple(str(digit) for digit in order)
    save_model(tmp_path / "turned.safetensors", model, recipe, names, weights="student", epoch=1, metrics={})
    results = []
    for path in (best, tmp_path / "turned.safetensors"):
        teacher = {k: v for k, v in CNN.items() if k != "train"} | {"checkpoint": str(path)}
        results.append(run(tiny(tmp_path / path.stem, {"schedule.epochs": 2}, teachers={"conv": teacher})))
    assert results[0].teachers["conv"].accuracy == results[1].teachers["conv"].accuracy
    # Not the same bits: a matrix product may add up its columns otherwise where they lie elsewhere.
    assert results[0].final == pytest.approx(results[1].final, rel=1e-6)
