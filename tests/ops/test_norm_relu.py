"""BatchNorm and ReLU in one operation, against PyTorch's two in float64."""

import pytest
import torch
import torch.nn.functional as F

from coadvise.ops.norm_relu import can_fuse, library, norm_relu

LAST = torch.channels_last


def plain(x, weight, bias, running_mean, running_var):
    return F.relu(F.batch_norm(x, running_mean, running_var, weight, bias, True, 0.1, 1e-5))


def fused(x, weight, bias, running_mean, running_var):
    x = x.contiguous(memory_format=LAST)
    assert can_fuse(x, weight, bias, running_mean, running_var)
    return norm_relu(x, weight, bias, running_mean, running_var, 0.1, 1e-5)


def everything(by, x, weight, bias, grad):
    """Output, gradients and running statistics."""
    inputs = [x.clone().requires_grad_(), weight.clone().requires_grad_(), bias.clone().requires_grad_()]
    running = [torch.linspace(-1, 1, len(weight), dtype=weight.dtype), torch.ones_like(weight)]
    y = by(*inputs, *running)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad), *running]


def draw(shape, mean=1.0):
    generator = torch.Generator().manual_seed(1)
    x, grad = (torch.randn(shape, generator=generator) for _ in range(2))
    weight, bias = torch.randn(2, shape[1], generator=generator).unbind()
    weight[0] = 0.0  # from what lies behind such a channel its input cannot be told
    return 2 * x + mean, weight, bias, grad


@pytest.mark.parametrize(
    ("shape", "mean"),
    [((4, 32, 2, 1), 1), ((3, 64, 5, 7), 1), ((1, 96, 33, 31), 1), ((2, 64, 20, 20), 300), ((1, 32, 256, 256), 1)],
)
def test_is_batch_norm_and_relu(shape, mean):
    x, weight, bias, grad = draw(shape, mean)
    found = everything(fused, x, weight, bias, grad)
    exact = everything(plain, *(tensor.double() for tensor in (x, weight, bias, grad)))
    limit = 2e-6 if mean == 1 else 1e-4  # x itself is rounded at the size of its mean
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.double(), b, rtol=limit, atol=limit * float(b.abs().max()))


def test_bfloat16_rounds_once():
    x, weight, bias, grad = draw((4, 32, 9, 9))
    x, grad = x.bfloat16(), grad.bfloat16()
    found = everything(fused, x, weight, bias, grad)
    exact = everything(plain, *(tensor.double() for tensor in (x, weight, bias, grad)))
    for a, b in zip(found, exact, strict=True):
        limit = 2**-8 if a.dtype == torch.bfloat16 else 2e-6
        torch.testing.assert_close(a.double(), b, rtol=1.01 * limit, atol=2e-6 * float(b.abs().max()))


def test_the_number_of_threads_changes_no_bit():
    x, weight, bias, grad = draw((2, 64, 31, 40))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(everything(fused, x, weight, bias, grad))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_gradients_of_gradients():
    x, weight, bias, grad = draw((3, 32, 4, 5))

    def penalty(by, *tensors):
        *inputs, grad = (tensor.clone().requires_grad_() for tensor in tensors)
        y = by(*inputs, torch.zeros_like(bias), torch.ones_like(bias))
        first = torch.autograd.grad(y, inputs, grad, create_graph=True)
        return torch.autograd.grad(sum(one.square().sum() for one in first), [*inputs, grad])

    found = penalty(fused, x, weight, bias, grad)
    exact = penalty(lambda *t: plain(*(one.double() for one in t)), x, weight, bias, grad)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def test_a_nan_stays_one():
    x, weight, bias, _ = draw((2, 32, 3, 3))
    x[0, 5, 1, 1] = torch.nan
    y = fused(x, weight, bias, torch.zeros(32), torch.ones(32))
    assert y[:, 5].isnan().all() and y[:, :5].isfinite().all()


def test_what_it_does_not_take():
    x = torch.randn(2, 32, 4, 4).contiguous(memory_format=LAST)
    statistics = torch.ones(32)
    assert library() is not None, "there is a compiler where this project is tested"
    assert can_fuse(x, statistics)
    assert not can_fuse(x, None)  # without weight or running statistics
    assert not can_fuse(x.contiguous(), statistics)
    assert not can_fuse(x.double(), statistics)
    assert not can_fuse(x[:, :16].contiguous(memory_format=LAST), statistics)
    assert not can_fuse(x[:1, :, :1, :1].contiguous(memory_format=LAST), statistics)
    assert not can_fuse(x.to("meta"), statistics)


def test_without_a_compiler_stems_take_the_plain_way(monkeypatch):
    monkeypatch.setattr("coadvise.ops.norm_relu.library", lambda: None)
    assert not can_fuse(torch.randn(2, 32, 4, 4).contiguous(memory_format=LAST))
