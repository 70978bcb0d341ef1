"""Whether a CPU trains faster in bfloat16: measured, since instructions for it do not say so.

Of processors with AVX-512 BF16 and no matrix units, some are slower in bfloat16 than in float32 and some faster.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import platform
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CoadviseError
from .files import cache_folder, read_json, write_json
from .locks import one_at_a_time
from .native import cpu_info

# bfloat16 costs digits: it is taken where it brings at least a tenth.
_WORTH = 0.9
_ROUNDS = 4


def has_bf16() -> bool:
    """Whether the CPU has instructions for bfloat16; without them it is emulated, and always slower."""
    if getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)():
        return True
    return "bf16" in (cpu_info("Features") or "").split()  # ARM


@functools.cache
def bf16_is_faster() -> bool:
    """Whether this CPU takes clearly less time for training in bfloat16.

    The first call measures for about a second; the answer is remembered in the cache folder for this processor, version
    of PyTorch and number of threads, so that runs on one machine, and the processes of a run, all compute alike. Where
    nothing can be remembered it is no.
    """
    if not has_bf16():
        return False
    processor = [cpu_info("model name") or platform.processor(), cpu_info("flags", "Features") or platform.machine()]
    key = "\0".join([*processor, torch.__version__, str(torch.get_num_threads())])
    path = cache_folder() / f"precision-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # processes that start together measure one after the other
            stack.enter_context(one_at_a_time(path.with_suffix(".lock")))
        if (known := _remembered(path)) is not None:
            return known
        found = _measured()
        try:
            write_json(path, {"bf16": found[torch.bfloat16], "fp32": found[torch.float32]})
        except (CoadviseError, OSError):
            return False  # the processes of a run could each find something else
    return found[torch.bfloat16] <= _WORTH * found[torch.float32]


def _remembered(path: Path) -> bool | None:
    try:
        known = read_json(path)
        return float(known["bf16"]) <= _WORTH * float(known["fp32"])
    except (CoadviseError, OSError, KeyError, TypeError, ValueError):
        return None


def _measured() -> dict[torch.dtype, float]:
    """Seconds of a step of the probe in each type: the quickest of some rounds, in turn."""
    with torch.random.fork_rng(devices=[]):
        probe = _Probe()
        tokens = torch.randn(4, 197, 384)
        pictures = torch.randn(4, 64, 56, 56).contiguous(memory_format=torch.channels_last)
    found = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for number in range(_ROUNDS + 1):
        for dtype in found:
            start = time.perf_counter()
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = probe(tokens, pictures)
            loss.backward()
            seconds = time.perf_counter() - start
            if number:  # the first prepares kernels
                found[dtype] = min(found[dtype], seconds)
    return found


class _Probe(nn.Module):
    """A block of a small ViT beside one of a CNN: what students and teachers spend their time in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(384)
        self.qkv = nn.Linear(384, 3 * 384)
        self.mlp = nn.Sequential(nn.Linear(384, 1536), nn.GELU(), nn.Linear(1536, 384))
        self.convolutions = nn.Sequential(
            nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 256, 1)
        ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, tokens: Tensor, pictures: Tensor) -> Tensor:
        """Tokens (b, n, 384) and feature maps (b, 64, h, w) → a scalar."""
        q, k, v = self.qkv(self.norm(tokens)).unflatten(2, (3, 6, 64)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.mlp(attended).float().mean() + self.convolutions(pictures).float().mean()
