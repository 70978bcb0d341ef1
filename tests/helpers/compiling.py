"""PyTorch's compiler in a third of the time: code for single numbers, built one piece after the other."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch._inductor.config


def quickly() -> AbstractContextManager[None]:
    """In the block no code for vectors is made, nor is it tried whether this machine's compiler could make it."""
    return torch._inductor.config.patch({"compile_threads": 1, "cpp.simdlen": 1, "cpp.vec_isa_ok": True})
