"""What the page shows of an image, beside `predict`, the teachers' own files and naive loops."""

from __future__ import annotations

import base64
import io
import json
import math
import shutil
import threading
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from helpers.recipes import TINY
from helpers.untrained import untrained_run
from PIL import Image

import coadvise
from coadvise.evaluation.attention import attention_maps
from coadvise.evaluation.prediction import Classifier
from coadvise.models.teachers import FrozenTeacher, Teachers
from coadvise.names import CLASS
from coadvise.viewing.asking import looks
from coadvise.viewing.nearest import Validation
from coadvise.viewing.opened import names_of, open_run
from coadvise.viewing.viewer import Question, Said, Viewer

from .conftest import TEACHERS, Running, run_with_teachers

CPU = torch.device("cpu")


def png_of(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def digit() -> Image.Image:
    pixels = np.random.default_rng(3).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def softmax(z: torch.Tensor) -> np.ndarray:
    return np.asarray(z.double().softmax(dim=-1))


@lru_cache
def opened(run: Path) -> Classifier:
    return coadvise.load(run)


def teacher_odds(run: Path, name: str, image: Image.Image) -> np.ndarray:
    """A teacher's own model, shown the student's pixels in its own size and normalisation."""
    teacher = opened(run / "teachers" / name)
    mean, std = (torch.tensor(getattr(teacher.data, key)).view(3, 1, 1) for key in ("mean", "std"))
    x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).double() / 255
    x = ((x - mean) / std).float()[None]
    side = teacher.data.image_size
    if side != x.shape[-1]:
        x = F.interpolate(x, size=(side, side), mode="bicubic", antialias=True)
    with torch.no_grad():
        return softmax(teacher.model(x)[0])


def reply(running: Running, image: Image.Image, **more: Any) -> dict[str, Any]:
    key = running.ask("POST", "image", png_of(image)).told["image"]
    found = running.question(image=key, **more)
    assert found.status == 200, found.content
    return dict(found.told)


def test_answers_are_those_of_predict_of_the_tokens_and_of_the_teachers_own_files(
    running: Running, viewed: Path, digit: Image.Image
) -> None:
    said = reply(running, digit)["runs"][0]
    assert list(said["odds"]) == [CLASS, "conv", "inv", "teacher/conv", "teacher/inv"]
    model = coadvise.load(viewed)
    close = lambda wanted: pytest.approx(wanted, rel=1e-4, abs=1e-6)
    assert said["odds"][CLASS] == close(model.probabilities(digit)[0])
    with torch.no_grad():
        tokens = model.model.forward_tokens(model.transform(digit)[None])
    for name in ("conv", "inv"):
        assert said["odds"][name] == close(softmax(tokens[name][0]))
        assert said["odds"][f"teacher/{name}"] == close(teacher_odds(viewed, name, digit))
    with Image.open(io.BytesIO(base64.b64decode(said["picture"]))) as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(digit))


def test_a_teacher_that_knows_some_classes_is_asked_about_those(
    running: Running, viewed: Path, digit: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own model's softmax over them; the others have no odds, here and beside the validation images."""
    run = running.viewer.runs[0]
    members = dict(run.teachers.items())
    known = [0, 3, 4, 8]
    members["conv"] = members["conv"].again([one if one in known else None for one in range(10)])
    data = run.trained.data
    partial = replace(run, teachers=Teachers(members, input_mean=data.mean, input_std=data.std))
    monkeypatch.setattr(running.viewer, "runs", (partial,))
    said = reply(running, digit)["runs"][0]["odds"]
    own = teacher_odds(viewed, "conv", digit)[known]
    expected = np.zeros(10)
    expected[known] = own / own.sum()
    assert said["teacher/conv"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert said["teacher/inv"] == pytest.approx(teacher_odds(viewed, "inv", digit), rel=1e-4, abs=1e-6)
    beside = Validation(partial, 4, threading.Lock())
    beside.fill()
    assert (beside.done, beside.why) == (4, "")
    assert partial.images is not None and beside.listed("apart")
    for index in beside.listed("apart"):
        image = partial.images.read(index)
        assert isinstance(image, Image.Image)
        answers = {name: teacher_odds(viewed, name, image.convert("RGB")) for name in ("conv", "inv")}
        assert known[int(answers["conv"][known].argmax())] != int(answers["inv"].argmax())
    nothing = FrozenTeacher(lambda x: torch.full((len(x), 10), -torch.inf))
    none = replace(run, teachers=Teachers({"conv": nothing}, input_mean=data.mean, input_std=data.std))
    monkeypatch.setattr(running.viewer, "runs", (none,))
    found = running.question(validation=0)
    assert found.status == 422 and "'teacher/conv' are not finite" in found.told["error"]


def test_answers_that_are_not_finite_are_named(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = running.viewer.runs
    broken = replace(runs[0].classifier, logits=lambda pixels: np.full((len(pixels), 10), np.nan, np.float32))
    monkeypatch.setattr(running.viewer, "runs", (replace(runs[0], classifier=broken),))
    found = running.question(validation=0)
    assert found.status == 422 and "'class' are not finite" in found.told["error"]


def test_where_validation_images_fail_the_page_says_why(viewed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    viewer = Viewer.open([viewed], 16, torch.device("cpu"))
    source = viewer.runs[0].images
    assert source is not None
    monkeypatch.setattr(source, "read", mock.Mock(side_effect=ValueError("a damaged row")))
    viewer.validations[0].fill()  # its thread would end without a word
    assert viewer.progress()[0].why == "a damaged row" and viewer.progress()[0].done == 0


def test_a_corrupted_image_is_answered_as_the_picture_that_is_shown(
    running: Running, viewed: Path, digit: Image.Image
) -> None:
    plain = reply(running, digit)["runs"][0]
    for severity in (1, 5):
        said = reply(running, digit, kind="gaussian_noise", severity=severity)["runs"][0]
        with Image.open(io.BytesIO(base64.b64decode(said["picture"]))) as picture:
            moved = np.abs(np.asarray(picture, float) - np.asarray(digit, float)).mean()
            assert said["odds"][CLASS] == pytest.approx(coadvise.load(viewed).probabilities(picture)[0], rel=1e-4)
        assert moved > (3 if severity == 1 else 10)
        assert said["odds"] != plain["odds"] and said["maps"] != plain["maps"]
        assert said == reply(running, digit, kind="gaussian_noise", severity=severity)["runs"][0]


def test_a_validation_image_is_the_one_of_the_data_with_its_label(running: Running, viewed: Path) -> None:
    source = running.viewer.runs[0].images
    assert source is not None and len(source) == TINY["data"]["val_size"]
    found = running.question(validation=7).told
    assert found["label"] == [source.class_names[source.labels[7]]]
    image = source.read(7)
    assert isinstance(image, Image.Image)
    expected = coadvise.load(viewed).probabilities(image)[0]
    assert found["runs"][0]["odds"][CLASS] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert all(one["index"] != 7 for one in found["runs"][0]["near"])


def naive_nearest(viewed: Path, image: Image.Image, rows: list[int], count: int) -> list[tuple[int, float]]:
    """Cosine of what the head sees, image by image, where the teachers' own files name different classes."""
    model = coadvise.load(viewed)
    seen: list[torch.Tensor] = []
    hook = model.model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0].double()))

    def features(one: Image.Image) -> list[float]:
        with torch.no_grad():
            model.model.forward_tokens(model.transform(one)[None])
        return list(seen.pop().tolist())

    own, found = features(image), []
    source = open_run(viewed, "run", CPU).images
    assert source is not None
    for row in rows:
        other = source.read(row)
        assert isinstance(other, Image.Image)
        said = {int(teacher_odds(viewed, name, other.convert("RGB")).argmax()) for name in ("conv", "inv")}
        if len(said) > 1:
            theirs = features(other)
            dot = math.fsum(a * b for a, b in zip(own, theirs, strict=True))
            found.append((row, dot / math.sqrt(math.fsum(a * a for a in own) * math.fsum(b * b for b in theirs))))
    hook.remove()
    return sorted(found, key=lambda pair: -pair[1])[:count]


def test_the_nearest_disagreements_are_those_of_a_naive_loop(
    running: Running, viewed: Path, digit: Image.Image
) -> None:
    rows = running.viewer.validations[0].listed("all")
    assert len(set(rows)) == 40
    near = reply(running, digit)["runs"][0]["near"]
    expected = naive_nearest(viewed, digit, rows, len(near))
    assert [one["index"] for one in near] == [row for row, _ in expected] and len(near) == 8
    assert [one["likeness"] for one in near] == pytest.approx([likeness for _, likeness in expected], abs=1e-5)
    said = near[0]["answers"]
    assert said["teacher/conv"] != said["teacher/inv"]
    apart = running.ask("GET", "validation?which=apart&first=0&count=100").told
    assert {one["index"] for one in apart} == {row for row, _ in naive_nearest(viewed, digit, rows, 100)}


def test_nearest_by_answers_is_the_mean_total_variation(running: Running, digit: Image.Image) -> None:
    found = reply(running, digit, by="answers")["runs"][0]
    assert found["by"] == "answers"
    for one in found["near"][:3]:
        other = running.question(validation=one["index"]).told["runs"][0]["odds"]
        gaps = [sum(abs(p - q) for p, q in zip(found["odds"][name], other[name], strict=True)) / 2 for name in other]
        assert one["likeness"] == pytest.approx(1 - sum(gaps) / len(gaps), abs=1e-4)


def test_what_is_not_at_hand_is_left_out_with_its_reason(viewed: Path, tmp_path: Path) -> None:
    run = tmp_path / "moved"
    shutil.copytree(viewed, run)
    shutil.rmtree(run / "teachers" / "inv")
    moved = open_run(run, "moved", CPU)
    assert moved.teachers.names == ("conv",) and list(moved.missing) == ["inv"]
    assert "copy the run with its folder `teachers`" in moved.missing["inv"]
    viewer = Viewer([moved], 10)
    assert [one.name for one in viewer.about()[0].outputs] == [CLASS, "conv", "inv", "teacher/conv"]
    assert viewer.about()[0].disagreement == "its teacher and the class token disagree"
    moved.trained.model.inference = "average"
    (about,) = Viewer([moved], 10).about()
    assert about.disagreement == "its teacher and the average of all heads disagree"
    assert about.outputs[0].title == "average of all heads"


def test_a_teacher_that_fails_is_left_out_before_it_is_asked(tmp_path: Path) -> None:
    run = run_with_teachers(tmp_path / "run")
    student = {key: value for key, value in TEACHERS["inv"].items() if key != "train"}
    untrained_run(run / "teachers" / "inv", student, ("x", "y"))  # of other data
    viewer = Viewer.open([run], 4, CPU)
    assert "none of the data's classes" in viewer.runs[0].missing["inv"]
    with mock.patch("coadvise.models.teachers.FrozenTeacher.forward", side_effect=OSError("gone")):
        missing = open_run(run, "run", CPU).missing
    assert "cannot take images of 8×8: gone" in missing["conv"]
    assert list(viewer.reply(Question(validation=0)).runs[0].odds) == [CLASS, "conv", "inv", "teacher/conv"]


def test_without_its_images_a_run_still_answers(tmp_path: Path) -> None:
    run = run_with_teachers(tmp_path / "run", data__source=str(tmp_path / "gone"), data__val_size=None)
    viewer = Viewer.open([run], 10, CPU)
    about = viewer.about()[0]
    assert about.images == 0 and "gone" in about.why
    key = viewer.pictures.add(png_of(Image.new("RGB", (9, 9), "red")))
    said = viewer.reply(Question(image=key)).runs[0]
    assert said.near == () and len(said.odds) == 5


def said_of(run: Path) -> tuple[Viewer, Said]:
    viewer = Viewer.open([run], 16, CPU)
    viewer.validations[0].fill()
    return viewer, viewer.reply(Question(validation=0)).runs[0]


def test_a_plain_vit_shows_where_its_class_token_looks(tmp_path: Path) -> None:
    options = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
    run = untrained_run(
        tmp_path / "vit",
        {"model": "vit_tiny_patch16_224", "options": options},
        data__image_size=16,
        data__eval_crop=1.0,
    )
    viewer, said = said_of(run)
    model = coadvise.load(run)
    vit = model.model
    assert isinstance(vit, timm.models.VisionTransformer)
    seen: list[torch.Tensor] = []
    hook = vit.blocks[-1].attn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = viewer.runs[0].images.read(0)  # type: ignore[union-attr]
    with torch.no_grad():
        vit(model.transform(image)[None])  # type: ignore[arg-type]
        q, k, _ = vit.blocks[-1].attn.qkv(seen[0]).view(1, 17, 3, 2, 12).permute(2, 0, 3, 1, 4).double()
    hook.remove()
    weights = (q[0] @ k[0].transpose(-2, -1) / math.sqrt(12)).softmax(dim=-1).mean(dim=0)[0, 1:].view(4, 4)
    assert np.array(said.maps[CLASS]) == pytest.approx(weights.numpy(), abs=2e-5)
    assert viewer.about()[0].disagreement == "the model is mistaken" and viewer.about()[0].no_looks == ""
    assert all(one.answers[CLASS] != one.label for one in said.near)


def test_a_student_without_tokens_says_why_nothing_is_shown(tmp_path: Path) -> None:
    options = {"channels": [8, 8, 16, 16]}
    run = untrained_run(tmp_path / "cnn", {"model": "resnet10", "options": options, "small_stem": True})
    viewer, said = said_of(run)
    assert said.maps == {} and "ResNet has no tokens" in viewer.about()[0].no_looks
    assert [one.title for one in viewer.about()[0].outputs] == ["class output"]


def test_advised_tokens_of_a_pretrained_vit_are_shown(tmp_path: Path) -> None:
    student = {
        "model": "vit_tiny_patch16_224",
        "options": {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2},
        "tokens": {"conv": "conv", "mixer": None},
    }
    run = untrained_run(tmp_path / "advised", student, data__image_size=16, data__eval_crop=1.0)
    viewer, said = said_of(run)
    assert list(said.maps) == [CLASS, "conv", "mixer"] == list(said.odds)
    assert viewer.runs[0].missing.keys() == {"conv", "mixer"}  # given from Python: there is nothing in the recipe
    images = torch.randn(1, 3, 16, 16)
    assert looks(viewer.runs[0], np.zeros((1, 16, 16, 3), np.uint8)).keys() == said.maps.keys()
    assert attention_maps(viewer.runs[0].trained.model, images)[CLASS].shape == (1, 4, 4)  # type: ignore[arg-type]


def test_an_image_of_several_classes_has_probabilities_of_each(tmp_path: Path) -> None:
    rows = ["image,label"]
    for number, label in enumerate(("a", "a|b", "b", "", "a|c", "c", "b|c", "a|b|c", "", "b")):
        Image.new("RGB", (8, 8), (20 * number, 90, 200 - 20 * number)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{label}")
    (tmp_path / "all.csv").write_text("\n".join(rows) + "\n")
    changes = {"data__source": str(tmp_path / "all.csv"), "data__labels": "several"}
    changes |= {"data__train_size": None, "data__val_size": None, "data__val_fraction": 0.4}  # type: ignore[dict-item]
    run = untrained_run(tmp_path / "run", TINY["student"], ("a", "b", "c"), **changes)
    viewer, said = said_of(run)
    assert viewer.about()[0].why == ""
    model, image = coadvise.load(run), viewer.runs[0].images.read(0)  # type: ignore[union-attr]
    with torch.no_grad():
        z = model.model(model.transform(Image.open(io.BytesIO(image)))[None])[0].double()  # type: ignore[arg-type]
    assert said.odds[CLASS] == pytest.approx((1 / (1 + (-z).exp())).tolist(), rel=1e-4)
    assert viewer.reply(Question(validation=0)).label == viewer.validations[0].label(0)


def test_two_runs_see_the_same_image_each_in_its_own_way(viewed: Path, tmp_path: Path) -> None:
    other = untrained_run(tmp_path / "run", TINY["student"], data__image_size=16, data__mean=[0.1, 0.2, 0.3])
    viewer = Viewer.open([viewed, other], 8, CPU)
    names = [about.name for about in viewer.about()]
    assert len(set(names)) == 2 and [about.side for about in viewer.about()] == [8, 16]
    found = viewer.reply(Question(validation=3))
    image = viewer.runs[0].images.read(3)  # type: ignore[union-attr]
    for path, said in zip((viewed, other), found.runs, strict=True):
        expected = coadvise.load(path).probabilities(image)[0]  # type: ignore[arg-type]
        assert said.odds[CLASS] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_runs_have_short_names_that_differ() -> None:
    assert names_of([Path("/a/runs/x"), Path("/a/runs/y")]) == ["x", "y"]
    assert names_of([Path("/a/x/run"), Path("/a/y/run")]) == ["x/run", "y/run"]
    assert names_of([Path("/a/x"), Path("/a/x")]) == ["x (1)", "x (2)"]


def test_only_the_last_images_are_kept(running: Running) -> None:
    keys = []
    for shade in range(34):
        keys.append(running.ask("POST", "image", png_of(Image.new("L", (8, 8), shade))).told["image"])
    gone, kept = running.question(image=keys[0]), running.question(image=keys[-1])
    assert gone.status == 410 and "choose it again" in gone.told["error"] and kept.status == 200
    assert json.loads(kept.content)["label"] is None
