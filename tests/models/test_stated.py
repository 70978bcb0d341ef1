"""What teachers say of the images they want: the oracle is the model itself, fed by hand."""

import logging
import math
from typing import Any

import pytest
import timm
import torch
from torch import nn

from coadvise.models.students import SingleHead
from coadvise.models.teachers import FrozenTeacher, Teachers


def same_as_alone(model: nn.Module, height: int, width: int) -> bool:
    """Whether a teacher gives, for the student's images of that size, what the bare model gives for the same images."""
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.eval()(x)
    cfg = model.pretrained_cfg
    found = Teachers({"t": model}, input_mean=cfg["mean"], input_std=cfg["std"])(x)["t"]
    return torch.allclose(found, expected, atol=1e-5, rtol=1e-4)


FAMILIES: list[tuple[str, int, dict[str, Any]]] = [
    ("mixer_tiny", 32, {"patch_size": 4, "num_blocks": 1}),
    ("gmixer_12_224", 32, {}),
    ("gmlp_ti16_224", 32, {}),
    ("resmlp_12_224", 32, {}),
    ("volo_d1_224", 64, {}),
    ("levit_128s", 64, {}),
    ("tnt_s_patch16_224", 32, {"depth": 1}),
    ("coat_lite_tiny", 64, {"serial_depths": (1, 1, 1, 1)}),
    ("visformer_tiny", 64, {"depth": 3}),
    ("cait_xxs24_224", 32, {"depth": 1}),
    ("swin_tiny_patch4_window7_224", 56, {"depths": (1, 1), "num_heads": (3, 6)}),
    ("xcit_nano_12_p16_224", 64, {"depth": 1}),
    ("crossvit_9_240", 120, {"depth": ((1, 1, 0),)}),
    ("maxvit_rmlp_pico_rw_256", 64, {"depths": (1, 1, 1, 1)}),
    ("sequencer2d_s", 112, {"layers": (1, 1, 1, 1)}),
    ("vit_relpos_small_patch16_224", 32, {"depth": 1}),
    ("lambda_resnet26rpt_256", 128, {}),
]


@pytest.mark.parametrize(("name", "size", "options"), FAMILIES, ids=[name for name, _, _ in FAMILIES])
def test_a_model_made_for_a_size_is_fed_it(name: str, size: int, options: dict[str, Any]) -> None:
    model = timm.create_model(name, num_classes=3, img_size=size, **options)
    assert same_as_alone(model, size, size)


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("vit_tiny_patch16_224", (32, 64), {"depth": 1}),
        ("levit_128s", (64, 128), {}),
        ("botnet26t_256", (128, 256), {}),
        ("swinv2_cr_tiny_224", (112, 224), {"depths": (1, 1), "num_heads": (3, 6)}),
    ],
)
def test_images_need_not_be_square(name: str, size: tuple[int, int], options: dict[str, Any]) -> None:
    model = timm.create_model(name, num_classes=3, img_size=size, **options)
    assert same_as_alone(model, *size)


def test_other_images_are_brought_to_the_size() -> None:
    """The student's square of 32 px is stretched as `interpolate` does it, to twice the width."""
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=(32, 64), depth=1).eval()
    x = torch.randn(2, 3, 32, 32)
    wide = nn.functional.interpolate(x, size=(32, 64), mode="bicubic", antialias=True)
    with torch.no_grad():
        expected = model(wide)
    cfg = model.pretrained_cfg
    assert torch.equal(Teachers({"t": model}, input_mean=cfg["mean"], input_std=cfg["std"])(x)["t"], expected)


@pytest.mark.parametrize(
    ("name", "options"), [("vit_tiny_patch16_224", {"dynamic_img_size": True, "depth": 1}), ("test_vit", {})]
)
def test_a_model_that_takes_any_size_sees_the_students_images(name: str, options: dict[str, Any]) -> None:
    model = timm.create_model(name, num_classes=3, **options)
    assert same_as_alone(model, 48, 48) and same_as_alone(model, 64, 32)


def test_torchvisions_transformer_is_fed_its_size() -> None:
    import torchvision

    model = torchvision.models.VisionTransformer(32, 16, 1, 1, 24, 24, num_classes=3).eval()
    assert FrozenTeacher(model).image_size == 32
    assert FrozenTeacher(torchvision.models.shufflenet_v2_x0_5(num_classes=3)).image_size is None


def test_asking_leaves_the_model_as_it_is_and_ordinary_networks_are_not_asked() -> None:
    model, cnn = timm.create_model("levit_128s", num_classes=3), timm.create_model("resnet10", num_classes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calls: list[int] = []
    for one in (model, cnn):
        one.register_forward_hook(lambda *_: calls.append(1))
        FrozenTeacher(one)
    after = model.state_dict()
    assert not calls and all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


class Renamed(nn.Module):
    """A wrapper as people write it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class Averaged(nn.Module):
    """The mean of several models."""

    def __init__(self, *models: nn.Module) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([model(x) for model in self.models]).mean(0)


class Normalise(nn.Module):
    """The first layer of models that take pixels in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((3, 1, 1), 0.4))
        self.register_buffer("std", torch.full((3, 1, 1), 0.2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


@pytest.mark.parametrize("wrap", [nn.DataParallel, SingleHead, Renamed, Averaged, nn.Sequential])
def test_a_wrapped_teacher_keeps_its_normalisation_and_size(wrap: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The logits are those of the bare model on pixels normalised by hand with its mean and std of 0.5."""
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, depth=1).eval()
    assert model.pretrained_cfg["mean"] == model.pretrained_cfg["std"] == (0.5, 0.5, 0.5)
    pixels = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = model((pixels - 0.5) / 0.5)
    teachers = Teachers({"t": wrap(model)})
    torch.testing.assert_close(teachers((pixels - mean) / std)["t"], expected, atol=1e-5, rtol=1e-4)
    assert FrozenTeacher(wrap(model)).image_size == 32 and not caplog.records


class OfOneSize(nn.Module):
    """A user's own network, made for images of one size."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.img_size, self.head = side, nn.Linear(3 * side * side, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.flatten(1))


def test_a_models_normalisation_says_nothing_about_its_size() -> None:
    """`load_checkpoint` leaves only that in `pretrained_cfg` of a module which is not timm's."""
    fixed, free = OfOneSize(20), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    free.img_size = 20
    for model in (fixed, free):
        model.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert FrozenTeacher(fixed).image_size == 20 and FrozenTeacher(free).image_size is None


@pytest.mark.parametrize("kind", ["plain", "two", "normalises"])
def test_what_cannot_be_found_is_said(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    cnn = timm.create_model("resnet10", num_classes=3)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, depth=1)
    model = {
        "plain": nn.Sequential(nn.Flatten(), nn.Linear(12, 3)),
        "two": Averaged(cnn, vit),
        "normalises": nn.Sequential(Normalise(), cnn),
    }[kind]
    with caplog.at_level(logging.WARNING):
        teachers = Teachers({"mine": model})
    assert ["'mine'" in record.getMessage() and "mean=" in record.getMessage() for record in caplog.records] == [True]
    assert next(iter(teachers.items()))[1].mean is None
    caplog.clear()
    Teachers({"mine": FrozenTeacher(model, mean=(0.5,) * 3, std=(0.5,) * 3)})
    assert not caplog.records


def test_the_wrong_normalisation_would_show() -> None:
    """That the logits above depend on it: seen as the student sees them, they are far off."""
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, depth=1).eval()
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        right, wrong = model((pixels - 0.5) / 0.5), model((pixels - 0.485) / 0.229)
    assert not math.isclose(float((right - wrong).norm() / right.norm()), 0.0, abs_tol=0.01)
