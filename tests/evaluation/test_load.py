"""A trained model in one line, beside what it is made of: timm's transform, the model, a softmax of float64."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers.recipes import CNN, tiny
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

import coadvise
from coadvise.checkpoints.build import build_student
from coadvise.checkpoints.model_file import save_model
from coadvise.errors import CheckpointError, DataError

CLASSES = ("dark", "grey", "light")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of a small ResNet, trained at 24 px."""
    root = tmp_path_factory.mktemp("run")
    changes = {"data.image_size": 24, "data.mean": [0.3, 0.4, 0.5], "data.std": [0.2, 0.3, 0.4]}
    recipe = tiny(root, changes, student={key: CNN[key] for key in ("model", "options", "small_stem")})
    torch.manual_seed(0)
    model = build_student(recipe.student, {}, len(CLASSES), 24)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)  # so that images differ
    save_model(root / "best.safetensors", model, recipe, CLASSES, weights="student", epoch=1, metrics={})
    return root


def expected(run: Path, image: Image.Image) -> np.ndarray:
    """Through timm's transform of the rebuilt model."""
    model = coadvise.load(run).model
    with torch.no_grad():
        z = model(create_transform(**resolve_model_data_config(model))(image)[None])[0].double().numpy()
    odds = np.exp(z - z.max())
    return odds / odds.sum()


def test_one_line_from_a_run_to_predictions(run: Path, tmp_path: Path, photo) -> None:
    images = [photo(number, (50, 37 + number)) for number in range(20)]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number:02}.png")
    model = coadvise.load(run)
    assert not model.model.training and model.classes == CLASSES
    odds = np.stack([expected(run, image) for image in images])
    assert odds.std(axis=0).max() > 0.01  # images are told apart
    for given in (images, tmp_path, [tmp_path], str(tmp_path / "*.png"), sorted(tmp_path.iterdir()), iter(images)):
        np.testing.assert_allclose(model.probabilities(given), odds, atol=1e-5)
    seen = model.predict(tmp_path, top=2)
    assert [one.path for one in seen] == sorted(tmp_path.iterdir()) and all(len(one.classes) == 2 for one in seen)
    assert [one.name for one in seen] == [CLASSES[row.argmax()] for row in odds]
    assert [one.probability for one in seen] == pytest.approx(odds.max(axis=1).tolist(), abs=1e-5)
    (alone,) = model.predict(images[3])
    assert alone.path is None and dict(alone.classes) == pytest.approx(
        dict(zip(CLASSES, odds[3], strict=True)), abs=1e-5
    )
    logits = model.model(model.transform(images[3])[None])
    np.testing.assert_allclose(logits.softmax(1).detach().numpy()[0], odds[3], atol=1e-5)
    assert coadvise.load(run / "best.safetensors").probabilities([]).shape == (0, 3)


def test_a_run_s_folder_is_a_checkpoint(run: Path) -> None:
    model = timm.create_model("resnet10", num_classes=3, **CNN["options"])
    coadvise.small_stem(model)
    coadvise.load_checkpoint(model, run)
    config = resolve_model_data_config(model)
    assert config["input_size"] == (3, 24, 24) and config["mean"] == (0.3, 0.4, 0.5)
    own = coadvise.load(run).model.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in model.state_dict().items())


def test_what_cannot_be_loaded_or_seen_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="load's path is None; give a run's folder"):
        coadvise.load(None)
    with pytest.raises(CheckpointError, match=r"holds no best\.safetensors"):
        coadvise.load_checkpoint(torch.nn.Linear(1, 1), tmp_path)
    model = coadvise.load(run)
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"bad\.png cannot be read as an image"):
        model.predict(tmp_path)
    with pytest.raises(DataError, match="there is no such image file"):
        model.predict("none.jpg")
    with pytest.raises(DataError, match="an image is of type int; give a path"):
        model.predict([3])
