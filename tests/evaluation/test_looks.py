"""Where the tokens look: which images are chosen, and that a run keeps the maps of the weights that it delivers."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers.recipes import CNN, tiny
from helpers.runs import photographs, run
from helpers.work import calls_at_most
from PIL import Image
from timm.layers import resample_abs_pos_embed

from coadvise.checkpoints.trained import load_trained
from coadvise.errors import RunError
from coadvise.evaluation.attention import attention_maps
from coadvise.models.advised import add_tokens
from coadvise.reports.run import run_report
from coadvise.run.answers import Answers
from coadvise.run.looks import Looks, chosen_looks

SHORT = {"schedule.epochs": 1, "schedule.warmup_epochs": 0}


def test_sure_hits_mistakes_and_images_on_which_tokens_disagree() -> None:
    label = np.array([0, 0, 1, 0, 1, 1, 2, 2])
    said = np.array([0, 0, 1, 1, 0, 1, 2, 2])
    conv = np.array([0, 0, 1, 1, 0, 0, 0, 2])
    sure = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2], np.float32)
    one = Answers("d", ("a", "b", "c"), np.arange(8), label, {"class": said, "conv": conv}, {"class": sure})
    assert list(chosen_looks(one)) == [
        (0, "surest hit"), (2, "surest hit"), (3, "surest mistake"), (4, "surest mistake"),
        (5, "tokens disagree"), (6, "tokens disagree"),
    ]  # fmt: skip


def test_a_hundred_thousand_images_are_chosen_from_at_once() -> None:
    generator = np.random.default_rng(0)
    label, said = generator.integers(0, 1000, (2, 100_000))
    sure = generator.random(100_000, dtype=np.float32)
    one = Answers("d", tuple(map(str, range(1000))), np.arange(len(label)), label, {"class": said}, {"class": sure})
    with calls_at_most(150_000):  # one for each image: none that looks at all of them again
        (first, _), (second, _), *_ = chosen_looks(one)
    hits = np.flatnonzero(label == said)
    hits = hits[np.argsort(-sure[hits])]
    assert first == hits[0] and second == next(row for row in hits if label[row] != label[first])


ODD = ({}, {"class": []}, {"class": [[]]}, {"class": [[1], [1, 2]]}, {"x": [[1]]})


@pytest.mark.parametrize("second", ODD, ids=str)
def test_maps_that_no_run_wrote_are_refused(tmp_path: Path, second: dict[str, list[list[int]]]) -> None:
    look = {"jpeg": "", "kind": "", "label": "", "answer": ""}
    images = [look | {"maps": {"class": [[1]]}}, look | {"maps": second}]
    (tmp_path / "attention.json").write_text(json.dumps({"images": images}))
    with pytest.raises(RunError, match="no grids of the same tokens"):
        Looks.read(tmp_path / "attention.json")


def test_a_run_keeps_the_maps_of_its_weights(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    recipe = tiny(folder, {**SHORT, "data.source": photographs(tmp_path / "photos", 3), "data.train_size": None,
                           "data.val_size": None, "optim.batch_size": 3}, teachers={"conv": CNN})  # fmt: skip
    run(recipe)
    found, trained = Looks.read(folder / "attention.json"), load_trained(folder)
    assert found.images and not found.why
    for one in found.images:
        assert list(one.maps) == ["class", "conv"]
        with Image.open(io.BytesIO(base64.b64decode(one.jpeg))) as image:
            assert image.size == (8, 8)
            near = np.asarray(image).mean()
        # Of the validation images that are about as bright, one has exactly these maps.
        files = sorted((tmp_path / "photos" / "val").rglob("*.png"))
        pixels = [torch.from_numpy(np.asarray(Image.open(file).convert("RGB")).copy()) for file in files]
        x = (torch.stack(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        maps = attention_maps(trained.model, x)  # type: ignore[arg-type]
        gaps = [max(float((maps[t][i] - torch.tensor(one.maps[t])).abs().max()) for t in one.maps) for i in range(9)]
        best = int(np.argmin(gaps))
        assert gaps[best] < 1e-4 and abs(float(pixels[best].float().mean()) - near) < 3
    assert "Where the tokens look" in run_report(folder).read_text()
    (folder / "attention.json").write_text(
        '{"images": [{"jpeg": "AAAA", "kind": "", "label": "", "answer": "", "maps": {}}]}'
    )
    assert "Where the tokens look is left out" in run_report(folder).read_text()


@pytest.mark.slow
def test_a_student_without_tokens_gets_a_line(tmp_path: Path) -> None:
    student = {name: value for name, value in CNN.items() if name != "train"}
    run(tiny(tmp_path / "run", SHORT, student=student))
    assert "Not shown: ResNet has no tokens" in run_report(tmp_path / "run").read_text()


@pytest.mark.parametrize("padded", [False, True])
def test_images_of_another_size_than_the_model_was_made_for(padded: bool) -> None:
    small = {"depth": 2, "embed_dim": 24, "num_heads": 2, "num_classes": 3, "patch_size": 8}
    torch.manual_seed(0)
    options = {"dynamic_img_size": True, "dynamic_img_pad": padded}
    any_size = timm.create_model("vit_tiny_patch16_224", img_size=64, **small, **options)
    advised = add_tokens(any_size, {"conv": None}).eval()
    maps = attention_maps(advised, torch.randn(2, 3, 39, 24) if padded else torch.randn(2, 3, 40, 24))
    assert {name: tuple(one.shape) for name, one in maps.items()} == dict.fromkeys(("class", "conv"), (2, 5, 3))
    cit = timm.create_model("cit_tiny", img_size=64, teachers={"conv": "conv"}, **small, **options).eval()
    images = torch.randn(2, 3, 40, 24)
    fixed = timm.create_model("cit_tiny", img_size=(40, 24), teachers={"conv": "conv"}, **small).eval()
    position = resample_abs_pos_embed(cit.pos_embed, [5, 3], [8, 8], num_prefix_tokens=cit.num_prefix_tokens)
    fixed.load_state_dict({**cit.state_dict(), "pos_embed": position})
    for name, one in attention_maps(cit, images).items():
        torch.testing.assert_close(one, attention_maps(fixed, images)[name], atol=1e-5, rtol=1e-4)
