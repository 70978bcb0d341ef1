"""Likeness of classifiers against scikit-learn, explicit formulas and plain loops."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import cohen_kappa_score

from coadvise.checkpoints.trained import TrainedModel
from coadvise.data.sources.opening import open_source, open_sources
from coadvise.errors import DataError
from coadvise.evaluation.attention import attention_maps
from coadvise.evaluation.disagreement import disagreements
from coadvise.evaluation.metrics import calibration_error, ensemble, error_consistency, linear_cka
from coadvise.evaluation.similarity import answers, likeness
from coadvise.models.factory import build_model
from coadvise.models.students import as_student
from coadvise.recipe.reading import load_recipe

SMALL = {"patch_size": 2, "embed_dim": 48, "depth": 3, "num_heads": 3}
SKIP = ["data.on_error=skip", "data.train_size=null", "data.val_size=null", "data.val_split=null"]


def test_error_consistency_is_cohens_kappa() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        a, b = (torch.rand(200, generator=generator) < p for p in (0.7, 0.6))
        assert error_consistency(a, b) == pytest.approx(cohen_kappa_score(a.numpy(), b.numpy()))
    always = torch.ones(10, dtype=torch.bool)
    assert error_consistency(always, always) is None
    mixed = torch.tensor([True, False, True])
    assert error_consistency(mixed, mixed) == pytest.approx(1)
    assert error_consistency(mixed, ~mixed) < 0


def test_cka_is_hsic_of_the_gram_matrices() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 7, generator=generator), torch.randn(30, 4, generator=generator)
    y[:, 0] += x[:, 0]
    centre = np.eye(30) - 1 / 30
    k, m = (centre @ (z.double().numpy() @ z.double().numpy().T) @ centre for z in (x, y))
    wanted = np.trace(k @ m) / math.sqrt(np.trace(k @ k) * np.trace(m @ m))
    assert linear_cka(x, y) == pytest.approx(wanted)
    turn, _ = torch.linalg.qr(torch.randn(7, 7, generator=generator))
    assert linear_cka(x, 3.0 * x @ turn + 5) == pytest.approx(1, abs=1e-5)
    assert linear_cka(x, torch.ones(30, 2)) is None


def test_calibration_error_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    p = (3 * torch.randn(500, 6, generator=generator)).softmax(dim=1)
    y = torch.randint(6, (500,), generator=generator)
    total = 0.0
    for low in range(15):
        inside = [i for i in range(500) if low / 15 < float(p[i].double().max()) <= (low + 1) / 15]
        if inside:
            accuracy = np.mean([int(p[i].argmax()) == int(y[i]) for i in inside])
            total += abs(accuracy - np.mean([float(p[i].max()) for i in inside])) * len(inside) / 500
    assert calibration_error(p, y) == pytest.approx(total, abs=1e-6)


def test_ensemble_against_a_loop() -> None:
    z = [torch.tensor([[2.0, 0, 0], [0, 3, 0], [0, 0, 1]]), torch.tensor([[0, 1.0, 0], [0, 0, 5], [9, 0, 0]])]
    y = torch.tensor([0, 1, 1])
    assert ensemble(z, y) == (pytest.approx(1 / 3), pytest.approx(2 / 3))


def trained(model: str, seed: int, side: int, **options: object) -> TrainedModel:
    torch.manual_seed(seed)
    recipe = load_recipe("digits", ["data.val_size=80", f"data.image_size={side}"])
    built = build_model(model, 10, image_size=side, small=model.startswith("res"), options=options)
    return TrainedModel(as_student(built).eval(), recipe, tuple("0123456789"), Path("nowhere"))


def test_a_students_likeness_to_its_teachers() -> None:
    student = trained("cit_tiny", 0, 8, **SMALL)
    conv = trained("resnet10", 1, 16, channels=[8, 16, 32, 64])
    source = open_sources(student.recipe.data)[1]
    numbers, detail = likeness(student, {"conv": conv, "copy": student}, source, batch_size=30)
    assert numbers["kappa/copy|class"] == pytest.approx(1)
    assert numbers["cka/copy|class"] == pytest.approx(1)
    assert numbers["cka/conv|conv"] < 1
    assert numbers["ensemble/upper"] >= numbers["ensemble/accuracy"]
    assert set(detail["token_cosine"]) == {"class|conv", "class|inv", "conv|inv"}
    assert all(len(values) == 3 for values in detail["token_cosine"].values())
    assert detail["teachers"]["conv|copy"]["cka"] == pytest.approx(numbers["cka/conv|class"])
    assert likeness(student, {}, source)[0].keys() == {"ece/class", "ece/conv", "ece/inv"}


def test_features_and_cosines_are_those_of_the_blocks() -> None:
    student = trained("cit_tiny", 0, 8, **SMALL)
    source = open_sources(student.recipe.data)[1]
    found = answers(student, source, batch_size=80)
    from coadvise.data.loader import EvalLoader

    images = next(iter(EvalLoader(source, student.recipe.data, 80))).images
    model = student.model
    with torch.no_grad():
        whole = model.forward_features(images)
        x = model.norm_pre(model._pos_embed(model.patch_embed(images)))
        for depth, block in enumerate(model.blocks):
            x = block(x)
            cosine = torch.nn.functional.cosine_similarity(x[:, 0], x[:, 2]).mean()
            assert found.cosines["class|inv"][depth] == pytest.approx(float(cosine), abs=1e-4)
    for i, token in enumerate(("class", "conv", "inv")):
        assert torch.allclose(found.features[token], whole[:, i], atol=1e-5)
    assert not any(block._forward_hooks for block in model.blocks), "nothing stays behind"


def test_attention_maps_against_a_loop() -> None:
    student = trained("cit_tiny", 0, 8, **SMALL)
    model, x = student.model, torch.randn(2, 3, 8, 8)
    maps = attention_maps(model, x)
    with torch.no_grad():
        y = model.norm_pre(model._pos_embed(model.patch_embed(x)))
        for block in model.blocks[:-1]:
            y = block(y)
        last = model.blocks[-1]
        qkv = last.attn.qkv(last.norm1(y))  # n l 3·heads·width
    heads, width = 3, 16
    for token, i in (("class", 0), ("inv", 2)):
        for n in range(2):
            total = np.zeros(16)
            for head in range(heads):
                q = qkv[n, i, head * width : (head + 1) * width]
                keys = qkv[n, :, 48 + head * width : 48 + (head + 1) * width]
                scores = np.exp((keys @ q).double().numpy() / math.sqrt(width))
                total += (scores / scores.sum())[3:] / heads
            assert np.allclose(maps[token][n].numpy().ravel(), total, atol=1e-5)


def test_unreadable_images_are_left_out_of_all_models(tmp_path: Path) -> None:
    generator, damaged = np.random.default_rng(0), "5/1.jpg"
    for name in "0123456789":
        (tmp_path / "all" / name).mkdir(parents=True)
        for i in range(4):
            pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "all" / name / f"{i}.jpg")
    shutil.copytree(tmp_path / "all", tmp_path / "read")
    (tmp_path / "read" / damaged).unlink()
    content = (tmp_path / "all" / damaged).read_bytes()
    (tmp_path / "all" / damaged).write_bytes(content[: len(content) // 2])
    whole, read = (open_source(str(tmp_path / one)) for one in ("all", "read"))
    student, conv = trained("cit_tiny", 0, 8, **SMALL), trained("resnet10", 1, 16, channels=[8, 16, 32, 64])
    with pytest.raises(DataError, match=r"5/1\.jpg cannot be read"):
        likeness(student, {"conv": conv}, whole)
    skipping = student.without_unreadable()
    found, detail = likeness(skipping, {"conv": conv, "copy": skipping}, whole, batch_size=7)
    numbers, wanted = likeness(student, {"conv": conv, "copy": student}, read, batch_size=7)
    assert found == pytest.approx(numbers) and detail["likeness images"] == wanted["likeness images"] == 39
    of = lambda folder, model: replace(
        model, recipe=load_recipe("digits", [f"data.source={folder}", f"data.val_source={folder}", *SKIP])
    )
    pictures, others = (
        disagreements({"conv": of(tmp_path / one, conv), "student": of(tmp_path / one, student)}, count=40)
        for one in ("all", "read")
    )
    before = [i for i in range(40) if i != 21]  # the number that an image has among all of them
    assert [one["index"] for one in pictures["images"]] == [before[one["index"]] for one in others["images"]]
    assert [one["outputs"] for one in pictures["images"]] == [one["outputs"] for one in others["images"]]
    assert any(one["index"] > 21 for one in pictures["images"])
