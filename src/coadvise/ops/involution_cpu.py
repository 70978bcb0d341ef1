"""Involution on the CPU by compiled code: `involution.cpp`, built once for each machine and kept in the cache folder.

Building takes a few seconds with the system's C++ compiler. Where there is none, `library` says so once and gives
None; `involution` then takes PyTorch's own operations, which give the same numbers.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor

from coadvise.files import cache_folder

SOURCE = Path(__file__).with_name("involution.cpp")
FLAGS = (
    "-O3",
    "-march=native",
    "-mprefer-vector-width=512",
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-fopenmp",
    "-Wno-psabi",
)
# Tried one after the other: clang and ARM do not know all flags, and some compilers have no OpenMP.
FLAG_SETS = (
    FLAGS,
    tuple(f for f in FLAGS if "prefer" not in f),
    tuple(f for f in FLAGS if f[:2] != "-m" and f != "-fopenmp"),
)
NAMES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16"}


class _Sizes(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in ("batch", "height", "width", "out_height", "out_width", "groups", "kernel", "stride")
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled functions, or None where they cannot be built; the reason is said once."""
    if os.environ.get("COADVISE_COMPILED") == "0":
        return None
    try:
        return ctypes.CDLL(str(_built()))
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        reason = detail.strip().splitlines()[0] if detail.strip() else type(error).__name__
        warnings.warn(
            f"involution runs without compiled code here, several times slower ({reason}); a C++ compiler (g++) "
            "and a writable cache folder would change that",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def _built() -> Path:
    """Path of the shared library, built if this machine has none of this source yet."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    if compiler is None:
        raise OSError("there is no C++ compiler")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    # Code for one CPU may not run on another, and home folders are shared between machines.
    key = "\0".join([SOURCE.read_text(), version, _cpu(), repr(FLAG_SETS)])
    path = cache_folder() / f"involution-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fresh = Path(folder) / "involution.so"
        for i, flags in enumerate(FLAG_SETS):
            try:
                command = [compiler, *flags, "-o", str(fresh), str(SOURCE)]
                subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
                break
            except subprocess.CalledProcessError:
                if i == len(FLAG_SETS) - 1:
                    raise
        os.replace(fresh, path)  # several processes may build at once: each ends with a whole file
    return path


def _cpu() -> str:
    """What decides which instructions this CPU has."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() + platform.machine()
    return next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), platform.machine())


def forward(x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Involution of channels-last float32, float64 or bfloat16 tensors (shapes as in `involution`)."""
    b, c, _, _ = x.shape
    out = torch.empty((b, c, *kernel.shape[-2:]), dtype=x.dtype, memory_format=torch.channels_last)
    _call("forward", (x, kernel, out), x, kernel, kernel_size, stride)
    return out


def backward(grad: Tensor, x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> tuple[Tensor, Tensor]:
    """Gradients with respect to input and kernel; all tensors are channels-last and of one type."""
    sums = torch.promote_types(x.dtype, torch.float32)
    grad_x = torch.zeros_like(x, dtype=sums, memory_format=torch.channels_last)
    grad_kernel = torch.empty_like(kernel, memory_format=torch.channels_last)
    _call("backward", (x, kernel, grad, grad_x, grad_kernel), x, kernel, kernel_size, stride)
    return grad_x.to(x.dtype), grad_kernel


def _call(what: str, tensors: tuple[Tensor, ...], x: Tensor, kernel: Tensor, kernel_size: int, stride: int) -> None:
    b, c, h, w = x.shape
    oh, ow = kernel.shape[-2:]
    sizes = _Sizes(b, h, w, oh, ow, c // 16, kernel_size, stride)
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    function = getattr(library(), f"{what}_{NAMES[x.dtype]}")
    function(*pointers, ctypes.byref(sizes), ctypes.c_int(torch.get_num_threads()))
