"""What timm reads beside a model of how it was trained to see images."""

import math

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import nn

import coadvise
from coadvise.data.views.square import eval_pixels
from coadvise.models.advised import add_tokens
from coadvise.models.described import crop_share, describe
from coadvise.models.students import SingleHead
from coadvise.recipe.schema import Data

DATA = Data(source="x", image_size=96, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), interpolation="bilinear")


def test_timm_resizes_to_the_same_pixels() -> None:
    """timm's own rounding, over all sizes and the crops that recipes use."""
    for size in (*range(4, 700), 1024, 2048, 4096):
        for crop in (1.0, 0.95, 0.9, 0.875, 0.85, 0.8, 0.5, 1 / 3):
            data = Data(source="x", image_size=size, eval_crop=crop)
            assert math.floor(size / crop_share(data)) == round(size / crop), (size, crop)


@pytest.mark.parametrize("wrap", [lambda model: model, SingleHead])
@pytest.mark.parametrize(
    ("name", "options"),
    [("resnet10", {}), ("vit_tiny_patch16_224", {"img_size": 96, "depth": 1}), ("cit_tiny", {"img_size": 96})],
)
def test_timm_finds_what_the_model_was_trained_with(name: str, options: dict[str, int], wrap, photo) -> None:
    model = wrap(timm.create_model(name, num_classes=3, **options))
    describe(model, DATA)
    config = resolve_model_data_config(model, use_test_size=True)
    assert config["input_size"] == (3, 96, 96) and config["interpolation"] == "bilinear"
    assert (config["mean"], config["std"]) == (DATA.mean, DATA.std)
    image: Image.Image = photo(1, (180, 131))
    pixels = torch.from_numpy(eval_pixels(DATA)(image)).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (DATA.mean, DATA.std))
    torch.testing.assert_close(create_transform(**config)(image), (pixels - mean) / std, atol=1e-6, rtol=1e-6)


def test_a_model_of_another_size_keeps_it() -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=64, depth=1)
    describe(model, DATA)
    assert resolve_model_data_config(model)["input_size"] == (
        3,
        224,
        224,
    )  # as timm says of a model that was given a size
    plain = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    describe(plain, DATA)
    assert plain.pretrained_cfg["mean"] == DATA.mean and "input_size" not in plain.pretrained_cfg
    assert coadvise.FrozenTeacher(plain).image_size is None


@pytest.mark.parametrize(
    ("name", "options", "wrap"),
    [
        ("vit_small_patch16_dinov3", {"depth": 1}, SingleHead),
        ("vit_small_patch16_dinov3", {"depth": 1}, lambda model: add_tokens(model, {"conv": "conv"})),
        ("vit_tiny_patch16_224", {"depth": 1, "dynamic_img_size": True}, SingleHead),
        ("xcit_nano_12_p16_224", {"depth": 1}, SingleHead),
    ],
)
def test_a_model_that_takes_any_size_says_that_of_its_images(name: str, options: dict[str, int], wrap, photo) -> None:
    """Though it has kept the one that it was made with, where it was not told another."""
    model = wrap(timm.create_model(name, num_classes=3, **options)).train()
    modes = [part.training for part in model.modules()]
    describe(model, DATA)
    assert [part.training for part in model.modules()] == modes
    config = resolve_model_data_config(model)
    pixels = create_transform(**config)(photo(1, (180, 131)))
    assert pixels.shape == config["input_size"] == (3, 96, 96)
    assert model.eval()(pixels[None]).shape == (1, 3)


def test_advised_tokens_hide_nothing() -> None:
    model = add_tokens(timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=96, depth=1), {"conv": "conv"})
    describe(model, DATA)
    for part in (model, model.model):
        config = resolve_model_data_config(part)
        assert config["input_size"] == (3, 96, 96) and config["mean"] == DATA.mean
