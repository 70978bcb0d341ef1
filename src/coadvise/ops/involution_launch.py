"""Starting a Triton kernel of involution with the tiling that suits a shape: the quickest of a few, or a fixed one.

Triton's autotuner times them the first time that a device sees a shape, and keeps what it found on the disk. It is not
asked where results must not depend on a clock (PyTorch's deterministic mode), where it would take part in a CUDA graph,
where nothing can be timed (the interpreter), or for so little work that the device is not full.
"""

# mypy: allow-untyped-calls
from __future__ import annotations

import functools
from typing import Any

import torch
import triton
from torch import Tensor

from .involution_tiles import Pass, Shape, Tiling, tilings

_FULL = 4096  # programs that fill a large GPU
_KEY = ("height", "width", "groups", "K", "STRIDE")


class KernelUnavailable(RuntimeError):
    """A kernel cannot be built or started here, for a reason that lasts: no C compiler, too little shared memory…"""


class Launcher:
    """A kernel and, for each shape, type and device that has been met, the tiling to run it with."""

    def __init__(self, kernel: Any, which: Pass) -> None:
        self._kernel, self._which = kernel, which
        self._quickest: dict[tuple[Any, ...], Tiling] = {}
        self._started: set[tuple[Any, ...]] = set()
        self._unavailable: dict[tuple[Any, ...], str] = {}

    def run(self, tensors: tuple[Tensor, ...], shape: Shape) -> None:
        """Run the kernel on the tensors, the input first.

        Raises:
            KernelUnavailable: if it cannot run here for this shape; it is not tried again.
        """
        key = (shape, tensors[0].dtype, tensors[0].device)
        if key in self._started:
            self._run(tensors, shape, key)
            return
        if key in self._unavailable:
            raise KernelUnavailable(self._unavailable[key])
        try:
            self._run(tensors, shape, key)
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError) or "CUDA error" in str(error) or "[CUDA]" in str(error):
                raise  # the device's own, as PyTorch and Triton write them: not about this kernel
            self._unavailable[key] = f"{type(error).__name__}: {error}".splitlines()[0]
            raise KernelUnavailable(self._unavailable[key]) from error
        self._started.add(key)

    def _run(self, tensors: tuple[Tensor, ...], shape: Shape, key: tuple[Any, ...]) -> None:
        choice, batch = tilings(shape, self._which), len(tensors[0])
        tiling = self._quickest.get(key)
        if tiling is None and len(choice) > 1 and self._may_time(choice[0].programs(shape, self._which) * batch):
            try:
                tiling = self._timed(tensors, shape, choice)
            except torch.OutOfMemoryError:  # the autotuner wants memory to empty the cache with, and waits for it
                tiling = choice[0]
            self._quickest[key] = tiling
        tiling = tiling or choice[0]
        self._kernel[(tiling.programs(shape, self._which) * batch,)](
            *tensors, *_sizes(shape), K=shape.kernel_size, STRIDE=shape.stride,
            WIDE=tiling.is_wide(shape, self._which), **tiling.constants(), num_warps=tiling.warps, num_stages=1,
        )  # fmt: skip

    def _may_time(self, programs: int) -> bool:
        return (
            programs >= _FULL
            and isinstance(self._kernel, triton.JITFunction)  # under the interpreter it is another class
            and not torch.are_deterministic_algorithms_enabled()
            and not torch.cuda.is_current_stream_capturing()
        )

    def _timed(self, tensors: tuple[Tensor, ...], shape: Shape, choice: tuple[Tiling, ...]) -> Tiling:
        """The quickest, by Triton's autotuner and what it remembers."""
        batch, wide = len(tensors[0]), any(tiling.is_wide(shape, self._which) for tiling in choice)
        configs = [triton.Config(t.constants(), num_warps=t.warps, num_stages=1) for t in choice]
        bench = functools.partial(triton.testing.do_bench, warmup=5, rep=20)
        tuner = triton.autotune(configs, key=list(_KEY), do_bench=bench, cache_results=True)(self._kernel)

        def named(constants: dict[str, Any]) -> Tiling:
            return next(t for t in choice if all(constants[name] == value for name, value in t.constants().items()))

        tuner[lambda constants: (named(constants).programs(shape, self._which) * batch,)](
            *tensors, *_sizes(shape), K=shape.kernel_size, STRIDE=shape.stride, WIDE=wide
        )
        return named(tuner.best_config.kwargs)


def _sizes(shape: Shape) -> tuple[int, int, int, int, int]:
    return shape.height, shape.width, shape.out_height, shape.out_width, shape.groups
