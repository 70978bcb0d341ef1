"""RedNet: published sizes, and the network written out again with functions."""

import pytest
import timm
import torch
import torch.nn.functional as F

from coadvise.errors import ModelError
from coadvise.models.rednet import Involution2d, RedNet

PARAMETERS = {
    "rednet26": 9_233_166,
    "rednet38": 12_386_986,
    "rednet50": 15_540_806,
    "rednet101": 25_652_950,
    "rednet152": 33_984_582,
}


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameter_counts(name, count):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == count


def norm(weights, name, x):
    return F.batch_norm(
        x,
        weights[f"{name}.running_mean"],
        weights[f"{name}.running_var"],
        weights[f"{name}.weight"],
        weights[f"{name}.bias"],
    )


def average_of_existing(x, stride):
    """Mean over stride×stride pixels, at the border over those inside; written with sums and counts."""
    h, w = x.shape[-2:]
    pad = (0, -w % stride, 0, -h % stride)
    total = F.avg_pool2d(F.pad(x, pad), stride)
    share = F.avg_pool2d(F.pad(torch.ones_like(x), pad), stride)
    return total / share


def involve(weights, name, x, k, stride):
    pooled = average_of_existing(x, stride) if stride > 1 else x
    hidden = F.conv2d(pooled, weights[f"{name}.reduce.conv.weight"]).float()
    hidden = F.relu(norm(weights, f"{name}.reduce.bn", hidden))
    kernel = F.conv2d(hidden, weights[f"{name}.expand.weight"], weights[f"{name}.expand.bias"])
    b, c, _, _ = x.shape
    oh, ow = kernel.shape[-2:]
    padded = F.pad(x, [(k - 1) // 2, (k - 1) // 2 + stride] * 2)
    windows = padded.unfold(2, k, stride).unfold(3, k, stride)[:, :, :oh, :ow]  # b c oh ow k k
    kernel = kernel.view(b, c // 16, k, k, oh, ow).permute(0, 1, 4, 5, 2, 3).repeat_interleave(16, dim=1)
    return (windows * kernel).sum((-2, -1))


def bottleneck(weights, name, x, stride):
    y = F.relu(norm(weights, f"{name}.bn1", F.conv2d(x, weights[f"{name}.conv1.weight"])))
    y = F.relu(norm(weights, f"{name}.bn2", involve(weights, f"{name}.conv2", y, 7, stride)))
    y = norm(weights, f"{name}.bn3", F.conv2d(y, weights[f"{name}.conv3.weight"]))
    if f"{name}.downsample.0.weight" in weights:
        x = F.conv2d(x, weights[f"{name}.downsample.0.weight"], stride=stride)
        x = norm(weights, f"{name}.downsample.1", x)
    return F.relu(x + y)


def randomise(model):
    generator = torch.Generator().manual_seed(3)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            drawn = torch.rand(value.shape, generator=generator)
            value.copy_(drawn + 0.5 if name.endswith("running_var") else drawn * 0.4 - 0.2)
    return model.eval()


@pytest.mark.parametrize("size", [(64, 64), (45, 38)])
def test_network_equals_its_description(size):
    model = randomise(RedNet(layers=(1, 2, 1), width=32, num_classes=7))
    weights = model.state_dict()
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        y = F.conv2d(x, weights["stem.0.conv.weight"], stride=2, padding=1)
        y = F.relu(norm(weights, "stem.0.bn", y))
        y = F.relu(norm(weights, "stem.2", involve(weights, "stem.1", y, 3, 1)))
        y = F.relu(norm(weights, "stem.4.bn", F.conv2d(y, weights["stem.4.conv.weight"], padding=1)))
        y = F.max_pool2d(y, 3, 2, 1)
        for name, stride in (("layer1.0", 1), ("layer2.0", 2), ("layer2.1", 1), ("layer3.0", 2)):
            y = bottleneck(weights, name, y, stride)
        torch.testing.assert_close(model.forward_features(x), y, rtol=1e-4, atol=1e-5)
        expected = F.linear(y.mean((2, 3)), weights["fc.weight"], weights["fc.bias"])
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [5, 6])
@pytest.mark.parametrize("stride", [1, 2])
def test_layer_size_is_rounded_up(size, stride):
    layer = Involution2d(16, 7, stride).eval()
    assert layer(torch.randn(1, 16, size, 7)).shape == (1, 16, -(-size // stride), -(-7 // stride))


def test_small_stem_and_tiny_network():
    model = timm.create_model("rednet26", layers=(1, 1, 1), width=16, num_classes=10, stem="small")
    maps = model.forward_intermediates(torch.randn(2, 3, 32, 32), intermediates_only=True)
    assert [tuple(m.shape[1:]) for m in maps] == [(16, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8)]
    assert [info["reduction"] for info in model.feature_info] == [1, 1, 2, 4]
    assert model.stem.conv.kernel_size == (3, 3) and model.stem.conv.stride == (1, 1)


def test_every_parameter_gets_a_gradient():
    model = RedNet(layers=(1, 1), width=32, num_classes=4, zero_init_last=False)
    model(torch.randn(4, 3, 33, 33)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_drop_path_grows_with_depth():
    model = RedNet(layers=(1, 2), width=32, drop_path_rate=0.2)
    rates = [getattr(b.drop_path, "drop_prob", 0.0) for b in (*model.layer1, *model.layer2)]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


def test_grad_checkpointing_gives_the_same_gradient():
    grads = []
    for enabled in (False, True):
        torch.manual_seed(0)
        model = RedNet(layers=(1, 1), width=32, num_classes=4)
        model.set_grad_checkpointing(enabled)
        model(torch.ones(2, 3, 32, 32)).sum().backward()
        grads.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 40}, "multiple of 16"),
        ({"width": 16}, r"multiple of 32 \(a multiple of 16 with stem='small'\)"),
        ({"stem": "tiny"}, "'imagenet' or 'small'"),
        ({"layers": ()}, "at least one bottleneck"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ModelError, match=message):
        RedNet(**options)
