"""Teachers: frozen, in their own normalisation and resolution, and measured before they advise."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from timm.data import create_dataset
from torch import nn

from coadvise.errors import ModelError
from coadvise.evaluation.teacher_check import TeacherCheck, measure_teachers, require_able
from coadvise.models.teachers import FrozenTeacher, Teachers


@pytest.mark.parametrize("name", ["resnet18", "regnety_002"])
def test_timm_teacher_gives_timm_logits_on_the_same_image(name: str) -> None:
    """The image is normalised for the student with other numbers; the teacher must see it in its own."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7).eval()
    pixels = torch.rand(2, 3, 64, 64)
    own_mean, own_std = (torch.tensor(model.pretrained_cfg[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        expected = model((pixels - own_mean) / own_std)
    teachers = Teachers({"conv": model}, input_mean=(0.1, 0.5, 0.9), input_std=(0.5, 0.25, 0.3))
    mean, std = torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1), torch.tensor([0.5, 0.25, 0.3]).view(1, 3, 1, 1)
    torch.testing.assert_close(teachers((pixels - mean) / std)["conv"], expected, atol=1e-5, rtol=1e-4)


def test_same_normalisation_leaves_the_image_untouched() -> None:
    model = timm.create_model("resnet18", num_classes=3).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
    assert torch.equal(Teachers({"conv": model})(x)["conv"], expected)


class Probe(nn.Module):
    """Returns the mean colour of what it sees, and remembers the size."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = tuple(x.shape)
        return x.mean(dim=(2, 3))


def test_resolution_and_class_map() -> None:
    probe = Probe()
    teachers = Teachers({"t": FrozenTeacher(probe, image_size=24, classes=[2, 0])})
    x = torch.zeros(1, 3, 12, 12)
    x[:, 0], x[:, 2] = 1.0, 3.0
    torch.testing.assert_close(teachers(x)["t"], torch.tensor([[3.0, 1.0]]))
    assert probe.seen == (1, 3, 24, 24)


def test_a_timm_model_of_fixed_size_gets_its_size() -> None:
    member = FrozenTeacher(timm.create_model("deit_tiny_patch16_224", num_classes=3, depth=1))
    assert member.image_size == 224


def test_a_model_built_for_another_size_keeps_that() -> None:
    assert FrozenTeacher(timm.create_model("deit_tiny_patch16_224", img_size=32, depth=1)).image_size == 32


def test_teachers_stay_frozen_and_in_evaluation() -> None:
    model = timm.create_model("resnet18", num_classes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    teachers = Teachers({"conv": model})
    nn.ModuleList([teachers]).train()
    assert not any(module.training for module in teachers.modules())
    z = teachers(torch.randn(4, 3, 32, 32))["conv"]
    assert not z.requires_grad and not any(p.requires_grad for p in teachers.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_class_is_a_reserved_name() -> None:
    with pytest.raises(ModelError, match="class token"):
        Teachers({"class": Probe()})


@pytest.mark.parametrize(
    ("teachers", "words"),
    [({}, "no teachers are given"), ({"conv": 3}, "'conv' is no torch.nn.Module but int"), ([Probe()], "not a list"),
     ({3: Probe()}, "named 3"), (None, "not a NoneType")],
)  # fmt: skip
def test_what_cannot_teach_is_refused(teachers: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        Teachers(teachers)


@pytest.mark.parametrize(
    ("name", "options", "fixed", "words"),
    [
        # timm 1.0 makes these for sizes at which its own forward pass fails.
        pytest.param(
            "crossvit_tiny_240",
            {"img_size": 64},
            None,
            r"\(CrossVit\) cannot take images of 64×64: .*for 240×240, make",
            marks=pytest.mark.slow,
        ),
        ("vit_tiny_patch16_224", {"depth": 1}, 100, r"\(VisionTransformer\) cannot .* 100×100: .*; it takes 224×224: "),
    ],
)
def test_a_model_that_cannot_run_is_refused_before_it_advises(
    name: str, options: dict[str, Any], fixed: int | None, words: str
) -> None:
    model = timm.create_model(name, num_classes=3, **options).eval()
    with pytest.raises((RuntimeError, AssertionError)):  # timm itself
        model(torch.zeros(1, 3, fixed or 64, fixed or 64))
    with pytest.raises(ModelError, match=words + ".*teachers.t.image_size in a recipe, in Python image_size="):
        Teachers({"t": FrozenTeacher(model, image_size=fixed)})


def test_a_size_that_only_the_images_tell_is_refused_in_words() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3 * 8 * 8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[0] == 2:
                raise RuntimeError("something else")
            return self.fc(x.flatten(1))

    teachers = Teachers({"t": Head()})
    assert teachers(torch.zeros(1, 3, 8, 8))["t"].shape == (1, 5)
    with pytest.raises(ModelError, match=r"teacher 't' \(Head\) cannot take images of 9×9: .*choose the size"):
        teachers(torch.zeros(1, 3, 9, 9))
    with pytest.raises(RuntimeError, match="something else"):  # has nothing to do with the size
        teachers(torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("std", [(0.2, 0.0, 0.2), (0.2, -0.2, 0.2)])
def test_a_standard_deviation_is_above_zero(std: tuple[float, ...]) -> None:
    for make in (lambda: FrozenTeacher(Probe(), std=std), lambda: Teachers({"t": Probe()}, input_std=std)):
        with pytest.raises(ModelError, match=r"std is .*; give a number above 0 for each channel"):
            make()


class Oracle(nn.Module):
    """Reads the class off the image, and answers with `answers[class]`."""

    def __init__(self, answers: list[int], classes: int) -> None:
        super().__init__()
        self.answers, self.num_classes = torch.tensor(answers), classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.eye(self.num_classes)[self.answers[x[:, 0, 0, 0].long()]]


def measure(model: nn.Module, class_map: list[int] | None = None):
    labels = torch.arange(100) % 5
    images = labels.view(-1, 1, 1, 1).float().expand(-1, 3, 4, 4)
    teachers = Teachers({"t": FrozenTeacher(model, classes=class_map)})
    return measure_teachers(teachers, [(images[:60], labels[:60]), (images[60:], labels[60:])], 5)


def test_an_able_teacher_passes() -> None:
    checks = measure(Oracle([0, 1, 2, 3, 4], 5))
    assert checks["t"].accuracy == 1.0 and checks["t"].samples == 100
    require_able(checks, list("abcde"))


def test_classes_in_another_order_are_recognised() -> None:
    checks = measure(Oracle([1, 2, 3, 4, 0], 5))
    assert (checks["t"].accuracy, checks["t"].order) == (0.0, 1.0)
    with pytest.raises(ModelError, match=r"another order.*a → b"):
        require_able(checks, list("abcde"))


def test_the_order_of_timms_class_folders_is_written_out(tmp_path: Path) -> None:
    """As timm's own reader sorts them, whatever its rule; another order is not taken for it."""
    names = ["1", "10", "2", "B", "a"]
    for name in names:
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "x.png")
    by_timm = create_dataset("", str(tmp_path)).reader.class_to_idx
    as_timm = [by_timm[name] for name in names]
    assert as_timm == [0, 2, 1, 4, 3]
    with pytest.raises(
        ModelError, match=r"timm's class folders.*: teachers\.t\.classes=\[0,2,1,4,3\], or set"
    ) as caught:
        require_able(measure(Oracle(as_timm, 5)), names)
    written = yaml.safe_load(str(caught.value).split("classes=")[1].split(", or")[0])
    assert measure(Oracle(as_timm, 5), written)["t"].accuracy == 1
    # Another order, one that timm does not have, names that it cannot read or does not tell apart.
    others = (
        (as_timm, list("abcde")),
        ([1, 2, 3, 4, 0], names),
        (as_timm, ["²", *names[1:]]),
        (as_timm, [*names[:3], *"Aa"]),
    )
    for other, called in others:
        with pytest.raises(ModelError, match=r"; give teachers\.t\.classes, or set"):
            require_able(measure(Oracle(other, 5)), called)


def test_timms_order_is_not_said_of_what_stays_in_place_nor_beside_another_map() -> None:
    names = ["1", "10", "2", "B", "a"]
    capitals_first = TeacherCheck(0.2, 0.2, 1.0, ((0, 0), (1, 2), (2, 1), (3, 3), (4, 4)), 100)
    assert capitals_first.moved == ((1, 2), (2, 1))
    mapped = measure(Oracle([1, 3, 2, 5, 4], 6), [1, 2, 3, 4, 5])["t"]  # a class of background comes first
    assert mapped.moved == ((1, 2), (2, 1), (3, 4), (4, 3)) and mapped.mapped
    for check in (capitals_first, mapped):
        with pytest.raises(ModelError, match=r"; give teachers\.t\.classes, or set"):
            require_able({"t": check}, names)


def test_chance_level_is_refused() -> None:
    with pytest.raises(ModelError, match="near chance level"):
        require_able(measure(Oracle([2, 2, 2, 2, 2], 5)), list("abcde"))


def test_few_images_do_not_condemn_a_good_teacher() -> None:
    """Fifteen of seventeen right where 12 are of one class; all right of four; but not two right of four."""

    def weak(correct: int, samples: int, chance: float) -> bool:
        return TeacherCheck(correct / samples, chance, 0.0, (), samples).weak

    assert weak(12, 17, 12 / 17) and not weak(17, 17, 12 / 17)
    assert not weak(4, 4, 0.5) and weak(2, 4, 0.5)
    # the exact tail: 20 or more of 100 at chance 0.1 happens in 2 of 1,000 trials, 21 or more in 0.8
    tail = [sum(math.comb(100, i) * 0.1**i * 0.9 ** (100 - i) for i in range(k, 101)) for k in (20, 21)]
    assert tail[0] > 0.001 > tail[1]
    assert weak(20, 100, 0.1) and not weak(21, 100, 0.1)


def test_too_few_and_too_many_classes() -> None:
    with pytest.raises(ModelError, match="knows 3 classes, the data has 5"):
        measure(Oracle([0, 1, 2, 0, 1], 3))
    with pytest.raises(ModelError, match="give its index map"):
        measure(Oracle([0, 1, 2, 3, 4], 9))
    with pytest.raises(ModelError, match="names class 9"):
        measure(Oracle([0, 1, 2, 3, 4], 9), class_map=[0, 1, 2, 3, 9])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_teacher_in_half_precision_with_another_normalisation(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)).to(dtype)
    teacher = FrozenTeacher(model, mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5), image_size=8)
    x = torch.rand(2, 3, 8, 8).to(dtype)
    found = Teachers({"m": teacher}, input_mean=(0.5,) * 3, input_std=(0.25,) * 3)(x)["m"]
    pixels = x.double() * 0.25 + 0.5
    seen = (pixels - torch.tensor((0.1, 0.2, 0.3)).view(3, 1, 1)) / 0.5
    expected = seen.mean((2, 3)) @ model[2].weight.double().T + model[2].bias.double()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_images_in_half_precision_are_resized_as_in_full(dtype: torch.dtype) -> None:
    class Half(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.dtype == dtype
            return x.float().flatten(1)

    x = torch.randn(2, 3, 12, 12).to(dtype)
    expected = nn.functional.interpolate(x.double(), size=(8, 8), mode="bicubic", antialias=True).flatten(1)
    found = FrozenTeacher(Half(), image_size=8)(x)
    assert (found - expected).abs().max() <= torch.finfo(dtype).eps * expected.abs().max()


def test_a_teacher_may_mask_classes_but_not_all() -> None:
    class Masked(Oracle):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).masked_fill(torch.arange(self.num_classes) == self.masked, -math.inf)

    model = Masked([0, 1, 2, 3, 4], 5)
    model.masked = torch.tensor(2)
    assert measure(model)["t"].accuracy == 0.8
    model.masked = torch.arange(5)
    with pytest.raises(ModelError, match="not finite"):
        measure(model)


def test_logits_that_are_not_finite_are_refused() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.full((len(x), 5), np.nan)

    with pytest.raises(ModelError, match="not finite"):
        measure(Broken())
