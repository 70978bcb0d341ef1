"""Stems: the fast forms of their layers compute the same, are taken, and have the names of the plain ones."""

import copy
import re
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch._inductor import config
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.utils import run_and_get_code
from torch.utils._python_dispatch import TorchDispatchMode

from coadvise.models import stems
from coadvise.models.rednet import ConvBNReLU, Involution2d
from coadvise.models.stems import Projection, Stem

LAST = torch.channels_last


def plain_stem(kind: str) -> nn.Module:
    """The stem as it is written down: every layer PyTorch's own."""
    if kind == "conv":
        stem = nn.Sequential(ConvBNReLU(3, 64, 7, stride=2), ConvBNReLU(64, 64, 3), ConvBNReLU(64, 64, 3))
    else:
        layers = ConvBNReLU(3, 32, 3, stride=2), Involution2d(32, 3), nn.BatchNorm2d(32), nn.ReLU()
        stem = nn.Sequential(*layers, ConvBNReLU(32, 64, 3))
    return nn.ModuleDict({"stem": stem, "proj": nn.Conv2d(64, 24, 4, stride=4)})


@pytest.mark.parametrize("kind", ["conv", "inv"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
@pytest.mark.parametrize("training", [True, False])
def test_equals_the_plain_layers(kind: str, layout: torch.memory_format, training: bool) -> None:
    torch.manual_seed(0)
    plain, fast = plain_stem(kind).double(), Stem(kind, 3, 24, (8, 8), bias=True)
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.2)
            nn.init.normal_(module.bias)
    fast.load_state_dict(plain.state_dict())  # the same names and shapes
    assert list(fast.state_dict()) == list(plain.state_dict())
    plain.train(training)
    fast.train(training)
    x, grad = torch.randn(3, 3, 32, 24), torch.randn(3, 24, 4, 3)
    y = fast(x.contiguous(memory_format=layout))
    exact = plain["proj"](plain["stem"](x.double()))
    torch.testing.assert_close(y.double(), exact, rtol=1e-4, atol=1e-4)
    y.backward(grad)
    exact.backward(grad.double())
    for (name, a), b in zip(fast.named_parameters(), plain.parameters(), strict=True):
        error = (a.grad.double() - b.grad).norm() / max(float(b.grad.norm()), 1e-3)
        assert error < 1e-3, name
    for (name, a), b in zip(fast.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", ["conv", "inv"])
def test_the_fused_norms_are_taken_in_training(kind: str) -> None:
    stem = Stem(kind, 3, 24, (8, 8), bias=True)
    x = torch.randn(2, 3, 16, 16).contiguous(memory_format=LAST)
    with mock.patch.object(stems, "norm_relu", wraps=stems.norm_relu) as seen:
        stem(x)
        assert seen.call_count == 3
        stem.eval()(x)
        assert seen.call_count == 3


def test_what_replaces_or_watches_a_norm_finds_the_plain_layers() -> None:
    torch.manual_seed(0)
    stem, x = Stem("inv", 3, 24, (8, 8), bias=True), torch.randn(2, 3, 16, 16).contiguous(memory_format=LAST)
    stem(x)
    distributed = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(stem)).eval()
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in distributed.modules()) == 4
    torch.testing.assert_close(distributed(x), stem.eval()(x), rtol=0, atol=0)
    seen: list[Tensor] = []
    stem.train().stem[0].bn.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))  # type: ignore[union-attr]
    stem(x)
    assert seen[0].min() < 0  # before ReLU, as its name says


class Calls(TorchDispatchMode):
    """ATen's calls, with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[object, ...]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen.append((func.name(), args))
        return func(*args, **(kwargs or {}))


def test_no_gradient_of_the_pixels_and_none_by_a_convolution_for_the_projection() -> None:
    embed = stems.TokenEmbed(stem="conv+inv", img_size=16, patch_size=8, in_chans=3, embed_dim=24)
    tokens = embed(torch.randn(2, 3, 16, 16)).patches
    with Calls() as calls:
        tokens.sum().backward()
    wanted = [args for name, args in calls.seen if name == "aten::convolution_backward"]
    firsts = [args for args in wanted if args[1].shape[1] == 3]  # type: ignore[attr-defined]
    assert len(wanted) == 7 and len(firsts) == 2
    assert all(args[10][0] is (args[1].shape[1] != 3) for args in wanted)  # type: ignore[index,attr-defined]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(2, 3), (4, 4)])
def test_projection_is_its_convolution(size: tuple[int, int], layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    projection = Projection(5, 7, size, stride=size).double()
    x = torch.randn(2, 5, 4 * size[0], 3 * size[1], dtype=torch.float64).to(memory_format=layout).requires_grad_()
    exact = nn.functional.conv2d(x, projection.weight, projection.bias, stride=size)
    weight, inputs = torch.randn_like(exact), [x, projection.weight, projection.bias]
    expected = torch.autograd.grad((exact * weight).sum(), inputs)
    for found in (projection(x), stems.as_product(projection, x, channels_last=False)):
        torch.testing.assert_close(found, exact)
        torch.testing.assert_close(torch.autograd.grad((found * weight).sum(), inputs), expected)


@pytest.mark.parametrize("flatten", [True, False])
def test_patches_are_timms_without_its_convolution(flatten: bool) -> None:
    torch.manual_seed(0)
    embed = stems.TokenEmbed(img_size=(16, 24), patch_size=8, in_chans=3, embed_dim=24, flatten=flatten).double()
    images = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    exact = embed(images).patches
    weight, inputs = torch.randn_like(exact), [embed.proj.weight, embed.proj.bias]
    with Calls() as calls:
        found = embed(images, by_product=True).patches
        gradients = torch.autograd.grad((found * weight).sum(), inputs)
    assert not [name for name, _ in calls.seen if "convolution" in name]
    torch.testing.assert_close(found, exact)
    torch.testing.assert_close(gradients, torch.autograd.grad((exact * weight).sum(), inputs))


def test_patches_are_the_same_bits_however_images_lie_in_memory() -> None:
    torch.manual_seed(0)
    embed, images = stems.TokenEmbed(img_size=16, patch_size=8, in_chans=3, embed_dim=24), torch.randn(2, 3, 16, 16)
    first, second = (embed(one, by_product=True).patches for one in (images, images.to(memory_format=LAST)))
    assert torch.equal(first, second)


def test_what_watches_or_replaces_the_projection_of_patches_is_called() -> None:
    embed, images = stems.TokenEmbed(img_size=16, patch_size=8, in_chans=3, embed_dim=24), torch.randn(2, 3, 16, 16)
    seen: list[torch.Size] = []
    handle = embed.proj.register_forward_hook(lambda module, args, y: seen.append(y.shape))
    embed(images, by_product=True)
    handle.remove()
    assert seen == [(2, 24, 2, 2)]
    overlapping = nn.Conv2d(3, 24, 10, stride=8, padding=1)
    for other in (nn.Sequential(embed.proj), overlapping):
        embed.proj = other
        found = embed(images, by_product=True).patches
        torch.testing.assert_close(found, other(images).flatten(2).transpose(1, 2), rtol=0, atol=0)


def test_fast_layers_are_kept_where_pytorch_takes_compiling_for_exporting() -> None:
    """As version 2.11 does: its `is_exporting()` is true under `torch.compile`."""
    embed = stems.TokenEmbed(stem="conv", img_size=16, patch_size=8, in_chans=3, embed_dim=16)
    with mock.patch("torch.compiler.is_exporting", lambda: True), Calls() as calls:
        embed(torch.randn(2, 3, 16, 16))
    convolutions = [args for name, args in calls.seen if name == "aten::convolution"]
    assert len(convolutions) == 3
    assert convolutions[0][0].is_contiguous(memory_format=LAST)  # type: ignore[attr-defined]


@pytest.mark.slow
@config.patch({"force_disable_caches": True, "cpp.vec_isa_ok": True})
@mock.patch.object(AsyncCompile, "cpp_pybinding", lambda *_: lambda *_: None)  # written and counted, never built
def test_a_compiler_joins_norm_relu_and_windows() -> None:
    """One kernel for each BatchNorm with its ReLU, forward and backward; the last one writes the projection's windows.

    Beside them forward lays out the projection's weight and takes the means of tokens; backward spreads the means.
    """
    embed = stems.TokenEmbed(stem="conv", img_size=16, patch_size=8, in_chans=3, embed_dim=16)
    compiled = torch.compile(embed, fullgraph=True)
    x = torch.randn(2, 3, 16, 16).contiguous(memory_format=LAST)

    def both_ways() -> None:
        tokens = compiled(x)
        (tokens.patches.sum() + tokens.means["conv"].sum()).backward()

    _, codes = run_and_get_code(both_ways)
    assert len(codes) == 2
    forward, backward = (re.sub(r"\s+", " ", code[code.index("def call") :]) for code in codes)
    assert [len(re.findall(r"cpp_fused\w*\(", code)) for code in (forward, backward)] == [5, 5]
    assert backward.count("= torch.ops.aten.convolution_backward.default(") == 3
    assert backward.count("[True, True, False])") == 2 and backward.count("[False, True, False])") == 1
