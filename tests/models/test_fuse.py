"""Fused teachers give the logits of the model they were made from, faster and without touching it."""

import pytest
import timm
import torch
from torch import nn

import coadvise  # noqa: F401  (registers the models)
from coadvise.models.fuse import fused
from coadvise.models.teachers import Teachers


def with_statistics(model: nn.Module) -> nn.Module:
    """BatchNorm as after training: fresh, its mean of 0 and variance of 1 would hide errors."""
    generator = torch.Generator().manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(generator=generator).mul_(0.1)
            norm.running_var.uniform_(0.7, 1.5, generator=generator)
            norm.weight.data.uniform_(0.6, 1.1, generator=generator)
            norm.bias.data.normal_(generator=generator).mul_(0.1)
    return model.eval()


# name, BatchNorms, those left because no convolution stands before them
MODELS = [
    ("resnet18", 20, 0),
    ("regnety_002", 44, 0),
    ("rednet26", 40, 9),
    ("densenet121", 121, 62),
    ("vgg11_bn", 8, 0),  # its convolutions have biases
]


@pytest.mark.parametrize(("name", "norms", "left"), MODELS)
def test_logits_are_those_of_the_model(name: str, norms: int, left: int) -> None:
    torch.manual_seed(0)
    options = {"mlp_ratio": 0.05} if name == "vgg11_bn" else {}  # or it has 120 million weights behind them
    model = with_statistics(timm.create_model(name, num_classes=10, **options))
    count = [sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) for net in (model,)]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    faster = fused(model, torch.randn(2, 3, 64, 64))
    assert faster is not None
    count.append(sum(isinstance(m, nn.BatchNorm2d) for m in faster.modules()))
    assert count == [norms, left]
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        expected = model.double()(x.double())
        found = faster(x)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    model.float()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Shared(nn.Module):
    """What must not be folded: a map that is read twice, a convolution that is called twice, BatchNorm first."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "read twice":
            y = self.conv(x)
            y = self.norm(y) + y
        elif self.kind == "called twice":
            y = self.norm(self.conv(self.conv(x)))
        else:
            y = self.conv(self.norm(x))
        return y.mean(dim=(2, 3))


@pytest.mark.parametrize("kind", ["read twice", "called twice", "norm first"])
def test_what_cannot_be_folded_stays(kind: str) -> None:
    torch.manual_seed(0)
    model = with_statistics(Shared(kind))
    x = torch.randn(4, 3, 8, 8)
    faster = fused(model, x)
    if faster is not None:
        assert sum(isinstance(m, nn.BatchNorm2d) for m in faster.modules()) == 1
        torch.testing.assert_close(faster(x), model(x))
    else:
        assert kind == "read twice"


def test_without_batch_norm_there_is_nothing_to_fuse() -> None:
    assert fused(timm.create_model("convnext_atto").eval(), torch.randn(1, 3, 32, 32)) is None


def test_teachers_are_fused_in_their_own_normalisation_and_size() -> None:
    torch.manual_seed(0)
    models = {
        "conv": with_statistics(timm.create_model("resnet18", num_classes=5)),
        "plain": with_statistics(Shared("read twice")),
    }
    whole = Teachers(models, input_mean=(0.1, 0.5, 0.9), input_std=(0.5, 0.25, 0.3))
    faster = Teachers(models, input_mean=(0.1, 0.5, 0.9), input_std=(0.5, 0.25, 0.3))
    x = torch.randn(2, 3, 32, 32)
    assert faster.fuse(x) == ("conv",)
    for name, logits in faster(x).items():
        torch.testing.assert_close(logits, whole(x)[name], atol=1e-4, rtol=1e-4)
    assert not any(p.requires_grad for p in faster.parameters())


@pytest.mark.parametrize("name", ["resnet18", "rednet26"])
def test_under_autocast_the_weights_are_kept_in_its_type(name: str) -> None:
    """The same numbers as autocast over the whole model gives, without converting weights at each step."""
    torch.manual_seed(0)
    model = with_statistics(timm.create_model(name, num_classes=10))
    x = torch.randn(4, 3, 64, 64)
    faster = fused(model, x, torch.bfloat16)
    assert faster is not None
    assert {m.weight.dtype for m in faster.modules() if isinstance(m, (nn.Conv2d, nn.Linear))} == {torch.bfloat16}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected, found = model(x).float(), faster(x).float()
    exact = model.double()(x.double()).detach()
    # As near to the exact logits as autocast itself: its rounding is what remains.
    assert (found - exact).abs().max() < 2 * (expected - exact).abs().max() + 1e-3


class _HalfOff(nn.Module):
    """Reads the feature map between a convolution and its BatchNorm; its last layer knows three of four classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 4)
        nn.init.zeros_(self.fc.weight[1])
        nn.init.constant_(self.fc.bias[1:2], -1e4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.fc((self.bn(y) + 0.1 * y).mean(dim=(2, 3)))


def test_a_class_that_was_never_seen_hides_no_error() -> None:
    torch.manual_seed(0)
    model = with_statistics(_HalfOff())
    assert model(torch.zeros(1, 3, 4, 4))[0, 1] == -1e4
    assert fused(model, torch.randn(2, 3, 4, 4)) is None
