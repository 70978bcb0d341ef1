"""ResNet-10, Mixer-Ti, Transformer-Ti, small stems, single-head students and `build_model`."""

import pytest
import timm
import torch
from torch import nn

from coadvise.errors import ModelError
from coadvise.models.cit import CiT
from coadvise.models.factory import build_model
from coadvise.models.students import SingleHead, as_student, small_stem, student_tokens


def test_resnet10_is_one_basic_block_per_stage():
    model = timm.create_model("resnet10", num_classes=100)
    assert [len(getattr(model, f"layer{i}")) for i in (1, 2, 3, 4)] == [1, 1, 1, 1]
    # 10 weighted layers: stem, two convolutions in each of four blocks, classifier (shortcuts are not counted).
    convolutions = [m for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and "downsample" not in n]
    assert len(convolutions) + 1 == 10


def test_mixer_tiny_and_transformers_have_the_papers_sizes():
    with torch.device("meta"):
        mixer, tiny, small, deit, deit_small = (
            timm.create_model(name)
            for name in (
                "mixer_tiny",
                "transformer_tiny",
                "transformer_small",
                "deit_tiny_patch16_224",
                "deit_small_patch16_224",
            )
        )
    assert len(mixer.blocks) == 12 and mixer.embed_dim == 192
    count = lambda model: sum(p.numel() for p in model.parameters())
    assert (count(tiny), count(small)) == (count(deit), count(deit_small)) == (5_717_416, 22_050_664)


@pytest.mark.parametrize("name", ["resnet18", "resnet10t", "resnet50d", "regnety_002", "regnetx_002", "rednet26"])
def test_small_stem_keeps_the_resolution(name):
    model = timm.create_model(name, num_classes=5)
    assert small_stem(model) is model
    first, *_ = model.forward_intermediates(torch.randn(2, 3, 32, 32), intermediates_only=True)
    assert first.shape[-2:] == (32, 32)
    convolution = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    assert convolution.kernel_size == (3, 3) and convolution.stride == (1, 1) and convolution.padding == (1, 1)
    assert not any(isinstance(m, nn.MaxPool2d) for m in model.modules())
    sizes = [m.shape[-1] for m in model.forward_intermediates(torch.randn(1, 3, 64, 64), intermediates_only=True)]
    assert [64 // size for size in sizes] == [info["reduction"] for info in model.feature_info]
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 5)


def test_small_stem_names_the_supported_families():
    with pytest.raises(ModelError, match="ResNet or RegNet or a RedNet"):
        small_stem(timm.create_model("mixer_tiny", num_blocks=1))


def test_single_head_student():
    inner = timm.create_model("resnet10", num_classes=5).eval()
    student = as_student(inner)
    assert isinstance(student, SingleHead) and student.token_names == ("class",) and student.num_classes == 5
    x = torch.randn(2, 3, 32, 32)
    assert list(student.forward_tokens(x)) == ["class"]
    torch.testing.assert_close(student.forward_tokens(x)["class"], inner(x))
    torch.testing.assert_close(student(x), inner(x))
    cit = timm.create_model("cit_tiny", img_size=32, depth=1)
    assert as_student(cit) is cit and as_student(student) is student


def test_single_head_passes_on_what_is_not_decayed():
    student = as_student(timm.create_model("deit_tiny_patch16_224", img_size=32, depth=1))
    names = {name for name, _ in student.named_parameters()}
    assert {"model.pos_embed", "model.cls_token"} <= student.no_weight_decay() & names
    assert as_student(nn.Linear(2, 2)).no_weight_decay() == set()


def test_single_head_needs_logits():
    with pytest.raises(ModelError, match=r"returns \(1, 3, 8, 8\).*must return logits"):
        as_student(nn.Identity())(torch.zeros(1, 3, 8, 8))


def test_build_model_passes_the_image_size_where_it_matters():
    vit = build_model("cit_tiny", 5, image_size=32, options={"patch_size": 8, "depth": 1})
    assert isinstance(vit, CiT) and vit.patch_embed.grid_size == (4, 4)
    mixer = build_model("mixer_tiny", 5, image_size=32, options={"patch_size": 8, "num_blocks": 1})
    resnet = build_model("resnet10", 5, image_size=32, small=True)
    x = torch.randn(2, 3, 32, 32)
    assert vit(x).shape == mixer(x).shape == resnet(x).shape == (2, 5)
    assert resnet.conv1.stride == (1, 1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cit_smal", {}, "no model is called 'cit_smal': did you mean cit_small"),
        ("zzzzzzz", {}, "coadvise models"),
        ("resnet10", {"options": {"wdith": 3}}, "resnet10 has no option 'wdith'"),
        ("cit_tiny", {"options": {"wdith": 3}}, "cit_tiny has no option 'wdith'"),
        ("cit_tiny", {"image_size": 100}, "100×100 is not divisible by patch size 16×16: use 112×112"),
        ("mixer_tiny", {"image_size": 100}, "mixer_tiny: image size 100×100 is not divisible"),
        ("cit_tiny", {"pretrained": True}, "cit_tiny has no published weights"),
        ("resnet18.nowhere", {}, "Invalid pretrained tag"),
        ("mixer_tiny", {"small": True}, "no small-image stem is known for MlpMixer"),
    ],
)
def test_build_model_errors(name, options, message):
    with pytest.raises(ModelError, match=message):
        build_model(name, 5, **options)


def test_weights_that_cannot_be_downloaded(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("coadvise.models.factory.require_reachable", lambda *args: None)  # it vanishes after that
    monkeypatch.setattr("timm.models._builder.load_pretrained", offline)
    with pytest.raises(ModelError, match=r"resnet18 cannot be had \(no route to host\): connect to the internet"):
        build_model("resnet18", 5, pretrained=True)


def test_no_classes():
    with pytest.raises(ModelError, match="at least one class"):
        build_model("resnet10", 0)


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("mvitv2_tiny", 112, "112×112: index 5 is out of bounds"),
        ("halonet26t", 64, r"\(halonet26t, ByobNet, made for 256×256\) .* 64×64: AssertionError without a reason;"),
    ],
)
def test_a_size_that_a_student_cannot_take_is_one_message(name, size, words):
    """Whatever the model raises, also where it says nothing."""
    with torch.no_grad(), pytest.raises((IndexError, AssertionError)):
        timm.create_model(name, img_size=size)(torch.zeros(1, 3, size, size))
    student = as_student(timm.create_model(name, img_size=size))
    with pytest.raises(ModelError, match=words):
        student_tokens(student, size, torch.device("cpu"))


def test_another_number_of_classes_is_named():
    student, device = as_student(nn.Sequential(nn.Flatten(), nn.Linear(48, 7))), torch.device("cpu")
    assert student_tokens(student, 4, device, 7) == ("class",)
    with pytest.raises(ModelError, match=r"'class' has 7 classes, the data has 10 classes: .*num_classes=10"):
        student_tokens(student, 4, device, 10)


def test_outputs_that_are_no_mapping_are_named():
    student = nn.Linear(1, 1)
    student.forward_tokens = lambda x: x.mean((2, 3))
    with pytest.raises(ModelError, match="must give a mapping"):
        student_tokens(student, 4, torch.device("cpu"))
