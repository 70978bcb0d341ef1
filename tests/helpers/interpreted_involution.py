"""Run by Triton's interpreter, in a process of its own: involution's GPU kernels against the loop over every pixel.

Memory that nothing has been written to is NaN.
"""

import functools
import sys

import numpy as np
import torch
import triton.language as tl
from ops.test_involution import draw, naive
from triton.runtime import interpreter

from coadvise.ops import involution_launch, involution_triton
from coadvise.ops.involution_tiles import tilings

EPS = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-11}  # it cuts bfloat16 off; a GPU rounds
# batch, channels, height, width, kernel size, stride; borders and places where a tile ends are what can go wrong
CASES = [
    *((2, 32, 5, 4, k, stride) for k, stride in ((1, 2), (3, 1), (7, 3))),
    *((1, 16, *size, k, stride) for size in ((1, 1), (7, 7)) for k, stride in ((1, 1), (3, 2), (7, 1))),
    (1, 16, 9, 9, 3, 2), (1, 16, 9, 9, 7, 1),
    (1, 16, 10, 3, 5, 1), (1, 16, 7, 11, 7, 3), (1, 16, 5, 7, 13, 2), (1, 16, 2, 3, 31, 1),
    (1, 16, 1, 56, 7, 1), (1, 16, 34, 1, 7, 2), (1, 16, 2, 50, 3, 1),
]  # fmt: skip
QUICK = (0, 1, 4, 8, 13, 16)  # each type twice


def widened(dot):
    """The interpreter's product takes the bits of bfloat16 for whole numbers."""

    def product(self, a, b, *rest):
        if a.dtype == tl.bfloat16:
            a, b = (
                interpreter.TensorHandle((t.data.astype("uint32") << 16).view("float32"), tl.float32) for t in (a, b)
            )
        return dot(self, a, b, *rest)

    return product


class Traffic:
    """Addresses that the kernels read and write, as the interpreter sees them."""

    def __init__(self):
        self.loads, self.stores = [], []
        self.load, self.store = (
            getattr(interpreter.InterpreterBuilder, f"create_masked_{what}") for what in ("load", "store")
        )

    def watch(self):
        def load(builder, pointers, mask, *rest):
            self.loads.append(pointers.data[mask.data])
            return self.load(builder, pointers, mask, *rest)

        def store(builder, pointers, value, mask, *rest):
            self.stores.append(pointers.data[mask.data])
            return self.store(builder, pointers, value, mask, *rest)

        interpreter.InterpreterBuilder.create_masked_load = load
        interpreter.InterpreterBuilder.create_masked_store = store

    def check(self, read, written, once):
        """All in the tensors; each number is written once, and those of `once` are read once at most."""
        loads, stores = np.concatenate(self.loads), np.concatenate(self.stores)
        self.loads.clear(), self.stores.clear()
        assert sum(len(within(loads, tensor)) for tensor in read) == len(loads), "a read outside the tensors"
        assert sum(len(within(stores, tensor)) for tensor in written) == len(stores), "a write outside the tensors"
        for tensor in written:
            assert len(np.unique(within(stores, tensor))) == len(within(stores, tensor)) == tensor.numel()
        assert len(np.unique(within(loads, once))) == len(within(loads, once))


def within(addresses, tensor):
    start = tensor.data_ptr()
    return addresses[(addresses >= start) & (addresses < start + tensor.numel() * tensor.itemsize)]


@functools.cache
def exact(case, dtype):
    """Input, kernel and the output's gradient, channels-last, and what is to come out of them."""
    b, c, h, w, k, stride = case
    x, kernel = draw(b, c, h, w, k, stride, dtype)
    exact_x, exact_kernel = (t.detach().double().requires_grad_() for t in (x, kernel))
    expected = naive(exact_x, exact_kernel, k, stride)
    grad = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).to(dtype)
    wanted = (expected, *torch.autograd.grad(expected, (exact_x, exact_kernel), grad.double()))
    return [t.detach().contiguous(memory_format=torch.channels_last) for t in (x, kernel, grad)], wanted


def check(case, dtype):
    (x, kernel, grad), wanted = exact(case, dtype)
    k, stride = case[-2:]
    out = involution_triton.forward(x, kernel, k, stride)
    TRAFFIC.check((x, kernel), (out,), kernel)
    found = (out, *involution_triton.backward(grad, x, kernel, k, stride))
    TRAFFIC.check((x, kernel, grad), found[1:], kernel)
    for f, e in zip(found, wanted, strict=True):
        assert f.dtype == dtype and f.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(f.double(), e, rtol=1.01 * EPS[dtype], atol=1e-5, msg=lambda m: f"{case}: {m}")


def with_every_tiling(case):
    """Not only with the one that a shape gets: the autotuner may take any; and with places counted in 64 bits."""
    for number in range(5):

        def one(shape, which, number=number):
            choice = tilings(shape, which)
            return (choice[number % len(choice)],)

        involution_launch.tilings = one
        check(case, torch.float32)
    involution_launch.Tiling.is_wide = lambda *_: True
    check(case, torch.float32)


TRAFFIC = Traffic()


def main(quick):
    interpreter.InterpreterBuilder.create_dot = widened(interpreter.InterpreterBuilder.create_dot)
    TRAFFIC.watch()
    torch.use_deterministic_algorithms(True)  # with it, new memory is NaN
    assert torch.empty(1).isnan()
    for number, case in enumerate(CASES):
        if not quick or number in QUICK:
            check(case, list(EPS)[number % 3])
    empty = torch.empty(0, 32, 6, 5), torch.empty(0, 18, 6, 5)
    assert involution_triton.forward(*empty, 3, 1).shape == empty[0].shape
    assert [g.shape for g in involution_triton.backward(empty[0], *empty, 3, 1)] == [t.shape for t in empty]
    for case in ((1, 16, 5, 10, 5, 2),) if quick else ((1, 16, 3, 17, 7, 1), (1, 16, 5, 10, 5, 2)):
        with_every_tiling(case)
    print("all equal")


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
