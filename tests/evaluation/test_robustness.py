"""Accuracy on shifted data against plain loops."""

from __future__ import annotations

import importlib.resources
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SHARED
from PIL import Image

from coadvise.checkpoints.trained import TrainedModel
from coadvise.cli.evaluate import evaluate
from coadvise.data.decode import decode
from coadvise.data.sources.opening import open_source, open_sources
from coadvise.data.views.augment import eval_pixels
from coadvise.errors import DataError
from coadvise.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from coadvise.evaluation.inference import with_classes
from coadvise.evaluation.robustness import corruption_errors, imagenet_c_errors, subset_accuracy
from coadvise.models.factory import build_model
from coadvise.models.students import as_student
from coadvise.recipe.reading import load_recipe

LISTS = SHARED / "data" / "imagenet_class_lists"


@pytest.fixture
def trained() -> TrainedModel:
    torch.manual_seed(0)
    recipe = load_recipe("digits", ["data.val_size=12"])
    model = build_model(
        "cit_tiny", 10, image_size=8, options={"patch_size": 2, "embed_dim": 48, "depth": 2, "num_heads": 3}
    )
    return TrainedModel(as_student(model).eval(), recipe, tuple("0123456789"), Path("nowhere"))


def test_corruption_errors_against_a_loop(trained: TrainedModel) -> None:
    source = open_sources(trained.recipe.data)[1]
    found = corruption_errors(trained, source, limit=None, batch_size=5, seed=3)
    transform = eval_pixels(trained.recipe.data)
    errors: dict[str, list[float]] = {"class": [], "conv": [], "inv": []}
    for kind in CORRUPTIONS:
        for severity in SEVERITIES:
            wrong = dict.fromkeys(errors, 0)
            for i in range(len(source)):
                pixels = np.asarray(transform(decode(source.read(i), source.describe(i))))
                changed = corrupt(pixels[None], kind, severity, seed=3, first=i)[0]
                x = (torch.from_numpy(changed).permute(2, 0, 1).float() / 255 - 0.5) / 0.5
                with torch.no_grad():
                    for token, z in trained.model.forward_tokens(x[None]).items():
                        wrong[token] += int(z.argmax()) != int(source.labels[i])
            for token, n in wrong.items():
                assert found.kinds[token][kind][severity - 1] == pytest.approx(n / len(source), abs=2e-6)
                errors[token].append(n / len(source))
    for token, values in errors.items():
        assert found.mean[token] == pytest.approx(np.mean(values), abs=2e-6)
    assert found.images == 12
    assert corruption_errors(trained, source, limit=1).images == 1


def write_images(folder: Path, classes: list[str], count: int = 3) -> None:
    generator = np.random.default_rng(len(classes))
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")


def test_some_classes_are_counted_among_themselves(trained: TrainedModel, tmp_path: Path) -> None:
    classes = ["2", "5", "7"]
    write_images(tmp_path / "some", classes, 6)
    source = open_source(str(tmp_path / "some"))
    found, seen = subset_accuracy(trained, source, batch_size=4)
    assert seen == len(source) == 18
    transform, right = eval_pixels(trained.recipe.data), dict.fromkeys(("class", "conv", "inv"), 0)
    for i in range(len(source)):
        pixels = torch.from_numpy(np.asarray(transform(decode(source.read(i), source.describe(i)))))
        x = (pixels.permute(2, 0, 1).float() / 255 - 0.5) / 0.5
        with torch.no_grad():
            for token, z in trained.model.forward_tokens(x[None]).items():
                among = [float(z[0, int(name)]) for name in classes]
                right[token] += classes[int(np.argmax(among))] == source.class_names[source.labels[i]]
    assert found == {token: n / len(source) for token, n in right.items()}


def test_classes_the_model_does_not_know(trained: TrainedModel, tmp_path: Path) -> None:
    write_images(tmp_path / "other", ["2", "zebra"])
    with pytest.raises(DataError, match="zebra"):
        subset_accuracy(trained, open_source(str(tmp_path / "other")))


def test_imagenet_c_from_its_folders(trained: TrainedModel, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lacks 75 of the 75 folders of ImageNet-C, such as gaussian_noise/1"):
        imagenet_c_errors(trained, tmp_path)
    for kind in CORRUPTIONS:
        for severity in SEVERITIES:
            write_images(tmp_path / kind / str(severity), ["1", "4"], 1)
    # The images have been cut already: a model that zooms into others sees these as they are.
    data = trained.recipe.data.model_copy(update={"eval_crop": 0.5})
    trained = replace(trained, recipe=trained.recipe.model_copy(update={"data": data}))
    found = imagenet_c_errors(trained, tmp_path)
    for token, kinds in found.kinds.items():
        assert set(kinds) == set(CORRUPTIONS) and all(len(row) == 5 for row in kinds.values())
        assert found.mean[token] == pytest.approx(np.mean(list(kinds.values())))
    for kind, severity in (("snow", 2), ("fog", 5)):
        wrong = dict.fromkeys(found.mean, 0)
        for label in ("1", "4"):
            pixels = np.array(Image.open(tmp_path / kind / str(severity) / label / "0.png"))
            x = (torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - 0.5) / 0.5
            with torch.no_grad():
                for token, z in trained.model.forward_tokens(x[None]).items():
                    wrong[token] += int(z.argmax()) != int(label)
        assert {token: kinds[kind][severity - 1] for token, kinds in found.kinds.items()} == {
            token: n / 2 for token, n in wrong.items()
        }


@pytest.mark.skipif(not LISTS.is_dir(), reason=f"no class lists at {LISTS}")
@pytest.mark.parametrize("name", ["a", "r"])
def test_imagenets_200_classes_are_some_of_the_thousand(name: str) -> None:
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    wnids = {line.split()[0] for line in (LISTS / f"imagenet_{name}_wnids.txt").read_text().splitlines() if line}
    assert len(wnids) == 200 and wnids <= set(info.label_names())
    timms = importlib.resources.files("timm.data._info").joinpath(f"imagenet_{name}_synsets.txt").read_text()
    assert set(timms.split()) == wnids


def test_the_command_takes_batches_of_the_size_that_is_asked_for(
    trained: TrainedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = replace(trained, recipe=load_recipe("digits", ["data.val_size=10"]))
    sizes, answer = [], small.model.forward_tokens

    def seen(images: torch.Tensor) -> object:
        sizes.append(len(images))
        return answer(images)

    monkeypatch.setattr(small.model, "forward_tokens", seen)
    monkeypatch.setattr("coadvise.checkpoints.trained.load_trained", lambda path, device, several: small)
    for options, passes in (({}, 1), ({"only": True}, 1), ({"corruptions": True}, 76)):
        sizes.clear()
        evaluate(Path("run"), batch_size=5, as_json=True, **options)
        measured = [size for size in sizes if size > 1]  # before, one image tells the tokens
        assert measured == [5, 5] * passes
    assert small.with_workers(2).data.workers == 2 and small.with_workers(None) is small
    with pytest.raises(DataError, match="exclude each other"):
        evaluate(Path("run"), only=True, corruptions=True)


def set_with_a_damaged_image(folder: Path, damaged: str) -> tuple[Path, Path]:
    """A folder of twelve JPEGs, one of them cut off, and the same without it."""
    generator = np.random.default_rng(0)
    for name in ("2", "5", "7"):
        for whole in (folder / "all", folder / "read"):
            (whole / name).mkdir(parents=True)
        for i in range(4):
            pixels, at = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8), f"{name}/{i}.jpg"
            for whole in (folder / "all", folder / "read"):
                Image.fromarray(pixels).save(whole / at)
    content = (folder / "read" / damaged).read_bytes()
    (folder / "all" / damaged).write_bytes(content[: len(content) // 2])
    (folder / "read" / damaged).unlink()
    return folder / "all", folder / "read"


def test_unreadable_images_are_neither_corrupted_nor_counted(trained: TrainedModel, tmp_path: Path) -> None:
    kinds = ("gaussian_noise", "glass_blur")
    whole, read = set_with_a_damaged_image(tmp_path, "5/1.jpg")  # number 5 of 12
    source, others = (with_classes(open_source(str(one)), trained.classes) for one in (whole, read))
    with pytest.raises(DataError, match=r"5/1\.jpg cannot be read .*data\.on_error=skip"):
        corruption_errors(trained, source)
    skipping = trained.without_unreadable()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coadvise.evaluation.robustness.CORRUPTIONS", kinds)
        found = corruption_errors(skipping, source, batch_size=5, seed=3)
        assert corruption_errors(skipping, source, batch_size=1, seed=3) == found  # a batch without any image
    assert found.images == 11
    transform, numbers = eval_pixels(trained.data), [i for i in range(12) if i != 5]
    for kind in kinds:
        wrong = [dict.fromkeys(("class", "conv", "inv"), 0) for _ in SEVERITIES]
        for i, number in enumerate(numbers):  # as they are numbered with the damaged one among them
            pixels = np.asarray(transform(decode(others.read(i), "")))[None]
            for severity in SEVERITIES:
                changed = corrupt(pixels, kind, severity, seed=3, first=number)
                x = (torch.from_numpy(changed).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
                with torch.no_grad():
                    for token, z in trained.model.forward_tokens(x).items():
                        wrong[severity - 1][token] += int(z.argmax()) != int(others.labels[i])
        for token in ("class", "conv", "inv"):
            assert found.kinds[token][kind] == pytest.approx([one[token] / 11 for one in wrong], abs=2e-6)
    assert subset_accuracy(skipping, open_source(str(whole)), batch_size=1) == subset_accuracy(
        trained, open_source(str(read))
    )


def test_the_command_measures_without_unreadable_images(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, _ = set_with_a_damaged_image(tmp_path, "7/0.jpg")
    monkeypatch.setattr("coadvise.checkpoints.trained.load_trained", lambda path, device, several: trained)
    monkeypatch.setattr("coadvise.evaluation.robustness.CORRUPTIONS", ("contrast",))
    evaluate(Path("run"), data=str(whole), skip_unreadable=True, corruptions=True, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == found["corruptions"]["images"] == 11 and found["skipped"] == 1
    evaluate(Path("run"), data=str(whole), skip_unreadable=True, only=True)
    shown = capsys.readouterr().out
    assert "11 images, counted among 3 classes" in shown and "1 unreadable images were left out" in shown
    # A recipe may say so, too, as `init` writes it where an image cannot be read.
    skipping = trained.without_unreadable()
    monkeypatch.setattr("coadvise.checkpoints.trained.load_trained", lambda path, device, several: skipping)
    evaluate(Path("run"), data=str(whole), only=True)
    shown = capsys.readouterr().out
    assert "11 images, counted among 3 classes" in shown and "1 unreadable images were left out" in shown
    evaluate(Path("run"), data=str(whole), only=True, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["samples"], found["skipped"]) == (11, 1)


def test_where_nothing_can_be_read_it_is_said(trained: TrainedModel, tmp_path: Path) -> None:
    for name in ("2", "5"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"no image")
    source, skipping = open_source(str(tmp_path)), trained.without_unreadable()
    for measure in (lambda: corruption_errors(skipping, with_classes(source, trained.classes)),
                    lambda: subset_accuracy(skipping, source)):  # fmt: skip
        with pytest.raises(DataError, match="none of the images can be read"):
            measure()
