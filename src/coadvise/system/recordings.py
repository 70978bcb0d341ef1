"""CUDA graphs that PyTorch records of compiled code, and their memory, which nothing else may use while they are there.

They do not go with the code that has recorded them: what they gave out refers to them, in circles that Python's
collector does not see.
"""

from __future__ import annotations

import gc
import sys
from contextlib import suppress
from typing import Any

import torch


class Recordings:
    """What compiled code records from now on."""

    def __init__(self) -> None:
        self._others = _recorded()

    def free(self) -> None:
        """Free the memory; code that has recorded fails when it is called again.

        PyTorch ends all recordings of a process or none. Where some were there before, whose code may still be called,
        it is none.
        """
        if not self._others and _recorded():
            from torch._inductor.cudagraph_trees import reset_cudagraph_trees

            reset_cudagraph_trees()
        gc.collect()
        torch.cuda.empty_cache()


def _recorded() -> bool:
    """Whether compiled code of this process has recorded anything that is still there."""
    trees: Any = sys.modules.get("torch._inductor.cudagraph_trees")
    if trees is None:
        return False
    with suppress(AssertionError):  # in threads that have no place for recordings
        return any(trees.get_manager(gpu, create_if_none_exists=False) for gpu in range(torch.cuda.device_count()))
    return False
