"""A transformer block in one operation, against timm's in float64."""

import copy
import os

import pytest
import torch
from timm.models.vision_transformer import Block

from coadvise.models.whole_block import can_fuse, first_fused, fused, is_plain
from coadvise.ops.block import code, has_bf16, uses_units
from coadvise.system.native import cpu_info

SHAPES = {  # images, tokens, of them computed, width, heads, width of the hidden layer in widths
    "cifar": (27, 19, 19, 96, 3, 4), "last": (27, 19, 3, 96, 3, 4), "digits": (5, 19, 19, 48, 3, 4),
    "one": (1, 1, 1, 16, 1, 4), "one of 32": (1, 1, 1, 32, 1, 1), "most": (3, 64, 64, 192, 3, 4),
    "48 a head": (9, 17, 1, 96, 2, 4), "narrow": (27, 19, 2, 64, 2, 0.25), "half as wide": (3, 33, 2, 64, 2, 0.5),
    "as wide": (27, 19, 19, 48, 3, 1), "like qkv": (27, 19, 19, 32, 2, 3),
}  # fmt: skip


@pytest.fixture(autouse=True)
def compiled():
    if code() is None:
        pytest.skip("no C++ compiler, or a PyTorch without sgemm")


def made(width, heads, mlp_ratio=4.0, scale=1.0):
    torch.manual_seed(0)
    block = Block(width, heads, mlp_ratio, qkv_bias=True)
    with torch.no_grad():
        for one in block.parameters():
            one.add_(scale * torch.randn_like(one) / width**0.5)
    return block


def everything(run, block, x, grad):
    x = x.clone().requires_grad_()
    y = run(block, x)
    return [y.detach(), *torch.autograd.grad(y, [x, *block.parameters()], grad)]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("threads", [1, 2])
def test_is_timms_block(shape, threads):
    images, tokens, count, width, heads, ratio = shape
    block = made(width, heads, ratio)
    x, grad = torch.randn(2, images, tokens, width)
    grad = grad[:, :count]
    assert can_fuse(block, x)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = everything(lambda one, x: first_fused(one, x, count), block, x, grad)
    finally:
        torch.set_num_threads(before)
    exact = everything(lambda one, x: one(x)[:, :count], copy.deepcopy(block).double(), x.double(), grad.double())
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=3e-6 * float(b.abs().max()))


class RoundedLinear(torch.autograd.Function):
    """A linear layer whose three products have factors in bfloat16; of a `kept` one the answers are rounded, too."""

    @staticmethod
    def forward(ctx, x, weight, bias, kept, of_qkv):
        ctx.save_for_backward(rounded(x), rounded(weight))
        ctx.of_qkv = of_qkv
        y = rounded(x) @ rounded(weight).T + bias
        return rounded(y) if kept else y

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        dx, dw = rounded(grad) @ weight, torch.einsum("bno,bni->oi", rounded(grad), x)
        # Of queries, keys and values there is no other gradient beside the rounded one.
        return dx, dw, (rounded(grad) if ctx.of_qkv else grad).sum((0, 1)), None, None


def rounded(x):
    return x.float().bfloat16().to(x.dtype)


class RoundedLayer(torch.nn.Linear):
    kept = of_qkv = False

    def forward(self, x):
        return RoundedLinear.apply(x, self.weight, self.bias, self.kept, self.of_qkv)


class RoundedSlope(torch.autograd.Function):
    """GELU, whose slope is rounded."""

    @staticmethod
    def forward(ctx, x):
        normal = torch.distributions.Normal(0.0, 1.0)
        below = normal.cdf(x)
        ctx.save_for_backward(rounded(below + x * normal.log_prob(x).exp()))
        return x * below

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0]


def rounded_attention(attention, x):
    """timm's, with rounded chances."""
    b, n, d = x.shape
    q, k, v = attention.qkv(x).reshape(b, n, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    chances = Rounded.apply(((q * attention.scale) @ k.transpose(-2, -1)).softmax(-1))
    return attention.proj((chances @ v).transpose(1, 2).reshape(b, n, d))


class Rounded(torch.autograd.Function):
    """Numbers rounded, their gradients not."""

    @staticmethod
    def forward(ctx, x):
        return rounded(x)

    @staticmethod
    def backward(ctx, grad):
        return grad


class RoundedGELU(torch.nn.GELU):
    def forward(self, x):
        return RoundedSlope.apply(x)


@pytest.fixture
def bf16():
    """The product of such factors is there on processors without matrix units, too: it is slow."""
    if not has_bf16():
        pytest.skip("a PyTorch whose library has no product of factors in bfloat16")


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("threads", [1, 2])
def test_under_autocast_factors_of_products_and_what_is_kept_are_rounded(bf16, shape, threads):
    images, tokens, count, width, heads, ratio = shape
    block = made(width, heads, ratio)
    x, grad = torch.randn(2, images, tokens, width)
    grad = grad[:, :count]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert can_fuse(block, x)
            found = everything(lambda one, x: first_fused(one, x, count), block, x, grad)
    finally:
        torch.set_num_threads(before)
    assert all(one.dtype == torch.float32 for one in found)
    oracle = copy.deepcopy(block).double()
    exact = everything(lambda one, x: one(x)[:, :count], oracle, x.double(), grad.double())
    for one in oracle.modules():
        if isinstance(one, torch.nn.Linear):
            one.__class__ = RoundedLayer
    oracle.attn.qkv.kept = oracle.attn.qkv.of_qkv = True
    oracle.mlp.act = RoundedGELU()
    oracle.attn.forward = lambda x, **mask: rounded_attention(oracle.attn, x)
    same = everything(lambda one, x: one(x)[:, :count], oracle, x.double(), grad.double())
    for a, b, c in zip(found, same, exact, strict=True):
        # Numbers near the middle between two of bfloat16 may be rounded to the other one.
        assert (a - b).norm() <= 0.5 * (a - c).norm() + 1e-6 * b.norm()


def test_matrix_units_are_used_where_linux_names_them():
    """Without this all other tests would pass by the library's product, too."""
    flags = (cpu_info("flags") or "").split()
    if not {"amx_tile", "amx_bf16", "avx512f"} <= set(flags) or "-mno-" in os.environ.get("CXX", ""):
        pytest.skip("a processor without matrix units, or a compiler that was told to leave them")
    assert uses_units()


def test_large_numbers_stay_finite():
    """Scores of hundreds and activations far from 0, where exponentials leave float32's range."""
    block, x = made(32, 2, scale=20.0), 30 * torch.randn(4, 5, 32)
    grad = torch.randn(4, 5, 32)
    found = everything(fused, block, x, grad)
    exact = everything(lambda one, x: one(x), copy.deepcopy(block).double(), x.double(), grad.double())
    plain = everything(lambda one, x: one(x), block, x, grad)
    for a, b, c in zip(found, exact, plain, strict=True):
        assert a.isfinite().all()
        error, usual = ((one.double() - b).norm() / b.norm() for one in (a, c))
        assert error <= 3 * usual + 1e-5


@pytest.mark.parametrize("part", [0, 1], ids=["queries", "keys"])
def test_what_is_no_number_shows(part):
    """As in PyTorch's softmax: a run whose attention has gone wrong must not go on as if all tokens were alike."""
    block, x = made(32, 2), torch.randn(2, 5, 32)
    with torch.no_grad():
        block.attn.qkv.bias[32 * part + 3] = torch.nan
    y = fused(block, x)
    assert y.isnan().all() and torch.autograd.grad(y.sum(), block.attn.qkv.weight)[0].isnan().any()
    with torch.no_grad():
        block.attn.qkv.bias[32 * part + 3] = 0
        block.attn.qkv.weight[:64] *= 1e20  # scores beyond float32
    block.attn.fused_attn = False  # PyTorch's kernel in one piece was seen to give numbers here (AVX2)
    assert torch.equal(fused(block, x).isnan(), block(x).isnan()) and block(x).isnan().any()


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_number_shows_when_it_is_rounded(bf16, wrong):
    """Also a NaN all of whose lower bits are set, which would carry into the sign."""
    for bits in (wrong, torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)):
        block, x = made(32, 2), torch.randn(2, 5, 32)
        with torch.no_grad():
            block.mlp.fc2.weight[3, 4] = bits
        with torch.autocast("cpu", torch.bfloat16):
            y = fused(block, x)
        others = [k for k in range(32) if k != 3]
        assert not y[..., 3].isfinite().any() and y[..., others].isfinite().all()


def test_rounding_is_pytorchs(bf16):
    """Of factors: halves to the even neighbour, beyond the largest to infinity. Seen through an MLP that adds 0."""
    block = made(16, 1)
    with torch.no_grad():
        for one in (block.attn.proj, block.mlp.fc2):
            one.weight.zero_(), one.bias.zero_()
        block.norm2.weight.zero_()
        block.mlp.fc1.weight.zero_()
        block.mlp.fc1.bias.fill_(100.0)  # GELU leaves it as it is
        bits = torch.tensor([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x7F7FFFFF, 0x00800000], dtype=torch.int32)
        weights = bits.view(torch.float32)
        block.mlp.fc2.weight[:6, 0] = weights
    x = torch.zeros(1, 1, 16)
    with torch.autocast("cpu", torch.bfloat16):
        y = fused(block, x)
    assert torch.equal(y[0, 0, :6], 100 * weights.bfloat16().float())


def test_defaults_of_type_and_device_change_nothing():
    block, x, grad = made(32, 2), torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    usual = everything(fused, block, x, grad)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = everything(fused, block, x, grad)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(found, usual, strict=True))


def test_weights_that_learn_and_weights_that_are_frozen():
    block, x, grad = made(32, 2), torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    whole = everything(fused, block, x, grad)
    block.requires_grad_(False)
    seen = x.clone().requires_grad_()
    fused(block, seen).backward(grad)
    assert seen.grad is not None and torch.equal(seen.grad, whole[1])
    block.mlp.fc1.weight.requires_grad_()
    fused(block, x).backward(grad)
    learned = dict(zip(("y", "x", *(name for name, _ in block.named_parameters())), whole, strict=True))
    assert torch.equal(block.mlp.fc1.weight.grad, learned["mlp.fc1.weight"])
    assert all(one.grad is None for name, one in block.named_parameters() if name != "mlp.fc1.weight")


def test_others_run_as_they_are():
    x = torch.randn(2, 19, 96)
    assert is_plain(made(96, 3), 19)
    for other in (
        Block(96, 3), Block(96, 3, qkv_bias=True, qk_norm=True), Block(96, 3, qkv_bias=True, drop_path=0.1),
        Block(96, 3, qkv_bias=True, init_values=1e-5), Block(96, 3, qkv_bias=True, proj_drop=0.1),
        Block(96, 12, qkv_bias=True), Block(96, 3, qkv_bias=True, act_layer=torch.nn.SiLU),
    ):  # fmt: skip
        assert not is_plain(other, 19)
        torch.manual_seed(1)
        y = other(x)
        torch.manual_seed(1)
        assert torch.equal(fused(other, x), y)
    block = made(96, 3)
    assert not is_plain(block, 65) and not can_fuse(block, x.double()) and not can_fuse(block, x.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert can_fuse(block, x) == has_bf16()
    with torch.autocast("cpu", torch.float16):
        assert not can_fuse(block, x)
    for change in (block.norm2.double, lambda: block.requires_grad_(False).to("meta")):
        change()
        assert not is_plain(block, 19)
    block, seen = made(96, 3), []
    block.attn.register_forward_hook(lambda *_: seen.append(1))
    fused(block, x)
    assert seen
