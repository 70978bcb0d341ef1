"""The GPU kernels of involution, without a GPU: run by Triton's interpreter, compiled for one, and how they start."""

import dataclasses
import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from helpers import TESTS
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._subclasses.fake_tensor import FakeTensorMode

triton = pytest.importorskip("triton", reason="Triton is not installed on this platform")

from coadvise.models.rednet import Involution2d  # noqa: E402
from coadvise.ops import involution, involution_eager, involution_triton  # noqa: E402
from coadvise.ops.involution_launch import KernelUnavailable, Launcher  # noqa: E402
from coadvise.ops.involution_tiles import Shape, tilings  # noqa: E402

OPERATOR = sys.modules["coadvise.ops.involution"]
LARGE = Shape(groups=4, height=56, width=56, out_height=56, out_width=56, kernel_size=7, stride=1)


@pytest.mark.parametrize("options", [["--quick"], pytest.param([], marks=pytest.mark.slow)])
def test_kernels_under_the_interpreter(options):
    """The kernels themselves, run by Triton on the CPU, against the loop: ragged tiles, all types, all tilings."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "helpers.interpreted_involution", *options]
    done = subprocess.run(command, env=environment, cwd=TESTS, capture_output=True, text=True)
    assert done.stdout.strip() == "all equal", done.stderr[-3000:]


# --- what it becomes on an H100 --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpu_code():
    module = pytest.importorskip("helpers.gpu_code", reason="Triton cannot compile for NVIDIA GPUs here")
    if not all((module.TOOLS / tool).exists() for tool in ("ptxas", "cuobjdump", "nvdisasm")):
        pytest.skip("Triton came without NVIDIA's tools")
    return module


def stage(channels, side, k, stride):
    out = -(-side // stride)
    return Shape(channels // 16, side, side, out, out, k, stride)


@pytest.mark.parametrize("which", ["forward", "backward"])
@pytest.mark.parametrize(
    ("shape", "most_instructions"),
    [
        (stage(64, 56, 7, 1), {"forward": 55, "backward": 115}),
        pytest.param(stage(128, 56, 7, 2), {"forward": 80, "backward": 55}, marks=pytest.mark.slow),
        pytest.param(stage(512, 7, 7, 1), {"forward": 36, "backward": 85}, marks=pytest.mark.slow),
        (stage(32, 112, 3, 1), {"forward": 38, "backward": 72}),
    ],
    ids=["56", "56 stride 2", "7", "stem"],
)
def test_code_for_an_h100(gpu_code, tmp_path, shape, most_instructions, which):
    """Matrix products on tensor cores, no register spilled, and the few instructions a pixel that the speed is from."""
    tiling = tilings(shape, which)[0]
    kernel = {"forward": involution_triton._forward, "backward": involution_triton._backward}[which]
    pointers = ["x", "kernel", "out"] if which == "forward" else ["x", "kernel", "grad", "grad_x", "grad_kernel"]
    constants = {"K": shape.kernel_size, "STRIDE": shape.stride, "WIDE": False, **tiling.constants()}
    code = gpu_code.compiled(kernel, dict.fromkeys(pointers, "*bf16"), constants, tiling.warps, tmp_path)
    assert code.spilled <= 8, "one register, once"
    assert code.registers <= 168, "twelve warps fit a multiprocessor"
    assert code.count("HG?MMA.*F32.BF16") >= 2 * tiling.steps
    # Weights are two bytes, each asked for once; all else comes 16 bytes at a time.
    band = tiling.tile_h * tiling.tile_w * tiling.rows * tiling.columns * tiling.steps // (32 * tiling.warps)
    assert code.count(r"LDG.E.U16") == band
    assert code.count(r"LDG.E(?!.U16|.128)") == 0
    pixels = tiling.tile_h * tiling.tile_w / tiling.warps
    assert sum(code.instructions.values()) / pixels <= most_instructions[which]


# --- how a kernel is started -----------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch):
    """Launches of the forward kernel, recorded in place of run; trials of the autotuner cost their `seconds`."""
    seen = SimpleNamespace(launches=[], trials=[], seconds=lambda constants: constants["TILE_H"])
    monkeypatch.setattr(involution_triton._forward, "run", lambda *_, **constants: seen.launches.append(constants))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)

    def bench(call, quantiles, warmup, rep):
        call()
        seen.trials.append(seen.launches.pop())
        return [seen.seconds(seen.trials[-1])] * 3

    monkeypatch.setattr(triton.testing, "do_bench", bench)
    monkeypatch.setattr(triton.runtime.autotuner.Autotuner, "check_disk_cache", lambda self, key, configs, run: run())
    seen.launcher = Launcher(involution_triton._forward, "forward")
    return seen


def run(started, shape=LARGE, batch=64):
    started.launcher.run((torch.empty(batch, 1),) * 3, shape)


def test_the_quickest_tiling_is_found_once(started):
    run(started)
    assert len(started.trials) == len(tilings(LARGE, "forward")) <= 5
    first = started.launches[-1]
    assert first["TILE_H"] == min(trial["TILE_H"] for trial in started.trials)
    trials = len(started.trials)
    started.launches.clear()
    run(started)
    assert len(started.launches) == 1, "one launch"
    assert len(started.trials) == trials, "what was found is kept"
    tiles = -(-56 // first["TILE_H"]) * -(-56 // first["TILE_W"])
    assert started.launches[0]["grid"] == (64 * 4 * tiles,)


def test_nothing_is_timed_where_it_must_not_be(started, monkeypatch):
    expected = tilings(LARGE, "forward")[0]
    run(started, batch=1)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    run(started)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    torch.use_deterministic_algorithms(True)
    try:
        run(started)
    finally:
        torch.use_deterministic_algorithms(False)
    assert not started.trials
    assert [launch["TILE_H"] for launch in started.launches] == [expected.tile_h] * 3
    run(started)
    assert started.trials, "now it may"


def test_too_little_memory_to_time_anything_is_met_once(started, monkeypatch):
    """Each trial would empty the allocator's cache and wait for the device."""
    tried = []

    def full(*_):
        tried.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 256 MiB")

    monkeypatch.setattr(started.launcher, "_timed", full)
    run(started)
    run(started)
    assert len(tried) == 1
    assert [launch["TILE_H"] for launch in started.launches] == [tilings(LARGE, "forward")[0].tile_h] * 2
    run(started, shape=dataclasses.replace(LARGE, stride=2, out_height=28, out_width=28))
    assert len(tried) == 2, "another shape may fit"


def test_a_kernel_that_cannot_be_built_is_replaced_and_said_once(monkeypatch):
    launcher, tries = Launcher(involution_triton._forward, "forward"), []

    def refuse(*_, **__):
        tries.append(1)
        raise RuntimeError("Failed to find C compiler. Please specify via CC")

    monkeypatch.setattr(involution_triton._forward, "run", refuse)
    monkeypatch.setattr(involution_triton, "FORWARD", launcher)
    monkeypatch.setattr(OPERATOR, "_implementation", lambda x: involution_triton)
    OPERATOR._say_once.cache_clear()
    x, kernel = torch.randn(1, 16, 5, 5), torch.randn(1, 9, 5, 5)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        out = [involution(x, kernel, 3) for _ in range(3)]
    assert len(tries) == 1
    assert len(said) == 1 and "several times slower: forward could not be built" in str(said[0].message)
    assert "Failed to find C compiler" in str(said[0].message)
    torch.testing.assert_close(out[2], involution_eager.forward(x, kernel, 3, 1))


@pytest.mark.parametrize("error", ["CUDA error: an illegal memory access", "Triton Error [CUDA]: out of memory"])
def test_errors_of_the_device_are_not_hidden(started, monkeypatch, error):
    def fail(*_, **__):
        raise RuntimeError(error)

    monkeypatch.setattr(involution_triton._forward, "run", fail)
    with pytest.raises(RuntimeError, match="CUDA") as raised:
        run(started, batch=1)
    assert not isinstance(raised.value, KernelUnavailable)


@pytest.mark.parametrize("stride", [1, 2])
def test_nothing_is_copied_on_the_way_to_the_kernels(monkeypatch, stride):
    """In a compiled layer, forward and backward: channels-last tensors reach the implementation as they are."""
    graphs, given = [], []

    class Recorder:
        @staticmethod
        def forward(x, kernel, *sizes):
            given.append((x, kernel))
            return involution_eager.forward(x, kernel, *sizes)

        @staticmethod
        def backward(grad, x, kernel, *sizes):
            given.append((grad, x, kernel))
            return involution_eager.backward(grad, x, kernel, *sizes)

    def keep(module, inputs):
        graphs.append(module)
        return make_boxed_func(module.forward)

    monkeypatch.setattr(OPERATOR, "_implementation", lambda x: Recorder)
    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep)
    layer = torch.nn.Sequential(torch.nn.Conv2d(32, 32, 1), Involution2d(32, 7, stride), torch.nn.BatchNorm2d(32))
    layer = layer.to(memory_format=torch.channels_last)
    x = torch.randn(2, 32, 8, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    torch.compile(layer, backend=backend, fullgraph=True)(x).square().sum().backward()
    assert [len(tensors) for tensors in given] == [2, 3], "one call of each operator"
    for tensor in (*given[0], *given[1]):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    copies = {"aten.clone.default", "aten.copy_.default", "aten._to_copy.default", "aten.contiguous.default"}
    names = [str(node.target) for graph in graphs for node in graph.graph.nodes]
    assert sum("coadvise.involution" in name for name in names) == 2
    assert not copies & set(names)


def test_the_operator_makes_no_copy_of_channels_last_tensors(monkeypatch):
    given = []
    monkeypatch.setattr(OPERATOR, "_run", lambda which, like, *rest: given.extend(rest[:-2]) or torch.empty_like(like))
    x, kernel = (torch.randn(2, c, 5, 4).contiguous(memory_format=torch.channels_last) for c in (32, 18))
    torch.ops.coadvise.involution(x, kernel, 3, 1)
    assert [tensor.data_ptr() for tensor in given] == [x.data_ptr(), kernel.data_ptr()]


def test_tensors_on_a_gpu_take_the_kernels():
    with FakeTensorMode():
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            assert OPERATOR._implementation(torch.empty(1, 16, 5, 5, dtype=dtype, device="cuda")) is involution_triton
        double = torch.empty(1, 16, 5, 5, dtype=torch.float64, device="cuda")
        assert OPERATOR._implementation(double) is involution_eager
