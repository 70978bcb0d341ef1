"""Involution against a plain loop over every pixel in float64, and against `unfold`."""

import math
import sys

import pytest
import torch
import torch.nn.functional as F
from helpers import processes

from coadvise.errors import ModelError
from coadvise.models.rednet import Involution2d
from coadvise.ops import involution, involution_cpu, involution_eager

OPERATOR = sys.modules["coadvise.ops.involution"]  # the module: the package exports the function of the same name


def naive(x, kernel, k, stride):
    """Sum over the window of each output pixel, written out; zeros outside the image."""
    b, c, h, w = x.shape
    oh, ow, pad = math.ceil(h / stride), math.ceil(w / stride), (k - 1) // 2
    group = torch.tensor([channel // 16 for channel in range(c)])
    out = torch.zeros(b, c, oh, ow, dtype=x.dtype)
    for oy in range(oh):
        for ox in range(ow):
            for i in range(k):
                for j in range(k):
                    y, z = oy * stride + i - pad, ox * stride + j - pad
                    if 0 <= y < h and 0 <= z < w:
                        weight = kernel[:, group * k * k + i * k + j, oy, ox]
                        out[:, :, oy, ox] += weight * x[:, :, y, z]
    return out


def unfolded(x, kernel, k, stride):
    b, c, _, _ = x.shape
    oh, ow = kernel.shape[-2:]
    windows = F.unfold(x, k, padding=(k - 1) // 2, stride=stride).view(b, c // 16, 16, k * k, oh, ow)
    return (windows * kernel.view(b, c // 16, 1, k * k, oh, ow)).sum(3).view(b, c, oh, ow)


def draw(b, c, h, w, k, stride, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(b, c, h, w, generator=generator, dtype=torch.float64)
    shape = (b, c // 16 * k * k, math.ceil(h / stride), math.ceil(w / stride))
    kernel = torch.randn(shape, generator=generator, dtype=torch.float64)
    return x.to(dtype).requires_grad_(), kernel.to(dtype).requires_grad_()


@pytest.fixture(params=["compiled", "matrix", "shifts"])
def method(request, monkeypatch):
    """All ways to compute it at every size, whichever the machine and the size would choose."""
    if request.param == "compiled":
        assert involution_cpu.library() is not None, "there is a compiler where this project is tested"
    else:
        monkeypatch.setattr(OPERATOR, "_implementation", lambda x: involution_eager)
        monkeypatch.setattr(involution_eager, "_is_small", lambda *_: request.param == "matrix")


@pytest.mark.parametrize("k", [1, 3, 5, 7, 9])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(5, 4), (4, 7), (1, 1)])
def test_equals_the_loop_forward_and_gradient(method, k, stride, size):
    x, kernel = draw(2, 32, *size, k, stride)
    expected = naive(x, kernel, k, stride)
    weight = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected_grads = torch.autograd.grad((expected * weight).sum(), (x, kernel))
    actual = involution(x, kernel, k, stride)
    grads = torch.autograd.grad((actual * weight).sum(), (x, kernel))
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(grads, expected_grads)


@pytest.mark.parametrize(("k", "stride"), [(3, 1), (3, 2), (7, 1), (7, 2)])
def test_gradcheck(method, k, stride):
    x, kernel = draw(1, 16, 3, 4, k, stride)
    assert torch.autograd.gradcheck(lambda a, b: involution(a, b, k, stride), (x, kernel))


@pytest.mark.parametrize(("size", "k", "stride"), [(8, 7, 1), (14, 7, 1), (16, 7, 2), (17, 7, 1), (20, 3, 2)])
def test_equals_unfold_at_real_sizes(size, k, stride):
    even = size + size % 2 * (stride - 1)  # unfold rounds down where the stride does not divide
    x, kernel = draw(2, 32, even, even, k, stride, torch.float32)
    expected, actual = unfolded(x, kernel, k, stride), involution(x, kernel, k, stride)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    for a, e in zip(*(torch.autograd.grad(y.square().sum(), (x, kernel)) for y in (actual, expected)), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("dtype", "eps"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_rounds_once(method, dtype, eps):
    x, kernel = draw(2, 32, 9, 9, 7, 1, dtype)
    actual = involution(x, kernel, 7)
    exact = naive(x.detach().double(), kernel.detach().double(), 7, 1)
    assert actual.dtype == dtype
    # The sum is carried in float32, so only the final rounding is left.
    torch.testing.assert_close(actual.double(), exact, rtol=1.01 * eps, atol=1e-4)
    grads = torch.autograd.grad(actual.float().square().sum(), (x, kernel))
    assert all(g.dtype == dtype and g.isfinite().all() for g in grads)


def test_mixed_types_take_the_wider_one():
    x, kernel = draw(1, 16, 5, 5, 3, 1, torch.float32)
    out = involution(x, kernel.bfloat16(), 3)
    assert out.dtype == torch.float32
    grads = torch.autograd.grad(out.sum(), (x, kernel))
    assert [g.dtype for g in grads] == [torch.float32, torch.float32]


@pytest.mark.parametrize("size", [6, 40])
def test_autocast_does_not_change_the_precision_of_the_sum(size):
    x, kernel = draw(1, 16, size, size, 3, 1, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = involution(x, kernel, 3)
    torch.testing.assert_close(out, involution(x, kernel, 3))


def test_layer_under_autocast_trains():
    layer = Involution2d(32, 7, stride=2)
    x = torch.randn(2, 32, 9, 9, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    out.float().sum().backward()
    assert out.shape == (2, 32, 5, 5)
    assert x.grad.isfinite().all() and all(p.grad is not None for p in layer.parameters())


def test_channels_last_input_and_empty_batch(method):
    x, kernel = draw(2, 32, 6, 5, 3, 1)
    last = x.detach().to(memory_format=torch.channels_last)
    torch.testing.assert_close(involution(last, kernel, 3), involution(x, kernel, 3))
    assert involution(x[:0], kernel[:0], 3).shape == (0, 32, 6, 5)


def test_meta_device_gives_shapes(method):
    out = involution(torch.empty(1, 32, 9, 9, device="meta"), torch.empty(1, 98, 5, 5, device="meta"), 7, 2)
    assert out.shape == (1, 32, 5, 5)


@pytest.mark.parametrize(
    ("shape", "kernel_shape", "k", "stride", "message"),
    [
        ((1, 24, 4, 4), (1, 9, 4, 4), 3, 1, "multiple of 16"),
        ((1, 16, 4, 4), (1, 16, 4, 4), 4, 1, "odd kernel size"),
        ((1, 16, 5, 5), (1, 9, 2, 2), 3, 2, r"expected \(1, 9, 3, 3\)"),
    ],
)
def test_misfits_are_named(shape, kernel_shape, k, stride, message):
    with pytest.raises(ModelError, match=message):
        involution(torch.zeros(shape), torch.zeros(kernel_shape), k, stride)


# --- as an operator of PyTorch ---------------------------------------------------------------------------


def test_operator_keeps_the_contract_of_pytorch():
    """Schema, fake kernel (shapes, types, strides), autograd registration, and tracing with dynamic shapes."""
    x, kernel = draw(2, 32, 6, 7, 5, 2, torch.float32)
    torch.library.opcheck(torch.ops.coadvise.involution, (x, kernel, 5, 2))


@pytest.mark.parametrize("size", [9, 20])
def test_exported_with_a_free_batch_without_our_operator(size):
    """Whoever runs the program need not have this package."""
    torch.manual_seed(0)
    layer = Involution2d(32, 7, stride=2).eval()
    example, x = torch.randn(2, 32, size, size), torch.randn(5, 32, size, size)
    exported = torch.export.export(layer, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False)
    torch.testing.assert_close(exported.module()(x), layer(x), rtol=1e-5, atol=1e-6)
    assert "coadvise" not in exported.graph_module.code


def test_compiled_code_calls_the_kernels():
    """PyTorch 2.11 takes what is compiled for what is exported."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compile(Involution2d(16, 3), fullgraph=True, backend=backend)(torch.randn(2, 16, 5, 6))
    assert len(graphs) == 1 and "coadvise.involution" in graphs[0].code


def test_layer_is_compiled_without_a_break():
    layer = Involution2d(16, 3).eval()
    x = torch.randn(2, 16, 5, 6, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    expected, actual = layer(x), compiled(x)
    torch.testing.assert_close(actual, expected)
    for a, e in zip(*(torch.autograd.grad(y.square().sum(), x) for y in (actual, expected)), strict=True):
        torch.testing.assert_close(a, e)


def test_without_a_compiler_it_says_so_once_and_goes_on(tmp_path):
    """In a process of its own, with no compiler to be found and nothing built before."""
    code = (
        "import torch; from coadvise.ops import involution\n"
        "x, k = torch.ones(1, 16, 4, 4), torch.ones(1, 9, 4, 4)\n"
        "print([float(involution(x, k, 3).sum()) for _ in range(3)])"
    )
    environment = {"PATH": str(tmp_path), "CXX": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = processes.run("-c", code, environment=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[1600.0, 1600.0, 1600.0]"  # 16 channels x (10 x 10 pairs of pixel and neighbour)
    assert done.stderr.count("there is no C++ compiler") == 1


# --- on the GPU ------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("size", "k", "stride"), [(14, 7, 1), (28, 7, 2), (13, 5, 2), (9, 3, 1)])
def test_gpu_equals_the_cpu(dtype, size, k, stride):
    x, kernel = draw(4, 64, size, size, k, stride, torch.float64)
    expected = involution(x, kernel, k, stride)
    gradients = torch.autograd.grad(expected.square().sum(), (x, kernel))
    on_gpu = [t.detach().to("cuda", dtype).requires_grad_() for t in (x, kernel)]
    actual = involution(*on_gpu, k, stride)
    found = torch.autograd.grad(actual.square().sum(), on_gpu)
    eps = {torch.float32: 1e-5, torch.bfloat16: 2**-6, torch.float16: 2**-9}[dtype]
    for a, e in zip((actual, *found), (expected, *gradients), strict=True):
        assert (a.double().cpu() - e).abs().max() <= eps * e.abs().max()


@pytest.mark.parametrize(("k", "stride"), [(1, 1), (3, 2), (7, 1), (7, 3)])
@pytest.mark.parametrize("size", [(5, 4), (20, 17)])
def test_a_program_for_other_engines_computes_the_same(k, stride, size):
    x, kernel = draw(2, 32, *size, k, stride)
    torch.testing.assert_close(involution_eager.rows_forward(x, kernel, k, stride), naive(x, kernel, k, stride))
