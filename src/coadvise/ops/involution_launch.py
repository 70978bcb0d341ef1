"""Starting a Triton kernel of involution with the tiling that suits a shape: the quickest of a few, or a fixed one.

Triton's autotuner times them the first time that a device sees a shape, and keeps what it found on the disk. It is not
asked where results must not depend on a clock (PyTorch's deterministic mode), where it would take part in a CUDA graph,
where nothing can be timed (the interpreter), or for so little work that the device is not full.
"""

# mypy: allow-untyped-calls
from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch
import triton
from torch import Tensor

from .involution_tiles import Pass, Shape, Tiling, tilings

_FULL = 4096  # programs that fill a large GPU
_KEY = ("height", "width", "groups", "K", "STRIDE")


class Launcher:
    """A kernel and, for each shape, type and device that has been timed, the quickest tiling."""

    def __init__(self, kernel: Any, which: Pass) -> None:
        self._kernel, self._which = kernel, which
        self._quickest: dict[tuple[Shape, torch.dtype, torch.device], Tiling] = {}

    def run(self, tensors: tuple[Tensor, ...], shape: Shape) -> Tiling:
        """Run the kernel on the tensors, the input first, and return the tiling it had."""
        batch, key = len(tensors[0]), (shape, tensors[0].dtype, tensors[0].device)
        choice = tilings(shape, self._which)
        tiling = self._quickest.get(key)
        if tiling is None and len(choice) > 1 and self._may_time(choice[0].programs(shape, self._which) * batch):
            with contextlib.suppress(torch.OutOfMemoryError):  # the autotuner wants memory to empty the cache with
                tiling = self._quickest[key] = self._timed(tensors, shape, choice)
        tiling = tiling or choice[0]
        self._kernel[(tiling.programs(shape, self._which) * batch,)](
            *tensors, *_sizes(shape), K=shape.kernel_size, STRIDE=shape.stride,
            WIDE=tiling.is_wide(shape, self._which), **_constants(tiling), num_warps=tiling.warps, num_stages=1,
        )  # fmt: skip
        return tiling

    def _may_time(self, programs: int) -> bool:
        return not (
            programs < _FULL
            or torch.are_deterministic_algorithms_enabled()
            or triton.knobs.runtime.interpret
            or torch.cuda.is_current_stream_capturing()
        )

    def _timed(self, tensors: tuple[Tensor, ...], shape: Shape, choice: tuple[Tiling, ...]) -> Tiling:
        """The quickest, by Triton's autotuner and what it remembers."""
        wide = any(tiling.is_wide(shape, self._which) for tiling in choice)
        configs = {_name(t): (triton.Config(_constants(t), num_warps=t.warps, num_stages=1), t) for t in choice}
        bench = functools.partial(triton.testing.do_bench, warmup=5, rep=20)
        tuner = triton.autotune(
            [config for config, _ in configs.values()], key=list(_KEY), do_bench=bench, cache_results=True
        )(self._kernel)

        def grid(constants: dict[str, Any]) -> tuple[int]:
            return (configs[_name(constants)][1].programs(shape, self._which) * len(tensors[0]),)

        tuner[grid](*tensors, *_sizes(shape), K=shape.kernel_size, STRIDE=shape.stride, WIDE=wide)
        return configs[_name(tuner.best_config.kwargs)][1]


def _sizes(shape: Shape) -> tuple[int, int, int, int, int]:
    return shape.height, shape.width, shape.out_height, shape.out_width, shape.groups


def _constants(tiling: Tiling) -> dict[str, int]:
    return {"TILE_H": tiling.tile_h, "TILE_W": tiling.tile_w, "ROWS": tiling.rows, "COLUMNS": tiling.columns,
            "STEPS": tiling.steps}  # fmt: skip


def _name(constants: Tiling | dict[str, Any]) -> tuple[int, ...]:
    if isinstance(constants, Tiling):
        constants = _constants(constants)
    return tuple(constants[name] for name in ("TILE_H", "TILE_W", "ROWS", "COLUMNS", "STEPS"))
